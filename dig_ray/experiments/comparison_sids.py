"""What the Semantic IDs of a variant are good for, measured alike for all variants of a comparison.

The yardsticks are what people did and, in the demo world, the intents that made them do it: recall of neighbours in a variant's own vectors
would be a yardstick that each variant brings along.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dig_ray.base import Inputs
from dig_ray.experiments.followed_items import pairs_kept
from dig_ray.semantic_ids.quality_file import read_quality

if TYPE_CHECKING:
    from dig_ray.catalog.dataset import Dataset
    from dig_ray.semantic_ids.sid_catalog import SidCatalog


def sid_figures(dataset: Dataset, inputs: Inputs, first: Inputs) -> dict[str, float | None]:
    """What the Semantic IDs of one run are like.

    Args:
        dataset: the catalogue.
        inputs: the run's artifacts.
        first: those of the first variant with the same seed.

    Returns:
        ``collision_rate``: share of items that share their full code before the suffix; ``next_item_prefix_1`` and ``_2``: share of
        steps in the training histories that stay within a prefix of one or two codes, over what chance would give (a lift);
        ``pairs_kept``: of all pairs of items that share their first two codes here or in the first variant, the part that does in both;
        ``intent_information``: adjusted mutual information of the first code and an item's first true intent, None outside the demo world.
    """
    from dig_ray.semantic_ids.sid_catalog import SidCatalog

    sids = SidCatalog.load(inputs["semantic_ids"] / "semantic_ids.parquet")
    quality = read_quality(inputs["semantic_ids"])
    found: dict[str, float | None] = {"collision_rate": quality.collision_rate}
    owner = np.repeat(np.arange(dataset.n_users), np.diff(dataset.offsets))
    train = np.flatnonzero(dataset.split == 0)
    step = train[1:][(owner[train[1:]] == owner[train[:-1]])]
    before, after = dataset.events[step - 1], dataset.events[step]
    other = before != after
    for length in (1, 2):
        found[f"next_item_prefix_{length}"] = _lift(sids, length, before[other], after[other])
    reference = SidCatalog.load(first["semantic_ids"] / "semantic_ids.parquet")
    found["pairs_kept"] = pairs_kept(
        *(one.prefix_ids(min(2, one.codes.shape[1])).astype(np.int64) for one in (reference, sids))
    )
    found["intent_information"] = _intent_information(dataset, sids)
    return found


def _lift(sids: SidCatalog, length: int, before: np.ndarray, after: np.ndarray) -> float | None:
    prefix = sids.prefix_ids(min(length, sids.codes.shape[1]))
    stays = float((prefix[before] == prefix[after]).mean()) if len(before) else 0.0
    # what chance gives: the same items, drawn independently
    here, there = (
        np.bincount(prefix[at], minlength=int(prefix.max()) + 1) / max(len(at), 1) for at in (before, after)
    )
    chance = float(here @ there)
    return stays / chance if chance else None


def _intent_information(dataset: Dataset, sids: SidCatalog) -> float | None:
    if "intents" not in dataset.items.column_names:
        return None
    from sklearn.metrics import adjusted_mutual_info_score

    first = [intents[0] if intents else "" for intents in dataset.items["intents"].to_pylist()]
    return float(adjusted_mutual_info_score(first, sids.codes[:, 0]))
