"""The rewards of GRPO: what can be set about them, what each one computes, and the table ``REWARDS`` of all of them.

A reward function takes a ``RolloutBatch`` and returns float (B, G). A new one is a function, its row in ``REWARDS`` and the field of
``RewardsConfig`` that holds its weight, all in this file. Anybody's own function joins them by its import path, without any of these.

Published (DeepInterestGR-2, QARM):
``r = 1[dec(s)=t] + lambda_valid * 1[s decodes] + lambda_pref * LCP(s, t) / L + alpha * q_t * 1[dec(s)=t]``.
Our choice: the ``ungated`` and ``graded`` variants of the quality term, and the formula of DeepInterestGR-1's Interest-Aware Reward, which
its paper names and does not print.

Settings are read before anything runs, so numpy is imported where it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from dig_ray.base import Config
from dig_ray.errors import UserError
from dig_ray.training.reward_evidence import INTERESTS, QUALITY, Evidence

if TYPE_CHECKING:
    import numpy as np

    from dig_ray.training.rollout_batch import Reward, RolloutBatch


class RewardsConfig(Config):
    """What a rollout is worth: a weighted sum.

    Attributes:
        exact: weight of the hit; 1 as published.
        lambda_valid: weight of being an item at all (unpublished; under constrained rollouts it cancels).
        lambda_pref: weight of the shared prefix, LCP / L (unpublished).
        alpha: weight of the quality term.
        quality: how that is given: ``gated`` by the hit (published), ``ungated``, ``graded`` by the prefix, or ``none``.
        missing_quality: quality, in [0, 1], of items that have none; when unset, they are an error.
        gamma: weight of DeepInterestGR-1's Interest-Aware Reward, which reads mined interests of users and items (our formula).
        rank_aware: weight of MiniOneRec's penalty for likely misses beside a hit.
        custom: import path ``package.module:function`` of anybody's own reward -> its weight.
    """

    exact: float = Field(1.0, ge=0)
    lambda_valid: float = Field(0.2, ge=0)
    lambda_pref: float = Field(0.3, ge=0)
    alpha: float = Field(0.5, ge=0)
    quality: Literal["gated", "ungated", "graded", "none"] = "none"
    missing_quality: float | None = Field(None, ge=0, le=1)
    gamma: float = Field(0.0, ge=0)
    rank_aware: float = Field(0.0, ge=0)
    custom: dict[str, float] = {}

    @property
    def asked(self) -> tuple[RewardRow, ...]:
        """The rewards of the table that these settings ask for, in its order."""
        return tuple(row for row in REWARDS if getattr(self, row.weight) and row.possible(self))


def exact(batch: RolloutBatch) -> np.ndarray:
    """``1[dec(s) = t]``, float (B, G)."""
    return (batch.items == batch.targets[:, None]).astype(float)


def valid(batch: RolloutBatch) -> np.ndarray:
    """``1[s decodes to an item]``, float (B, G); 1 everywhere under constrained decoding, and so without effect on advantages."""
    return (batch.items >= 0).astype(float)


def prefix(batch: RolloutBatch) -> np.ndarray:
    """``LCP(s, t) / L``, float (B, G): codes shared with the target before the first difference. The collision suffix never counts."""
    import numpy as np

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
    import numpy as np

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
        item_vectors: N arrays float32 (n_i, D), one an item, of unit rows, one an interest; an item may have none.
        user_vectors: the same for each user; positive interests only.
    """
    import numpy as np

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
    import numpy as np

    hit = exact(batch) > 0
    order = np.argsort(-batch.log_probs, axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(1, order.shape[1] + 1)[None, :], axis=1)
    share = 1.0 / np.log2(np.arange(1, order.shape[1] + 1) + 1)
    penalty = -(1.0 / np.log2(ranks + 1)) / share.sum()
    return np.asarray(np.where(hit.any(axis=1, keepdims=True) & ~hit, penalty, 0.0))


@dataclass(frozen=True)
class RewardRow:
    """One reward of the platform's own.

    Attributes:
        name: under which its figures are logged, ``rewards/NAME/raw`` and ``rewards/NAME/weighted``.
        weight: the field of ``RewardsConfig`` that holds its weight; a weight of 0 leaves it out.
        make: the function, of the settings and the evidence that it reads (None where it reads none).
        reads: the evidence; None where rollouts are enough.
        possible: of the settings, whether it is computed at all where it has a weight.
        tells_apart: whether it can differ between rollouts of a prompt, which are all items; else nothing is learnt from it alone.
        logs_change: whether it is also logged what it changes about advantages, as ``NAME/advantage_change``.
    """

    name: str
    weight: str
    make: Callable[[RewardsConfig, Any], Reward]
    reads: Evidence | None = None
    possible: Callable[[RewardsConfig], bool] = lambda settings: True
    tells_apart: bool = True
    logs_change: bool = False


REWARDS = (
    RewardRow("exact", "exact", lambda settings, _: exact),
    RewardRow("valid", "lambda_valid", lambda settings, _: valid, tells_apart=False),
    RewardRow("prefix", "lambda_pref", lambda settings, _: prefix),
    RewardRow(
        "quality",
        "alpha",
        lambda settings, found: quality(found, settings.quality),
        reads=QUALITY,
        possible=lambda settings: settings.quality != "none",
        logs_change=True,
    ),
    RewardRow("interest", "gamma", lambda settings, found: interest(*found), reads=INTERESTS),
    RewardRow("rank", "rank_aware", lambda settings, _: rank_penalty),
)


def reward_functions(settings: RewardsConfig, evidence: Mapping[str, Any]) -> dict[str, tuple[Reward, float]]:
    """Name -> (function, weight) of every reward that the settings ask for.

    Args:
        settings: weights and variants.
        evidence: what the rewards read, by the names of ``reward_evidence``; all that these settings ask for.

    Raises:
        UserError: a custom one cannot be imported.
    """
    out: dict[str, tuple[Reward, float]] = {}
    for row in settings.asked:
        found = None if row.reads is None else evidence[row.reads.name]
        out[row.name] = row.make(settings, found), getattr(settings, row.weight)
    for path, weight in settings.custom.items():
        out[path] = load_reward(path), weight
    return out


def load_reward(path: str) -> Reward:
    """A reward function by its import path, ``package.module:name``.

    Raises:
        UserError: the path has no name in it, the module or the name cannot be imported, or what is there cannot be called.
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
