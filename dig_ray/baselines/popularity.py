"""Two baselines without a model: the most frequent items, and the user's own latest items again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dig_ray import ranking
from dig_ray.baselines.config import PopularityConfig
from dig_ray.evaluation.histories import histories

if TYPE_CHECKING:
    from dig_ray.catalog.dataset import Cases, Dataset

CHUNK_SCORES = 1 << 24  # dense scores held at once: 64 MB as float32, 128 MB as sort keys
DEFAULT = PopularityConfig()


def chunk_rows(n_items: int) -> int:
    """How many cases are scored at once; results do not depend on it."""
    return max(1, CHUNK_SCORES // max(1, n_items))


def popularity_scores(dataset: Dataset, config: PopularityConfig = DEFAULT) -> np.ndarray:
    """Training events per item, float64 ``(n_items,)``; with ``half_life`` an event ``a`` places before its user's
    last training event counts ``0.5 ** (a / half_life)``."""
    offsets, events = dataset.train_sequences()
    weight = None
    if config.half_life is not None:
        length = np.diff(offsets)
        age = np.repeat(offsets[1:], length) - 1 - np.arange(len(events))
        weight = 0.5 ** (age / config.half_life)
    return np.bincount(events, weights=weight, minlength=dataset.n_items).astype(np.float64)


def filler(popularity: np.ndarray) -> np.ndarray:
    """Scores that only order the items by popularity and stay below every real score: ``-(place + 1)``, float32.

    Equal counts keep item order. A recommender that scores few items positive is filled up by it.
    """
    order = np.argsort(-popularity, kind="stable")
    scores = np.empty(len(popularity), np.float32)
    scores[order] = -1.0 - np.arange(len(popularity), dtype=np.float32)
    return scores


def recommend_popular(
    dataset: Dataset, cases: Cases, k: int, exclude_seen: bool, config: PopularityConfig = DEFAULT
) -> tuple[np.ndarray, np.ndarray]:
    """The same most popular items for everybody, minus each one's own history with ``exclude_seen``.

    Returns:
        items int32 ``(C, k)`` padded -1, and scores float32 ``(C, k)`` (minus the place in the popularity order).
    """
    return _fill(dataset, cases, k, exclude_seen, filler(popularity_scores(dataset, config)), repeat=False)


def recommend_repeat_last(
    dataset: Dataset, cases: Cases, k: int, exclude_seen: bool, config: PopularityConfig = DEFAULT
) -> tuple[np.ndarray, np.ndarray]:
    """The items of the history, newest first, each once, then the popular ones.

    With ``exclude_seen`` nothing of the history is left, and it equals popularity. Scores of repeated items are
    ``1 / (1 + age)``.
    """
    return _fill(dataset, cases, k, exclude_seen, filler(popularity_scores(dataset, config)), repeat=True)


def _fill(
    dataset: Dataset, cases: Cases, k: int, exclude_seen: bool, base: np.ndarray, repeat: bool
) -> tuple[np.ndarray, np.ndarray]:
    count, step = len(cases.target), chunk_rows(dataset.n_items)
    items = np.full((count, k), ranking.PAD, np.int32)
    values = np.full((count, k), -np.inf, np.float32)
    for low in range(0, count, step):
        high = min(low + step, count)
        scores = np.repeat(base[None], high - low, axis=0)
        row, item, age = histories(dataset.events, cases, low, high)
        if exclude_seen:
            scores[row, item] = -np.inf
        elif repeat:
            scores[row[::-1], item[::-1]] = (1.0 / (1.0 + age[::-1])).astype(np.float32)  # the newest wins
        items[low:high], values[low:high] = ranking.top_k(scores, k)
    return items, values
