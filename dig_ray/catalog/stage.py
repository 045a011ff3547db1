"""The catalogue stage: read or generate, clean, split, count, save."""

from __future__ import annotations

import time

import pyarrow.parquet as pq

from dig_ray.base import Stage
from dig_ray.catalog.build import build
from dig_ray.catalog.config import CatalogConfig
from dig_ray.catalog.read import read_raw


def run(config: CatalogConfig, stage: Stage) -> None:
    """Build the dataset and save it to ``stage.out`` (see :meth:`dig_ray.catalog.dataset.Dataset.save`).

    The demo world's truth goes next to it, as ``truth_users.parquet``. ``stage.stats`` gets the statistics, the split's
    name and hash, and the counts of what was mended, cut or dropped.

    Raises:
        UserError: the data cannot be used as the config asks.
    """
    started = time.perf_counter()
    raw = read_raw(config, seed=stage.seed, log=stage.log)
    dataset = build(raw, config)
    dataset.save(stage.out)
    for name, table in raw.truth.items():
        pq.write_table(table, stage.out / f"{name}.parquet", compression="zstd")
    stats = dataset.stats
    stage.stats.update(stats, source=config.source, rows=dataset.n_events)
    for key, value in stats["notes"].items():
        stage.log(f"catalog: {key.replace('_', ' ')}: {value:,}")
    if stats["items_without_text"]:
        stage.log(f"catalog: {stats['items_without_text']:,} of {dataset.n_items:,} items have no text")
    stage.log(
        f"catalog: {dataset.n_users:,} users, {dataset.n_items:,} items, {dataset.n_events:,} interactions, "
        f"{stats['test_cases']:,} test cases, split {dataset.split_name} {dataset.split_hash[:12]}, "
        f"{time.perf_counter() - started:.1f} s"
    )
