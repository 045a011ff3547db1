"""A baseline without a model: the most frequent items, and what fills up the lists of others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dig_ray.baselines.baseline import Baseline, Fitted, Material
from dig_ray.baselines.config import PopularityConfig
from dig_ray.baselines.lists import Lists, rank_all

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


def fit(material: Material) -> Fitted:
    """Nothing to fit: items are counted when lists are asked for."""
    config, places = material.config, material.places

    def recommend(cases: Cases, exclude_seen: bool) -> Lists:
        return recommend_popular(
            material.dataset, cases, config.top_k, exclude_seen, config.popularity, places
        )

    return Fitted(recommend)


BASELINE = Baseline(fit)
