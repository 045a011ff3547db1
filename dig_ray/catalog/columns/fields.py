"""Foreign columns into the house's own: which column is which field, and all faults of a file at once.

``items``: item_id, title, description, brand (text, never null), categories (list of text), price (float, null where
unknown), image (path or URL), image_bytes (only if the source has pixels), and the source's other columns; among these ``caption`` is
read as a text and ``interests`` as a list of texts. ``interactions``: user_id, item_id, time (as given, for the order), timestamp
(milliseconds), position, rating, split.

What each field takes stands in :mod:`~dig_ray.catalog.columns.ids`, :mod:`~dig_ray.catalog.columns.shapes`,
:mod:`~dig_ray.catalog.columns.numbers` and :mod:`~dig_ray.catalog.columns.times`. The rules that were found in the columns travel with the
tables, see :func:`rules_of`.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dig_ray.catalog.columns.cells import Column, Types, column_of, distinct
from dig_ray.catalog.columns.faults import Faults
from dig_ray.catalog.columns.id_cells import ids_of, read_ids
from dig_ray.catalog.columns.numbers import positions, prices, ratings
from dig_ray.catalog.columns.shapes import categories, image_bytes, images, interests, texts
from dig_ray.catalog.columns.times import times
from dig_ray.catalog.config import InteractionsConfig, ItemsConfig
from dig_ray.catalog.text import as_strings, clean_text, cut, join_columns

SPLIT_NAMES = {"train": 0, "valid": 1, "validation": 1, "val": 1, "dev": 1, "test": 2}
BadIds = Literal["error", "drop"]
_RULES = b"dig_ray.rules"
_ORDER = b"dig_ray.order_only"


def rules_of(table: pa.Table | None) -> list[str]:
    """How the columns of a table of this module were read: sentences such as ``time unit: ms, from 3,315 values between 2014 and 2018``."""
    found = None if table is None else (table.schema.metadata or {}).get(_RULES)
    return json.loads(found) if found else []


def is_order_only(table: pa.Table | None) -> bool:
    """Whether an interactions table's numbers are an order and no times; its ``timestamp`` is then a thousand times the number."""
    return table is not None and _ORDER in (table.schema.metadata or {})


def items_table(
    table: pa.Table,
    config: ItemsConfig,
    max_chars: int,
    notes: Counter[str],
    bad_ids: BadIds = "error",
) -> pa.Table:
    """The items in house columns; see the module.

    Args:
        table: the table as the reader gave it.
        config: its path (for messages), mapping and extra-column policy.
        max_chars: longer texts are cut.
        notes: raised by what had to be mended, cut or dropped.
        bad_ids: ``drop`` leaves out rows whose item_id is no id, and counts them as ``rows_without_id_dropped``.

    Raises:
        UserError: all that is wrong with the file: named columns that are missing, ids that are none, values of the wrong shape or type.
    """
    source = _Source(table, Faults(config.path), "columns", notes)
    mapping = config.columns
    source.keep_ids({"item_id": (mapping.item_id, "catalog.items.columns.item_id")}, bad_ids)
    out: dict[str, Any] = {"item_id": source.ids["item_id"]}
    used = {mapping.item_id}
    for field in ("title", "description", "brand"):
        names = source.chosen(getattr(mapping, field), field)
        used.update(names)
        parts = [texts(source.column(name), source.faults, notes) for name in names]
        joined = pa.array(join_columns(parts, " ", source.rows), pa.string())
        out[field] = cut(joined, max_chars, notes)
    names = source.chosen(mapping.categories, "categories")
    used.update(names)
    rows: list[list[str]] = [[] for _ in range(source.rows)]
    for name in names:
        found = categories(source.column(name), config.category_separator, source.faults, notes)
        for row, cell in zip(rows, found, strict=True):
            row.extend(cell)
    out["categories"] = pa.array(rows, pa.list_(pa.string()))
    rules = []
    out["price"] = pa.nulls(source.rows, pa.float64())
    if price := source.optional(mapping.price, "price"):
        used.add(price)
        out["price"], rule = prices(source.column(price), config.decimal_mark, source.faults, notes)
        rules += [f"{price}: {rule}"] if rule else []
    used |= _pictures(source, config, out, notes)
    if config.extra_columns:
        for name in source.table.column_names:
            if name not in used and name not in out:
                out[name] = _extra(source, name, max_chars, notes)
    source.faults.raise_any()
    return _with_rules(pa.table(out), rules)


def _pictures(source: _Source, config: ItemsConfig, out: dict[str, Any], notes: Counter[str]) -> set[str]:
    """Put image and image_bytes into ``out``; the names of their columns."""
    name = source.optional(config.columns.image, "image")
    pixels = source.optional(config.columns.image_bytes, "image_bytes")
    out["image"], raw = pa.nulls(source.rows, pa.string()), None
    if name:
        out["image"], raw = images(source.column(name), source.faults, notes)
    if pixels:
        given = image_bytes(source.column(pixels), source.faults, notes)
        raw = given if raw is None else pc.coalesce(given, raw)
    if raw is not None:
        out["image_bytes"] = raw
    return {name or "image", pixels or "image_bytes"}


def interactions_table(
    table: pa.Table,
    config: InteractionsConfig,
    given_split: bool,
    notes: Counter[str],
    bad_ids: BadIds = "error",
) -> pa.Table:
    """The interactions in house columns, rows in file order; see the module.

    Args:
        table: the table as the reader gave it.
        config: its path (for messages), mapping and time unit.
        given_split: whether the split column is needed.
        notes: raised by what was dropped.
        bad_ids: as for :func:`items_table`, of rows whose user_id or item_id is no id.

    Raises:
        UserError: all that is wrong with the file: named columns that are missing, ids, times, positions, ratings or splits that are none.
    """
    mapping, prefix = config.columns, "catalog.interactions.columns"
    source = _Source(table, Faults(config.path), "columns", notes)
    wanted = {name: (getattr(mapping, name), f"{prefix}.{name}") for name in ("user_id", "item_id")}
    source.keep_ids(wanted, bad_ids)
    out: dict[str, Any] = dict(source.ids)
    rules, order_only = [], False
    if name := source.optional(mapping.timestamp, "timestamp"):
        read = times(source.column(name), config.time_unit, source.faults)
        if read is not None:
            out["time"] = pa.array(read.order)
            out["timestamp"] = pa.array(read.milliseconds)
            rules.append(read.rule)
            order_only = read.order_only
    if name := source.optional(mapping.position, "position"):
        out["position"] = positions(source.column(name), source.faults)
    if name := source.optional(mapping.rating, "rating"):
        out["rating"], rule = ratings(source.column(name), config.decimal_mark, source.faults)
        rules += [f"{name}: {rule}"] if rule else []
    if given_split and source.has(mapping.split or "split", f"{prefix}.split"):
        out["split"] = _splits(source.column(mapping.split or "split"), source.faults, notes)
    source.faults.raise_any()
    table = _with_rules(pa.table(out), rules)
    return (
        table.replace_schema_metadata({**(table.schema.metadata or {}), _ORDER: b"1"})
        if order_only
        else table
    )


def _splits(column: Column, faults: Faults, notes: Counter[str]) -> pa.Array:
    """0, 1 or 2 for train, valid and test."""
    cure = "a split is train, valid or test"
    given = pc.utf8_trim_whitespace(texts(column, faults, notes))
    code = pc.index_in(pc.utf8_lower(given), value_set=pa.array(SPLIT_NAMES))
    blank = pc.equal(given, "")
    for bad, what in ((blank, "is empty"), (pc.and_(code.is_null(), pc.invert(blank)), "holds {value}")):
        at = np.flatnonzero(bad.to_numpy(zero_copy_only=False))
        if len(at):
            column.refuse(faults, what, at, given[int(at[0])].as_py(), cure)
    numbers = np.array(list(SPLIT_NAMES.values()), dtype=np.int8)
    return pa.array(numbers[pc.fill_null(code, 0).to_numpy(zero_copy_only=False)])


def _with_rules(table: pa.Table, rules: list[str]) -> pa.Table:
    return table.replace_schema_metadata({_RULES: json.dumps(rules)}) if rules else table


def empty_items(ids: list[str]) -> pa.Table:
    """Items known by id only."""
    blank = pa.array([""] * len(ids), pa.string())
    n = len(ids)
    return pa.table(
        {
            "item_id": pa.array(ids, pa.string()),
            "title": blank,
            "description": blank,
            "brand": blank,
            "categories": pa.array([[]] * n, pa.list_(pa.string())),
            "price": pa.nulls(n, pa.float64()),
            "image": pa.nulls(n, pa.string()),
        }
    )


# --- finding columns ---------------------------------------------------------------------------------------


class _Source:
    """A foreign table, its faults, and which of its rows are kept.

    Attributes:
        table: the rows that are kept.
        faults: what was found wrong with the file so far.
        prefix: what stands before a mapping's key in messages.
        ids: the ids of the kept rows by house name; set by :meth:`keep_ids`.
    """

    def __init__(self, table: pa.Table, faults: Faults, prefix: str, notes: Counter[str]) -> None:
        self.table, self.faults, self.prefix, self.notes = table, faults, prefix, notes
        self.ids: dict[str, pa.Array] = {}
        self.kept: np.ndarray | None = None

    @property
    def rows(self) -> int:
        """How many rows are kept."""
        return self.table.num_rows

    def column(self, name: str) -> Column:
        """A column of the kept rows."""
        return column_of(self.table, name, self.kept)

    def has(self, name: str, key: str) -> bool:
        """Whether there is such a column; a fault where not."""
        if name in self.table.column_names:
            return True
        self.faults.add(
            "",
            f"there is no column {name!r}",
            cure=f"set {key} to one of {', '.join(self.table.column_names[:40])}",
        )
        return False

    def optional(self, name: str | None, field: str) -> str | None:
        """The column of a field that need not be there; one that is named must."""
        if name is None:
            return field if field in self.table.column_names else None
        return name if self.has(name, f"{self.prefix}.{field}") else None

    def chosen(self, names: tuple[str, ...] | None, field: str) -> tuple[str, ...]:
        """The columns of a field that may have several."""
        if names is None:
            return (field,) if field in self.table.column_names else ()
        return tuple(name for name in names if self.has(name, f"{self.prefix}.{field}"))

    def keep_ids(self, wanted: dict[str, tuple[str, str]], bad_ids: BadIds) -> None:
        """Read the ids, by house name from (column, key of the config); rows without all of them are dropped or faults."""
        found = {
            house: _ids(self, name, bad_ids) for house, (name, key) in wanted.items() if self.has(name, key)
        }
        if len(found) < len(wanted):
            self.faults.fail()  # nothing else can be told of rows without ids
        if bad_ids == "drop":
            there = np.ones(self.rows, dtype=bool)
            for ids in found.values():
                there &= ids.is_valid().to_numpy(zero_copy_only=False)
            if not there.all():
                self.notes["rows_without_id_dropped"] += int((~there).sum())
                self.kept = np.flatnonzero(there)
                self.table = self.table.take(pa.array(self.kept))
                found = {house: ids.take(pa.array(self.kept)) for house, ids in found.items()}
            if not self.rows:
                columns = " and ".join(f"column {name}" for name, _ in wanted.values())
                self.faults.add(
                    columns, "leave no row with an id", cure="correct the file, or choose other columns"
                )
                self.faults.fail()
        self.ids = {house: ids.fill_null("") for house, ids in found.items()}


def _ids(source: _Source, name: str, bad_ids: BadIds) -> pa.Array:
    """A column of ids; with ``drop`` null where there is none, else these are faults."""
    column = source.column(name)
    if bad_ids == "error":
        return read_ids(
            column, source.faults, "give every row an id, or set catalog.bad_ids=drop", source.notes
        )
    return ids_of(column, source.faults, source.notes)[0]


# --- the source's other columns ----------------------------------------------------------------------------


def _extra(source: _Source, name: str, max_chars: int, notes: Counter[str]) -> pa.Array:
    """A column that is kept along: as it is, but for texts, which are mended like all others.

    A JSON column becomes text: a cell that is a text as such, all else as strict JSON, so that later stages can take it apart.
    """
    column = source.column(name)
    if name == "caption":
        return cut(texts(column, source.faults, notes), max_chars, notes)
    if name == "interests":
        return pa.array(interests(column, source.faults, notes), pa.list_(pa.string()))
    if column.json:
        values, places = distinct(column)
        column = Column(name, pa.array([*map(_document, values), None], pa.string()).take(
            pa.array(np.where(places < 0, len(values), places))), rows=column.rows)  # fmt: skip
    if Types.is_string(column.kind):
        return cut(as_strings(column.cells, notes), max_chars, notes)
    return column.cells.cast(pa.string()) if Types.is_null(column.kind) else column.cells


def _document(value: Any) -> str | None:
    if isinstance(value, str):
        return clean_text(value)
    value = _finite(value)
    return None if value is None else json.dumps(value, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    """NaN is missing, infinity a word."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None if value != value else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    return value
