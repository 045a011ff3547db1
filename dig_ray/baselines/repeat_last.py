"""A baseline without a model: the user's own latest items again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dig_ray.baselines.baseline import Baseline, Fitted, Material
from dig_ray.baselines.config import PopularityConfig
from dig_ray.baselines.lists import Lists, rank_all
from dig_ray.baselines.popularity import DEFAULT, filler, popularity_scores
from dig_ray.evaluation.case_histories import histories

if TYPE_CHECKING:
    from dig_ray.catalog.dataset import Cases, Dataset


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


def fit(material: Material) -> Fitted:
    """Nothing to fit; the popular items that fill the lists up are counted by the settings of ``popularity``."""
    config, places = material.config, material.places

    def recommend(cases: Cases, exclude_seen: bool) -> Lists:
        return recommend_repeat_last(
            material.dataset, cases, config.top_k, exclude_seen, config.popularity, places
        )

    return Fitted(recommend)


BASELINE = Baseline(fit)
