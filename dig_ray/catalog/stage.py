"""The catalogue stage: read or generate, clean, split, count, save."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dig_ray.base import Inputs, Stage
from dig_ray.catalog.build import build
from dig_ray.catalog.config import CatalogConfig
from dig_ray.catalog.dataset import Dataset
from dig_ray.catalog.read import read_raw


def run(config: Any, stage: Stage, inputs: Inputs) -> None:
    """The stage ``catalog`` of a run."""
    make_catalog(config.catalog, stage)


def make_catalog(config: CatalogConfig, stage: Stage) -> None:
    """Build the dataset and save it to ``stage.out`` (see :meth:`dig_ray.catalog.dataset.Dataset.save`).

    The demo world's truth goes next to it, as ``truth_users.parquet``; where items without a picture are dropped, so do the others'
    pictures, since they are open. ``stage.stats`` gets the statistics, the split's
    name and hash, and the counts of what was mended, cut or dropped.

    Raises:
        UserError: the data cannot be used as the config asks.
    """
    started = time.perf_counter()
    raw = read_raw(config, seed=stage.seed, log=stage.log)
    opened = _Opened(config, stage) if config.images.missing == "drop" else None
    dataset = build(raw, config, opened)
    dataset.save(stage.out)
    if opened is not None:
        opened.save(dataset)
    for name, table in raw.truth.items():
        pq.write_table(table, stage.out / f"{name}.parquet", compression="zstd")
    stats = dataset.stats
    stage.stats.update(stats, source=config.source, rows=dataset.n_events)
    for key, value in stats["notes"].items():
        stage.log(f"catalog: {key.replace('_', ' ')}: {value:,}")
    if stats["items_without_text"]:
        stage.log(f"catalog: {stats['items_without_text']:,} of {dataset.n_items:,} items have no text")
    for rule in stats["rules"]:
        stage.log(f"catalog: {rule}")
    stage.log(
        f"catalog: {dataset.n_users:,} users, {dataset.n_items:,} items, {dataset.n_events:,} interactions, "
        f"{stats['test_cases']:,} test cases, split {dataset.split_name} {dataset.split_hash[:12]}, "
        f"{time.perf_counter() - started:.1f} s"
    )


class _Opened:
    """The pictures of the items that ``build`` asks about: first whether they are usable, later those of the items that stayed."""

    def __init__(self, config: CatalogConfig, stage: Stage) -> None:
        self.images, self.stage = config.images, stage
        self.parts: list[tuple[str, int]] = []

    def __call__(self, items: pa.Table) -> np.ndarray:
        from dig_ray.catalog.pictures import picture_stage as pictures

        named = items.select([name for name in pictures.COLUMNS if name in items.column_names])
        batches = named.to_batches(max_chunksize=pictures.ROWS)
        self.parts, resumed = pictures.open_all(batches, items.num_rows, self.images, self.stage)
        tally, given = pictures.Tally(), [np.zeros(0, dtype=bool)]
        for table in self._tables():
            tally.add(table)
            given.append(np.array([not reason for reason in table["reason"].to_pylist()]))
        pictures.check_some(tally)
        for line in tally.lines():
            self.stage.log(f"catalog: dropped without a picture: {line}")
        self.stage.stats.update(pictures={"reasons": dict(tally.reasons), "resumed": resumed})
        return np.concatenate(given)

    def save(self, dataset: Dataset) -> None:
        """Write ``stage.out/pictures.parquet``."""
        from dig_ray.catalog.pictures import picture_stage as pictures

        stayed = dataset.items["item_id"].combine_chunks()

        def keep(table: pa.Table) -> pa.Table:
            return table.filter(pc.is_in(table["item_id"], value_set=stayed))

        pictures.write_pictures(self._tables(), self.stage.out / pictures.FILE, keep)

    def _tables(self) -> Iterator[pa.Table]:
        from dig_ray.catalog.pictures import picture_stage as pictures

        return pictures.read_parts(self.parts, self.stage)
