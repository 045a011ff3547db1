"""The search finds the better setting and never looks at test cases."""

import dataclasses

import numpy as np

from dig_ray.baselines.config import ItemKnnConfig
from dig_ray.baselines.search import coordinate_search, validation_of_item_knn


def test_it_climbs_and_tries_nothing_twice():
    seen = []

    def score(config: ItemKnnConfig) -> float:
        seen.append(config)
        return -abs(config.decay - 0.6) - abs(config.backward - 0.5)

    grid = {"decay": (0.5, 0.6, 0.7), "backward": (0.25, 0.5)}
    best, value = coordinate_search(ItemKnnConfig(), grid, score, log=lambda line: None)
    assert (best.decay, best.backward, value) == (0.6, 0.5, 0.0)
    assert len(seen) == len({c.model_dump_json() for c in seen})


def test_test_targets_do_not_matter(chains):
    blind = dataclasses.replace(
        chains, events=np.where(chains.split == 2, 40, chains.events).astype(np.int32), split_hash=""
    )
    config = ItemKnnConfig()
    assert validation_of_item_knn(chains)(config) == validation_of_item_knn(blind)(config) > 0
