"""What a reward judges: a batch of rolled-out Semantic IDs, as arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

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
"""What each rollout of a batch is worth, float (B, G)."""


def batch_of_items(
    sids: SidCatalog,
    items: np.ndarray,
    targets: np.ndarray,
    users: np.ndarray | None = None,
    rows: np.ndarray | None = None,
    log_probs: np.ndarray | None = None,
) -> RolloutBatch:
    """A batch whose rollouts are items, as constrained decoding gives them.

    Args:
        sids: the catalogue's Semantic IDs.
        items: int64 (B, G), -1 where a rollout is no item.
        targets: int64 (B,), the item that came next.
        users: int64 (B,), whose histories they are; 0 everywhere where it is not given.
        rows: int64 (B,), the prompts' numbers in the training set; 0 everywhere where it is not given.
        log_probs: float (B, G), of each rollout under the policy that made it; 0 everywhere where it is not given.
    """
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
        sids: the catalogue's Semantic IDs.
        tokens: the tokens of each of B prompts, G sequences of SID tokens, numbered from 0.
        targets: the item that came next, of each prompt.
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
