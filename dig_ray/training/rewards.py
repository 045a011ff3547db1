"""Rewards of rolled-out Semantic IDs, as pure functions of arrays.

A reward function takes a ``RolloutBatch`` and returns float (B, G). ``weighted_rewards`` sums several by their weights and keeps each one,
raw and weighted. Anybody's own function joins them by its import path.

Published (DeepInterestGR-2, QARM):
``r = 1[dec(s)=t] + lambda_valid * 1[s decodes] + lambda_pref * LCP(s, t) / L + alpha * q_t * 1[dec(s)=t]``.
Our choice: the ``ungated`` and ``graded`` variants of the quality term, and the formula of DeepInterestGR-1's Interest-Aware Reward, which
its paper names and does not print.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

import numpy as np

from dig_ray.errors import UserError

if TYPE_CHECKING:
    from dig_ray.semantic_ids.sid_catalog import SidCatalog


@dataclass(frozen=True)
class RolloutBatch:
    """B prompts with G rollouts each.

    Attributes:
        items: int64 (B, G), the item that each rollout decodes to, -1 where it decodes to none.
        codes: int64 (B, G, L), its first L codes, as SID tokens; -1 where it has fewer.
        targets: int64 (B,), the item that came next.
        users: int64 (B,), whose histories they are.
        rows: int64 (B,), the prompts' numbers in the training set.
        log_probs: float (B, G), of each rollout under the policy that made it.
        sids: the catalogue's Semantic IDs.
    """

    items: np.ndarray
    codes: np.ndarray
    targets: np.ndarray
    users: np.ndarray
    rows: np.ndarray
    log_probs: np.ndarray
    sids: SidCatalog


Reward = Callable[[RolloutBatch], np.ndarray]


def batch_of_items(
    sids: SidCatalog,
    items: np.ndarray,
    targets: np.ndarray,
    users: np.ndarray | None = None,
    rows: np.ndarray | None = None,
    log_probs: np.ndarray | None = None,
) -> RolloutBatch:
    """A batch whose rollouts are items int64 (B, G), as constrained decoding gives them."""
    targets = np.asarray(targets, np.int64)
    nothing = np.zeros(len(targets), np.int64)
    return RolloutBatch(
        items=np.asarray(items, np.int64),
        codes=np.where((items >= 0)[..., None], sids.token_table[items, : sids.levels], -1).astype(np.int64),
        targets=targets,
        users=nothing if users is None else users,
        rows=nothing if rows is None else rows,
        log_probs=np.zeros(np.shape(items)) if log_probs is None else log_probs,
        sids=sids,
    )


def batch_of_tokens(
    sids: SidCatalog, tokens: Sequence[Sequence[Sequence[int]]], targets: Sequence[int]
) -> RolloutBatch:
    """A batch of SID token sequences that may be anything: too short, too long, or of no item.

    Args:
        sids: the catalogue.
        tokens: B lists of G sequences.
        targets: B items.
    """
    groups = max(map(len, tokens))
    items = np.full((len(tokens), groups), -1, np.int64)
    codes = np.full((len(tokens), groups, sids.levels), -1, np.int64)
    for row, group in enumerate(tokens):
        for number, sequence in enumerate(group):
            first = list(sequence)[: sids.levels]
            codes[row, number, : len(first)] = first
            with suppress(KeyError):
                items[row, number] = sids.item_of(sequence)
    known = np.asarray(targets, np.int64)
    nothing = np.zeros(len(known), np.int64)
    return RolloutBatch(items, codes, known, nothing, nothing, np.zeros(items.shape), sids)


def exact(batch: RolloutBatch) -> np.ndarray:
    """``1[dec(s) = t]``, float (B, G)."""
    return (batch.items == batch.targets[:, None]).astype(float)


def valid(batch: RolloutBatch) -> np.ndarray:
    """``1[s decodes to an item]``; 1 everywhere under constrained decoding, and so without effect on advantages."""
    return (batch.items >= 0).astype(float)


def prefix(batch: RolloutBatch) -> np.ndarray:
    """``LCP(s, t) / L``: codes shared with the target before the first difference. The collision suffix never counts."""
    target = batch.sids.token_table[batch.targets, : batch.sids.levels]
    same = batch.codes == target[:, None, :]
    return np.asarray(np.logical_and.accumulate(same, axis=2).mean(axis=2))


def quality(q: np.ndarray, variant: str) -> Reward:
    """QARM's relevance-gated quality, and what else could be done with it.

    Args:
        q: float (N,), an item's quality in [0, 1].
        variant: ``gated`` (published): the target's quality, for a hit only. ``ungated``: the quality of the item decoded to, hit or not.
            ``graded``: that times ``LCP / L``.
    """

    def reward(batch: RolloutBatch) -> np.ndarray:
        if variant == "gated":
            return np.asarray(q[batch.targets][:, None] * exact(batch))
        own = np.where(batch.items >= 0, q[batch.items], 0.0)
        return own if variant == "ungated" else own * prefix(batch)

    return reward


def interest(item_vectors: Sequence[np.ndarray], user_vectors: Sequence[np.ndarray]) -> Reward:
    """DeepInterestGR-1's Interest-Aware Reward (our formula): how near the item's interests come to one of the user's.

    ``max over the user's positive interests and the item's interests of their cosine``, cut to [0, 1]; 0 where either has none. Not
    gated on the hit.

    Args:
        item_vectors: N arrays float32 (n_i, D) of unit rows.
        user_vectors: the same for users; positive interests only.
    """
    width = max((len(v) for v in item_vectors), default=0)
    dimensions = next((v.shape[1] for v in (*item_vectors, *user_vectors) if len(v)), 1)
    padded = np.zeros((len(item_vectors), max(width, 1), dimensions), np.float32)
    for row, vectors in enumerate(item_vectors):
        padded[row, : len(vectors)] = vectors

    def reward(batch: RolloutBatch) -> np.ndarray:
        out = np.zeros(batch.items.shape)
        for row, user in enumerate(batch.users.tolist()):
            wanted = user_vectors[user]
            if len(wanted):
                near = padded[batch.items[row]] @ wanted.T  # (G, n_i, n_u); padding gives 0
                out[row] = np.clip(near.max(axis=(1, 2)), 0.0, 1.0)
        return np.where(batch.items >= 0, out, 0.0)

    return reward


def rank_penalty(batch: RolloutBatch) -> np.ndarray:
    """MiniOneRec's rank-aware penalty, float (B, G): in a group with a hit, the misses share -1, the likelier the more.

    The miss at rank k (from 1, by log-probability) gets ``-(1 / log2(k + 1)) / sum_j 1 / log2(j + 1)``; hits and groups without one get 0.
    """
    hit = exact(batch) > 0
    order = np.argsort(-batch.log_probs, axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(1, order.shape[1] + 1)[None, :], axis=1)
    share = 1.0 / np.log2(np.arange(1, order.shape[1] + 1) + 1)
    penalty = -(1.0 / np.log2(ranks + 1)) / share.sum()
    return np.asarray(np.where(hit.any(axis=1, keepdims=True) & ~hit, penalty, 0.0))


def load_reward(path: str) -> Reward:
    """A reward function by its import path, ``package.module:name``.

    Raises:
        UserError: there is none.
    """
    module, _, name = path.partition(":")
    if not name:
        raise UserError(f"grpo.rewards.custom: {path!r} is no import path; write package.module:function")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"grpo.rewards.custom: {path} cannot be imported ({error}); the workers must be able to import it too"
        ) from None
    if not callable(found):
        raise UserError(f"grpo.rewards.custom: {path} is {type(found).__name__}, not a function")
    reward: Reward = found
    return reward


class RewardError(Exception):
    """A reward function failed; the sentence names it and the row."""


@dataclass(frozen=True)
class Rewards:
    """Rewards of a batch.

    Attributes:
        total: float (B, G), the weighted sum.
        raw: each function's own values, float (B, G), by name.
        weighted: those times their weights.
    """

    total: np.ndarray
    raw: dict[str, np.ndarray]
    weighted: dict[str, np.ndarray]


def weighted_rewards(functions: Mapping[str, tuple[Reward, float]], batch: RolloutBatch) -> Rewards:
    """The weighted sum of several rewards.

    Args:
        functions: name -> (function, weight).
        batch: what they judge.

    Raises:
        RewardError: a function raised, returned another shape, or something that is no finite number; the function and the row are named.
    """
    raw: dict[str, np.ndarray] = {}
    for name, (function, _) in functions.items():
        try:
            values = np.asarray(function(batch), float)
        except Exception as error:
            raise RewardError(
                f"reward {name} raised {type(error).__name__}: {error} (training rows {batch.rows[0]} to {batch.rows[-1]} were given)"
            ) from error
        if values.shape != batch.items.shape:
            raise RewardError(
                f"reward {name} returned an array of shape {values.shape} for {batch.items.shape[0]} prompts with "
                f"{batch.items.shape[1]} rollouts each; it must be {batch.items.shape}"
            )
        if not np.isfinite(values).all():
            row, number = np.argwhere(~np.isfinite(values))[0]
            raise RewardError(
                f"reward {name} is {values[row, number]} for rollout {number} of training row {batch.rows[row]} (item "
                f"{batch.sids.item_ids[batch.items[row, number]]}); it must be a finite number"
            )
        raw[name] = values
    weighted = {name: raw[name] * weight for name, (_, weight) in functions.items()}
    total = np.sum(list(weighted.values()), axis=0) if weighted else np.zeros(batch.items.shape)
    return Rewards(total=total, raw=raw, weighted=weighted)
