"""Two baselines without a model: the most frequent items, and the user's own latest items again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dig_ray.baselines.config import PopularityConfig
from dig_ray.baselines.lists import Lists, rank_all
from dig_ray.evaluation.case_histories import histories

if TYPE_CHECKING:
    from dig_ray.catalog.dataset import Cases, Dataset

DEFAULT = PopularityConfig()


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
    """Scores that only order the items by popularity and stay below every real score: -1 for the highest count, -2 for the next one.

    Float32 ``(N,)``; items of one count have one score. A recommender that scores few items positive is filled up by it.
    """
    return -1.0 - np.unique(-popularity, return_inverse=True)[1].astype(np.float32)


def recommend_popular(
    dataset: Dataset,
    cases: Cases,
    k: int,
    exclude_seen: bool,
    config: PopularityConfig = DEFAULT,
    places: np.ndarray | None = None,
) -> Lists:
    """The same most popular items for everybody, minus each one's own history with ``exclude_seen``; scores are those of ``filler``."""
    base = filler(popularity_scores(dataset, config))

    def score(low: int, high: int) -> np.ndarray:
        return np.repeat(base[None], high - low, axis=0)

    return rank_all(score, dataset, cases, k, exclude_seen, places)


def recommend_repeat_last(
    dataset: Dataset,
    cases: Cases,
    k: int,
    exclude_seen: bool,
    config: PopularityConfig = DEFAULT,
    places: np.ndarray | None = None,
) -> Lists:
    """The items of the history, newest first, each once, then the popular ones.

    With ``exclude_seen`` nothing of the history is left, and it equals popularity. Scores of repeated items are
    ``1 / (1 + age)``.
    """
    base = filler(popularity_scores(dataset, config))

    def score(low: int, high: int) -> np.ndarray:
        scores = np.repeat(base[None], high - low, axis=0)
        row, item, age = histories(dataset.events, cases, low, high)
        scores[row[::-1], item[::-1]] = (1.0 / (1.0 + age[::-1])).astype(np.float32)  # the newest wins
        return scores

    return rank_all(score, dataset, cases, k, exclude_seen, places)
