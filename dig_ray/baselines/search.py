"""How the settings of the baselines were chosen: one setting after the other, on validation cases only.

A coordinate search is enough for a handful of settings that hardly interact, and it never looks at the test cases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from dig_ray import ranking
from dig_ray.base import Config
from dig_ray.baselines import item_knn
from dig_ray.baselines.config import ItemKnnConfig, SASRecConfig

if TYPE_CHECKING:
    from dig_ray.catalog.dataset import Dataset

C = TypeVar("C", bound=Config)

ITEM_KNN_GRID: dict[str, Sequence[Any]] = {
    "window": (5, 20, 50),
    "distance_power": (0.25, 0.5, 0.75, 1.0),
    "backward": (0.0, 0.25, 0.4, 1.0),
    "source_power": (0.0, 0.25, 0.5),
    "target_power": (0.0, 0.12, 0.25, 0.5),
    "damping": (1.0, 5.0, 10.0),
    "decay": (0.4, 0.5, 0.6, 0.8),
}


def coordinate_search(
    start: C,
    grid: Mapping[str, Sequence[Any]],
    score: Callable[[C], float],
    rounds: int = 2,
    log: Callable[[str], None] = print,
) -> tuple[C, float]:
    """Try every value of each setting in turn and keep what scores higher; stop when a round changes nothing.

    Args:
        start: first settings.
        grid: values of each setting, in the order in which they are tried.
        score: higher is better; called once per distinct setting.
        rounds: passes over the grid, at most.
        log: gets one line per trial.

    Returns:
        the best settings and their score.
    """
    tried: dict[str, float] = {}

    def value(config: C) -> float:
        key = config.model_dump_json()
        if key not in tried:
            tried[key] = score(config)
        return tried[key]

    best, best_score = start, value(start)
    for _ in range(rounds):
        before = best
        for name, choices in grid.items():
            for choice in choices:
                config = type(best).model_validate({**best.model_dump(), name: choice})
                found = value(config)
                log(f"{name}={choice}: {found:.4f} (best {max(found, best_score):.4f})")
                if found > best_score:
                    best, best_score = config, found
        if best == before:
            break
    return best, best_score


def validation_of_item_knn(dataset: Dataset, exclude_seen: bool = True) -> Callable[[ItemKnnConfig], float]:
    """Validation NDCG@10 of item-KNN as a function of its settings."""
    cases = dataset.cases("valid")

    def score(config: ItemKnnConfig) -> float:
        recs, _, _ = item_knn.recommend(dataset, cases, 10, exclude_seen, config)
        return ranking.mean_metrics(ranking.rank_of_target(recs, cases.target), (10,))["NDCG@10"]

    return score


def validation_of_sasrec(
    dataset: Dataset, seed: int = 0, log: Callable[[str], None] = print
) -> Callable[[SASRecConfig], float]:
    """Validation NDCG@10 of SASRec as a function of its settings; trains a model for each."""
    from dig_ray.baselines import sasrec

    def score(config: SASRecConfig) -> float:
        return sasrec.train(dataset, config, seed, log=log).validation["NDCG@10"]

    return score
