"""The stages before a multi-interest model is trained: users' items in clusters, synthesized users, and their items in clusters.

Clusters are an LLM's where ``mining.clusters`` names one, else groups of vectors (``vector_clusters``). Only training events are read.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dig_ray.base import Stage
from dig_ray.catalog.dataset import Dataset
from dig_ray.errors import UserError
from dig_ray.mining.clusters import REPAIRS, clusters_table
from dig_ray.mining.config import MiningConfig
from dig_ray.mining.interest_tables import write_table
from dig_ray.mining.stage import run_clusters
from dig_ray.multi_interest import covering
from dig_ray.multi_interest.config import CrowdConfig, VectorClustersConfig
from dig_ray.multi_interest.examples import Crowd, pad_sets

NO_LLM = "no LLM (groups of vectors)"


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


def run_user_clusters(
    mining: MiningConfig,
    config: VectorClustersConfig,
    stage: Stage,
    catalog_dir: Path,
    interests_dir: Path | None,
    vectors_dir: Path | None,
    hold_out: int = 0,
) -> None:
    """Write ``clusters.parquet``: every user's latest training items in clusters, those of the last ``hold_out`` events left out.

    Raises:
        UserError: there is nobody to cluster, or too many answers were refused; see also ``miner.ask``.
    """
    dataset = Dataset.load(catalog_dir)
    subjects = latest_items(dataset, mining.cluster_items, hold_out)
    _cluster(mining, config, stage, "user", subjects, dataset, interests_dir, vectors_dir)


def run_crowd(config: CrowdConfig, stage: Stage, catalog_dir: Path) -> None:
    """Write ``crowd.parquet``: synthesized users, whom they are made of, and their items.

    Columns crowd_id, user_ids list (the user whose clique it is first), item_ids list, gain (users that no earlier one covers).

    Raises:
        UserError: there is no user with a training event, or too many users for the graph.
    """
    import pyarrow as pa

    dataset = Dataset.load(catalog_dir)
    offsets, items = dataset.train_sequences()
    some = np.flatnonzero(np.diff(offsets) > 0)
    if not len(some):
        raise UserError(
            "multi_interest.crowd: no user has a training event; lower catalog.k_core or check the split"
        )
    begun = time.monotonic()
    said = begun

    def progress(done: int, total: int) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said > 10 or done == total:
            said = now
            rate = done / max(now - begun, 1e-9)
            stage.log(
                f"crowd: neighbours of {done:,} of {total:,} users, {rate:,.0f} users/s, {(total - done) / max(rate, 1e-9):.0f} s left"
            )

    own = np.concatenate([[0], np.cumsum(np.diff(offsets)[some])])
    found = covering.neighbours(
        own, items, dataset.n_items, config.neighbours, config.users_per_item, progress
    )
    bounds, members = covering.cliques(found)
    in_graph = time.monotonic() - begun
    # what chance covers stands beside what was chosen
    chance = covering.choose_randomly(bounds, members, len(some), config.budget, stage.seed)
    chosen = covering.cover(bounds, members, len(some), config.budget) if config.choose == "cover" else chance
    ids = dataset.item_ids
    rows: dict[str, list[Any]] = {
        "crowd_id": [],
        "user_ids": [],
        "item_ids": [],
        "gain": chosen.gains.tolist(),
    }
    for number in chosen.chosen.tolist():
        users = members[bounds[number] : bounds[number + 1]]
        names = dataset.user_ids[some[users]].tolist()
        merged = covering.merge_users(users, own, items, config.max_items)
        rows["crowd_id"].append(f"crowd:{names[0]}")
        rows["user_ids"].append(names)
        rows["item_ids"].append(ids[merged].tolist())
    texts = pa.list_(pa.string())
    schema = pa.schema(
        [("crowd_id", pa.string()), ("user_ids", texts), ("item_ids", texts), ("gain", pa.int64())]
    )
    write_table(stage, "crowd", pa.table(rows, schema=schema))
    size = [len(one) for one in rows["item_ids"]]
    stage.stats.update(
        rows=len(size),
        users=len(some),
        covered=chosen.covered,
        share_covered=round(chosen.covered / len(some), 4),
        share_covered_by_chance=round(chance.covered / len(some), 4),
        mean_items=round(float(np.mean(size)), 2),
        seconds_graph=round(in_graph, 2),
        seconds=round(time.monotonic() - begun, 2),
    )
    stage.log(
        f"crowd: {len(size):,} synthesized users ({config.choose}) cover {chosen.covered:,} of {len(some):,} users "
        f"({chosen.covered / len(some):.1%}; random ones {chance.covered / len(some):.1%})"
    )


def run_crowd_clusters(
    mining: MiningConfig,
    config: VectorClustersConfig,
    stage: Stage,
    catalog_dir: Path,
    crowd_dir: Path,
    interests_dir: Path | None,
    vectors_dir: Path | None,
) -> None:
    """Write ``clusters.parquet``: every synthesized user's items in clusters, its crowd interests.

    Raises:
        UserError: too many answers were refused; see also ``miner.ask``.
    """
    subjects, dataset = read_crowd(crowd_dir), Dataset.load(catalog_dir)
    _cluster(mining, config, stage, "crowd", subjects, dataset, interests_dir, vectors_dir)


def read_crowd(directory: Path) -> dict[str, list[str]]:
    """Synthesized user id -> its items, of the crowd stage's artifact."""
    import pyarrow.parquet as pq

    table = pq.read_table(directory / "crowd.parquet", columns=["crowd_id", "item_ids"])
    return dict(zip(table["crowd_id"].to_pylist(), table["item_ids"].to_pylist(), strict=True))


def _cluster(
    mining: MiningConfig,
    config: VectorClustersConfig,
    stage: Stage,
    subject: str,
    subjects: Mapping[str, Sequence[str]],
    dataset: Dataset,
    interests_dir: Path | None,
    vectors_dir: Path | None,
) -> None:
    if not subjects:
        raise UserError(
            f"{stage.name}: no user has a training event; lower catalog.k_core or check the split"
        )
    if mining.clusters is not None:
        run_clusters(mining, stage, subject, subjects, dataset.items, interests_dir)
    else:
        _by_vectors(config, stage, subject, subjects, dataset, vectors_dir)
    stage.stats["clusters_per_subject"] = round(stage.stats["clusters"] / max(1, len(subjects)), 2)
    stage.log(
        f"{stage.name}: {len(subjects):,} {subject}s, {stage.stats['clusters_per_subject']:.2f} clusters each"
    )


def _by_vectors(
    config: VectorClustersConfig,
    stage: Stage,
    subject: str,
    subjects: Mapping[str, Sequence[str]],
    dataset: Dataset,
    vectors_dir: Path | None,
) -> None:
    from dig_ray.embedding.vectors import load_vectors
    from dig_ray.multi_interest.vector_clusters import group_items

    if vectors_dir is None:
        raise ValueError("clusters without an LLM need vectors of items")
    ids = dataset.item_ids.tolist()
    vectors = load_vectors(vectors_dir / "embeddings.parquet", ids, allow_zero=True)
    titles = dataset.items["title"].to_pylist() if "title" in dataset.items.column_names else ids
    names = [title or item for title, item in zip(titles, ids, strict=True)]
    row_of = {item: row for row, item in enumerate(ids)}
    found = group_items(subjects, row_of, vectors, names, config.quantile)
    states = [("ok", "")] * len(found)
    write_table(stage, "clusters", clusters_table(subject, subjects, found, NO_LLM, states))
    stage.stats.update(
        rows=len(subjects),
        clusters=sum(len(one.names) for one in found),
        repaired=dict.fromkeys(REPAIRS, 0),
        cost=0.0,
    )


def read_clusters(directory: Path) -> dict[str, list[dict[str, Any]]]:
    """Subject id -> its clusters, each with ``name`` and ``item_ids``."""
    import pyarrow.parquet as pq

    table = pq.read_table(directory / "clusters.parquet", columns=["subject_id", "clusters"])
    return dict(zip(table["subject_id"].to_pylist(), table["clusters"].to_pylist(), strict=True))


def label_events(dataset: Dataset, clusters: Mapping[str, Sequence[Mapping[str, Any]]]) -> np.ndarray:
    """int32 ``(E,)``: of every training event, its cluster within its user, -1 where it has none."""
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


def crowd_of(dataset: Dataset, clusters: Mapping[str, Sequence[Mapping[str, Any]]]) -> Crowd:
    """Synthesized users whose items can be told apart: with at least two clusters, one of them of two items.

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
