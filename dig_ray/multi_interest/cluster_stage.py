"""The stages that put items in clusters: those of each user, and those of each synthesized user.

Clusters are an LLM's where ``mining.clusters`` names one, else groups of vectors (``vector_clusters``). Only training events are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dig_ray.artifacts.artifact_tables import read_vectors, write_table
from dig_ray.base import Inputs, Stage
from dig_ray.catalog.dataset import Dataset
from dig_ray.errors import UserError
from dig_ray.mining.clusters import REPAIRS, clusters_table
from dig_ray.mining.stage import run_clusters
from dig_ray.multi_interest.vector_clusters import group_items

NO_LLM = "no LLM (groups of vectors)"


def run_user_clusters(config: Any, stage: Stage, inputs: Inputs) -> None:
    """Write ``clusters.parquet``: every user's latest training items in clusters, those of the last ``hold_out`` events left out.

    Args:
        config: the config of the run; ``mining`` and ``multi_interest`` are read.
        stage: where to write.
        inputs: directories by stage: ``catalog``; ``item_interests`` where an LLM is to see them, ``embedding`` where there is no LLM.

    Raises:
        UserError: there is nobody to cluster, or too many answers were refused; see also ``miner.ask``.
    """
    dataset = Dataset.load(inputs["catalog"])
    subjects = latest_items(dataset, config.mining.cluster_items, config.multi_interest.hold_out)
    _cluster(config, stage, "user", subjects, dataset, inputs)


def run_crowd_clusters(config: Any, stage: Stage, inputs: Inputs) -> None:
    """Write ``clusters.parquet``: every synthesized user's items in clusters, its crowd interests.

    Args:
        config, stage: the same as of :func:`run_user_clusters`.
        inputs: the same directories, and ``crowd``.

    Raises:
        UserError: too many answers were refused; see also ``miner.ask``.
    """
    _cluster(config, stage, "crowd", read_crowd(inputs["crowd"]), Dataset.load(inputs["catalog"]), inputs)


def latest_items(dataset: Dataset, most: int, hold_out: int = 0) -> dict[str, list[str]]:
    """User id -> the distinct items of the latest training events but the last ``hold_out``, at most ``most``, oldest first; users without
    such events are left out."""
    offsets, events = dataset.without_latest(hold_out, least=1).train_sequences()
    ids = dataset.item_ids
    out = {}
    for number, user in enumerate(dataset.user_ids.tolist()):
        history = events[int(offsets[number]) : int(offsets[number + 1])]
        latest = list(dict.fromkeys(history[::-1].tolist()))[:most]
        if latest:
            out[str(user)] = [str(ids[item]) for item in latest[::-1]]
    return out


def read_crowd(directory: Path) -> dict[str, list[str]]:
    """Synthesized user id -> its items, of the crowd stage's artifact."""
    import pyarrow.parquet as pq

    table = pq.read_table(directory / "crowd.parquet", columns=["crowd_id", "item_ids"])
    return dict(zip(table["crowd_id"].to_pylist(), table["item_ids"].to_pylist(), strict=True))


def _cluster(
    config: Any,
    stage: Stage,
    subject: str,
    subjects: Mapping[str, Sequence[str]],
    dataset: Dataset,
    inputs: Inputs,
) -> None:
    """Write the clusters of all subjects (id -> distinct item ids), which are each a ``user`` or a ``crowd``."""
    if not subjects:
        raise UserError(
            f"{stage.name}: no user has a training event; lower catalog.k_core or check the split"
        )
    if config.mining.clusters is not None:
        run_clusters(config.mining, stage, subject, subjects, dataset.items, inputs.get("item_interests"))
    else:
        quantile = config.multi_interest.vector_clusters.quantile
        _by_vectors(quantile, stage, subject, subjects, dataset, inputs["embedding"])
    stage.stats["clusters_per_subject"] = round(stage.stats["clusters"] / max(1, len(subjects)), 2)
    stage.log(
        f"{stage.name}: {len(subjects):,} {subject}s, {stage.stats['clusters_per_subject']:.2f} clusters each"
    )


def _by_vectors(
    quantile: float,
    stage: Stage,
    subject: str,
    subjects: Mapping[str, Sequence[str]],
    dataset: Dataset,
    vectors_dir: Path,
) -> None:
    """Write clusters without an LLM, from the vectors of the embedding's artifact."""
    ids = dataset.item_ids.tolist()
    vectors = read_vectors(vectors_dir / "embeddings.parquet", ids)
    titles = dataset.items["title"].to_pylist() if "title" in dataset.items.column_names else ids
    names = [title or item for title, item in zip(titles, ids, strict=True)]
    row_of = {item: row for row, item in enumerate(ids)}
    found = group_items(subjects, row_of, vectors, names, quantile)
    states = [("ok", "")] * len(found)
    write_table(stage, "clusters", clusters_table(subject, subjects, found, NO_LLM, states))
    stage.stats.update(
        rows=len(subjects),
        clusters=sum(len(one.names) for one in found),
        repaired=dict.fromkeys(REPAIRS, 0),
        cost=0.0,
    )
