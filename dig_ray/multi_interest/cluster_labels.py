"""Clusters as a model reads them: of each training event the cluster it is in, and the crowd's items with their crowd interests.

Who made the clusters, an LLM or groups of vectors, does not matter here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dig_ray.catalog.dataset import Dataset
from dig_ray.errors import UserError
from dig_ray.multi_interest.examples import Crowd, pad_sets

Found = Mapping[str, Sequence[Mapping[str, Any]]]
"""Subject id -> its clusters, each with ``name`` and ``item_ids``."""


def read_clusters(directory: Path) -> Found:
    """The clusters of every subject, out of a cluster stage's artifact."""
    import pyarrow.parquet as pq

    table = pq.read_table(directory / "clusters.parquet", columns=["subject_id", "clusters"])
    return dict(zip(table["subject_id"].to_pylist(), table["clusters"].to_pylist(), strict=True))


def label_events(dataset: Dataset, clusters: Found) -> np.ndarray:
    """int32 ``(E,)``: of every training event, its cluster within its user, -1 where it has none.

    Args:
        dataset: catalogue and split, with E training events.
        clusters: user id -> clusters of catalogue items; a user may be missing.
    """
    offsets, events = dataset.train_sequences()
    row_of = {item: row for row, item in enumerate(dataset.item_ids.tolist())}
    labels = np.full(len(events), -1, np.int32)
    for number, user in enumerate(dataset.user_ids.tolist()):
        found = clusters.get(user)
        if not found:
            continue
        label_of = {row_of[item]: label for label, one in enumerate(found) for item in one["item_ids"]}
        low, high = int(offsets[number]), int(offsets[number + 1])
        labels[low:high] = [label_of.get(event, -1) for event in events[low:high].tolist()]
    return labels


def crowd_of(dataset: Dataset, clusters: Found) -> Crowd:
    """Synthesized users whose items can be told apart: with at least two clusters, one of them of two items.

    Args:
        dataset: the catalogue, which has all items.
        clusters: synthesized user id -> clusters.

    Raises:
        UserError: there are none.
    """
    row_of = {item: row for row, item in enumerate(dataset.item_ids.tolist())}
    kept = [
        found
        for found in clusters.values()
        if len(found) > 1 and max(len(one["item_ids"]) for one in found) > 1
    ]
    if not kept:
        raise UserError(
            "multi_interest.crowd: no synthesized user has two clusters and two items in one of them, so there is nothing to contrast; "
            "raise crowd.neighbours, or set crowd.weight=0"
        )
    return Crowd(
        pad_sets([[row_of[item] for one in found for item in one["item_ids"]] for found in kept], 0),
        pad_sets([[label for label, one in enumerate(found) for _ in one["item_ids"]] for found in kept], -1),
    )
