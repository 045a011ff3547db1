"""Ranking metrics and exact top-k, pure numpy, shared by every room.

A recommender's result is ``recs``, int32 ``(C, k)``: item indices, best first, padded with -1 at the end of
a row. There is one target item per case, so recall equals the hit rate and the ideal DCG is 1. Credit is
per item: a semantic ID that two items share is no hit. Everything is kept per case, for intervals and
paired differences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b

import numpy as np

from dig_ray.errors import UserError

PAD = -1


def check_recs(recs: np.ndarray, n_cases: int, n_items: int) -> None:
    """Refuse a result that cannot be scored honestly.

    Args:
        recs: ``(C, k)`` integer item indices, -1 where a list is shorter than k.
        n_cases: how many rows there must be.
        n_items: size of the catalogue.

    Raises:
        UserError: wrong shape or row count, an index outside the catalogue, an item twice in one list, or
            padding before the end of a list.
    """
    recs = np.asarray(recs)
    if recs.ndim != 2 or not np.issubdtype(recs.dtype, np.integer):
        raise UserError(f"recommendations must be integers (cases, k), not {recs.dtype} {recs.shape}")
    if len(recs) != n_cases:
        raise UserError(
            f"recommendations have {len(recs)} rows but there are {n_cases} cases; give every case one row"
        )
    bad = (recs < PAD) | (recs >= n_items)
    if bad.any():
        row, col = (int(v[0]) for v in np.nonzero(bad))
        raise UserError(
            f"recommendations[{row}, {col}] is item {int(recs[row, col])}, "
            f"outside the catalogue of {n_items} items"
        )
    padded = recs == PAD
    if (padded[:, :-1] & ~padded[:, 1:]).any():
        row = int(np.nonzero((padded[:, :-1] & ~padded[:, 1:]).any(axis=1))[0][0])
        raise UserError(f"recommendations row {row} has padding (-1) before an item; pad only at the end")
    ordered = np.sort(recs, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != PAD)
    if twice.any():
        row, col = (int(v[0]) for v in np.nonzero(twice))
        item = int(ordered[row, col])
        raise UserError(f"recommendations row {row} lists item {item} twice; keep it once, best first")


def rank_of_target(recs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """0-based position of each case's target in its list, -1 where it is absent.

    Args:
        recs: int ``(C, k)``, padded -1.
        targets: int ``(C,)`` item indices.

    Returns:
        int64 ``(C,)``.
    """
    recs, targets = np.asarray(recs), np.asarray(targets)
    if recs.ndim != 2 or targets.shape != (len(recs),):
        raise ValueError(f"recs {recs.shape} and targets {targets.shape} do not go together")
    if not recs.size:
        return np.full(len(recs), -1, np.int64)
    hit = (recs == targets[:, None]) & (recs != PAD)
    return np.where(hit.any(axis=1), hit.argmax(axis=1), -1).astype(np.int64)


def _gain(ranks: np.ndarray, k: int, value: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    ranks = np.asarray(ranks, dtype=np.int64)
    hit = (ranks >= 0) & (ranks < k)
    return np.where(hit, value(np.where(hit, ranks, 0)), 0.0)


def hit_rate(ranks: np.ndarray, k: int) -> np.ndarray:
    """1 where the target is among the first k, else 0; float64 ``(C,)``. With one target this is Recall@k."""
    return _gain(ranks, k, lambda r: np.ones(r.shape))


def ndcg(ranks: np.ndarray, k: int) -> np.ndarray:
    """``1 / log2(rank + 2)`` (0-based rank) within the first k, else 0; float64 ``(C,)``."""
    return _gain(ranks, k, lambda r: 1.0 / np.log2(r + 2.0))


def mrr(ranks: np.ndarray, k: int) -> np.ndarray:
    """``1 / (rank + 1)`` (0-based rank) within the first k, else 0; float64 ``(C,)``."""
    return _gain(ranks, k, lambda r: 1.0 / (r + 1.0))


METRICS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {"HR": hit_rate, "NDCG": ndcg, "MRR": mrr}


def per_case(ranks: np.ndarray, ks: Sequence[int]) -> tuple[list[str], np.ndarray]:
    """All metrics at all cut-offs, per case: names such as ``"NDCG@10"`` and float64 ``(C, len(names))``."""
    names = [f"{name}@{k}" for name in METRICS for k in ks]
    ranks = np.asarray(ranks)
    if not names:
        return names, np.zeros((len(ranks), 0))
    return names, np.stack([metric(ranks, k) for metric in METRICS.values() for k in ks], axis=1)


def mean_metrics(ranks: np.ndarray, ks: Sequence[int] = (1, 5, 10, 20)) -> dict[str, float]:
    """Mean over cases of HR, NDCG and MRR at each k, as ``{"NDCG@10": 0.048}``; 0 without cases."""
    names, values = per_case(ranks, ks)
    means = values.mean(axis=0) if len(values) else np.zeros(len(names))
    return {name: float(value) for name, value in zip(names, means, strict=True)}


IN_CACHE = 1 << 18
"""Scores that are ranked at once: their 64-bit keys then stay in a processor's cache, which is twice as fast."""


def tie_places(item_ids: Iterable[str], seed: int) -> np.ndarray:
    """Who comes first of items with equal scores: a place for each item, by a hash of the seed and its id; int64 ``(N,)``.

    It depends on nothing else, so neither the order of the catalogue nor what else is in it favours an item.
    """
    salt = seed.to_bytes(8, "little", signed=True)
    digests = [
        blake2b(str(item).encode("utf-8", "surrogatepass"), digest_size=8, key=salt) for item in item_ids
    ]
    keys = np.array([int.from_bytes(digest.digest(), "little") for digest in digests], dtype=np.uint64)
    places = np.empty(len(keys), np.int64)
    places[np.argsort(keys, kind="stable")] = np.arange(len(keys))
    return places


def top_k(scores: np.ndarray, k: int, places: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The k best columns of each row: by score, highest first, and equal scores by ``places`` or, without them, by lower item index.

    A score of ``-inf`` (or NaN) means "not to be recommended". Exact and deterministic whatever the chunking:
    score and place are packed into one 64-bit key, so that a plain partition settles ties.

    Args:
        scores: float32 ``(B, N)``.
        k: how many; may exceed N.
        places: int ``(N,)``, a permutation, such as that of ``tie_places``.

    Returns:
        items int32 ``(B, k)`` padded -1, and their scores float32 ``(B, k)`` padded ``-inf``.
    """
    rows, n = scores.shape
    kept = min(k, n)
    items = np.full((rows, k), PAD, np.int32)
    values = np.full((rows, k), -np.inf, np.float32)
    if not rows or not kept:
        return items, values
    place = np.arange(n) if places is None else np.asarray(places, np.int64)
    at = np.empty(n, np.int64)
    at[place] = np.arange(n)
    low_bits = (np.uint32(0xFFFFFFFF) - place.astype(np.uint32)).astype(np.uint64)
    step = max(1, IN_CACHE // n)
    for low in range(0, rows, step):
        part = slice(low, low + step)
        chunk = np.ascontiguousarray(scores[part], dtype=np.float32)
        _top_k(chunk, kept, low_bits, at, items[part], values[part])
    return items, values


def _top_k(
    scores: np.ndarray,
    kept: int,
    low_bits: np.ndarray,
    at: np.ndarray,
    items: np.ndarray,
    values: np.ndarray,
) -> None:
    """``top_k`` of a few rows, into the first ``kept`` columns of ``items`` and ``values``; ``at`` says which item has a place."""
    n = scores.shape[1]
    bits = (scores + np.float32(0)).view(np.uint32)  # + 0 turns -0.0 into 0.0, which must tie with it
    ordered = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))  # same order as the floats
    ordered[np.isnan(scores) | np.isneginf(scores)] = 0
    keys = ordered.astype(np.uint64) << np.uint64(32)
    keys |= low_bits
    if kept < n:
        keys = np.partition(keys, n - kept, axis=1)[:, n - kept :]
    keys = np.sort(keys, axis=1)[:, ::-1]
    found = at[(np.uint64(0xFFFFFFFF) - (keys & np.uint64(0xFFFFFFFF))).astype(np.int64)]
    usable = (keys >> np.uint64(32)) != 0
    items[:, :kept] = np.where(usable, found, PAD)
    values[:, :kept] = np.where(usable, np.take_along_axis(scores, found, axis=1), -np.inf)
