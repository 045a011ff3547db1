"""The pictures stage: every item's picture opened once and kept in ``pictures.parquet``, row groups in catalogue order."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dig_ray.artifacts.parts import read_part
from dig_ray.base import Inputs, Stage
from dig_ray.catalog.config import CatalogConfig
from dig_ray.catalog.pictures import images as reasons
from dig_ray.catalog.pictures.picture_parts import COLUMNS, ROWS, open_all, picture_schema
from dig_ray.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

FILE = "pictures.parquet"


@dataclass
class Tally:
    """What became of the items.

    Attributes:
        rows: all of them.
        reasons: why items have no picture.
        first: the first three items of each reason.
        notes: what pictures were made from.
    """

    rows: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    first: dict[str, list[str]] = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)

    def add(self, table: pa.Table) -> None:
        """Count the rows of a part."""
        self.rows += table.num_rows
        for item, reason in zip(table["item_id"].to_pylist(), table["reason"].to_pylist(), strict=True):
            if reason:
                self.reasons[reason] += 1
                first = self.first.setdefault(reason, [])
                if len(first) < 3:
                    first.append(item)
        for notes in table["notes"].to_pylist():
            self.notes.update(notes)

    @property
    def missing(self) -> int:
        """Items without a picture."""
        return self.reasons.total()

    def lines(self) -> list[str]:
        """One a reason, the most frequent first."""
        return [
            f"{reason} {count:,} (such as {', '.join(self.first[reason])})"
            for reason, count in self.reasons.most_common()
        ]

    def advice(self) -> str:
        """What to set, where that can be told."""
        return "set catalog.images.fetch=true to fetch addresses; " if self.reasons[reasons.URL] else ""


def run(config: Any, stage: Stage, inputs: Inputs) -> None:
    """The stage ``pictures`` of a run."""
    keep_pictures(config.catalog, stage, inputs["catalog"])


def keep_pictures(config: CatalogConfig, stage: Stage, catalog_dir: Path) -> None:
    """Open the pictures of the items of ``catalog_dir`` and write ``stage.out/pictures.parquet`` (see ``picture_parts.picture_schema``).

    Raises:
        UserError: no item has a usable picture, one has none and ``catalog.images.missing`` is ``error``, or the archive cannot be used.
    """
    import pyarrow.parquet as pq

    started = time.monotonic()
    images = config.images
    there = Path(catalog_dir) / FILE
    if there.is_file():  # the catalogue was made of the items that have one
        tables = _row_groups(there)
        resumed = 0
    else:
        # pre_buffer, on by default, would hold all bytes of all pictures while any are read
        file = pq.ParquetFile(Path(catalog_dir) / "items.parquet", pre_buffer=False)
        names = [name for name in COLUMNS if name in file.schema_arrow.names]
        batches = file.iter_batches(batch_size=ROWS, columns=names)
        parts, resumed = open_all(batches, file.metadata.num_rows, images, stage)
        tables = read_parts(parts, stage)
    tally = write_pictures(tables, stage.out / FILE)
    for line in tally.lines():
        stage.log(f"pictures: none: {line}")
    for note, count in tally.notes.most_common():
        stage.log(f"pictures: {count:,} {note}")
    if images.missing == "error" and tally.missing:
        raise UserError(
            f"catalog.images.missing=error: {tally.missing:,} of {tally.rows:,} items have no usable picture: "
            f"{'; '.join(tally.lines())}; {tally.advice()}mend them, or set catalog.images.missing to keep or drop"
        )
    check_some(tally)
    stage.log(f"pictures: {tally.rows - tally.missing:,} of {tally.rows:,} items have one")
    stage.stats.update(
        rows=tally.rows,
        pictures=tally.rows - tally.missing,
        reasons=dict(tally.reasons),
        notes=dict(tally.notes),
        resumed=resumed,
        seconds=round(time.monotonic() - started, 2),
    )


def check_some(tally: Tally) -> None:
    """Refuse a catalogue in which no item has a picture.

    Raises:
        UserError: it is one.
    """
    if tally.rows and tally.missing == tally.rows:
        raise UserError(
            f"none of the {tally.rows:,} items has a usable picture: {'; '.join(tally.lines())}; {tally.advice()}give some, or leave "
            "out what needs pictures"
        )


def read_parts(parts: Sequence[tuple[str, int]], stage: Stage) -> Iterator[pa.Table]:
    """The parts that ``open_all`` made, one after the other."""
    for name, rows in parts:
        table = read_part(stage.work, name, rows)
        if table is None:
            raise RuntimeError(f"{stage.work}/{name} was written and does not read back")
        yield table


def write_pictures(
    tables: Iterable[pa.Table], path: Path, keep: Callable[[pa.Table], pa.Table] = lambda table: table
) -> Tally:
    """Write parts one after the other as row groups of one file, and count.

    Args:
        tables: tables of ``picture_schema``.
        path: the file's path, for messages.
        keep: takes the rows that are wanted.
    """
    import pyarrow.parquet as pq

    tally = Tally()
    with pq.ParquetWriter(
        path,
        picture_schema(),
        compression="none",  # pictures are compressed
        use_dictionary=["media", "reason"],
        write_statistics=False,  # they would hold whole pictures
    ) as writer:
        for table in tables:
            table = keep(table)
            if table.num_rows:
                tally.add(table)
                writer.write_table(table, row_group_size=ROWS)
    return tally


def _row_groups(path: Path) -> Iterator[pa.Table]:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    for number in range(file.num_row_groups):
        yield file.read_row_group(number)
