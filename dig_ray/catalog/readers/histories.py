"""A column of histories into ids: lists, or lists written as text; padding and gaps are taken out and counted."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dig_ray.catalog.columns.cells import cells_are_json
from dig_ray.catalog.columns.faults import Faults
from dig_ray.catalog.columns.ids import MISSING, id_column
from dig_ray.catalog.readers.literals import read_literal
from dig_ray.catalog.readers.parquet import plain_table
from dig_ray.catalog.text import combined
from dig_ray.errors import UserError

PADDINGS = ("0", "-1", "[PAD]", "<pad>", "<PAD>", "PAD", "pad")  # what publishers fill histories up with


def read_histories(
    table: pa.Table, name: str, path: str, padding: str | None = None, notes: Counter[str] | None = None
) -> tuple[np.ndarray, pa.Array]:
    """A column of lists, or of lists written as text (``[1, 2]``, ``['a', 'b']``), as ids.

    Args:
        table: the file.
        name: the column's name.
        path: the file's path, for messages.
        padding: entries equal to it are dropped; a history may then be empty.
        notes: ``history_padding_dropped`` is raised by these, and ``history_gaps_dropped`` by entries that are missing (null, NaN, blank).

    Returns:
        lengths int64 ``(R,)``, and the ids of all rows one after the other as text.

    Raises:
        UserError: no such column, and all that is wrong with it: cells that are no lists, empty ones, entries that are no ids.
    """
    if name not in table.column_names:
        raise UserError(
            f"{path}: there is no column {name!r}; set catalog.interactions.columns.history to one of "
            f"{', '.join(table.column_names)}"
        )
    notes = Counter() if notes is None else notes
    faults, where = Faults(path), f"column {name}"
    lengths, entries = _lists(plain_table(table.select([name])), faults, where)
    faults.raise_any()
    texts, bad = id_column(entries)
    row_of = np.repeat(np.arange(len(lengths)), lengths)
    for place, why in bad:
        if not why.startswith(MISSING):
            faults.add(where, f"holds an entry that {why}", int(row_of[place]) + 1)
    there = texts.is_valid().to_numpy(zero_copy_only=False)
    notes["history_gaps_dropped"] += int((~there).sum()) - len(faults)
    held = np.bincount(row_of[there], minlength=len(lengths))
    if (held == 0).any():
        first = int(np.argmax(held == 0)) + 1
        cure = "a sample needs an event before its target, so remove such rows"
        faults.add(where, "holds an empty history", first, rows=int((held == 0).sum()), cure=cure)
    faults.raise_any()
    if padding is not None:
        filled = pc.fill_null(pc.equal(texts, padding), False).to_numpy(zero_copy_only=False)
        notes["history_padding_dropped"] += int(filled.sum())
        there &= ~filled
    lengths = np.bincount(row_of[there], minlength=len(lengths)).astype(np.int64)
    return lengths, texts.filter(pa.array(there))


def refuse_padding(lengths: np.ndarray, flat: pa.Array, known: pa.Array, name: str, path: str) -> None:
    """Refuse histories that seem to be filled up with something that is no item.

    Args:
        lengths: int ``(R,)``.
        flat: the ids of all rows.
        known: ids of the items.
        name: the column's name.
        path: the file's path, for messages.

    Raises:
        UserError: one of :data:`PADDINGS` is no item and stands at the beginning or end of histories only, and that more than once in
            some row, in every row, or in histories of one length.
    """
    starts = np.cumsum(lengths) - lengths
    place = np.arange(len(flat))
    for value in PADDINGS:
        filled = pc.equal(flat, value).to_numpy(zero_copy_only=False)
        if not filled.any() or pc.index(known, value).as_py() >= 0:
            continue
        first = np.minimum.reduceat(np.where(filled, len(flat), place), starts)
        last = np.maximum.reduceat(np.where(filled, -1, place), starts)
        row_of = np.repeat(np.arange(len(lengths)), lengths)
        if (filled & (place > first[row_of]) & (place < last[row_of])).any():
            continue
        counts = np.bincount(row_of[filled], minlength=len(lengths))
        rows = int((counts > 0).sum())
        if counts.max() < 2 and rows < len(lengths) and len(set(lengths.tolist())) > 1:
            continue  # once, and histories are of their own length
        raise UserError(
            f"{path}: {value!r} is no item and stands only at the beginning or end of histories (column {name}, {rows:,} of "
            f"{len(lengths):,} rows), as what fills them up does; set catalog.interactions.padding to {value!r}, or add the item"
        )


def _lists(table: pa.Table, faults: Faults, where: str) -> tuple[np.ndarray, pa.Array | list[Any]]:
    """Lengths ``(R,)`` (0 where null), and the entries of all rows one after the other."""
    column, field, kinds = combined(table.column(0)), table.schema.field(0), pa.types
    if kinds.is_list(column.type):
        inner = column.type.value_type
        if kinds.is_nested(inner) or kinds.is_temporal(inner) or kinds.is_boolean(inner):
            faults.add(where, f"holds lists of {inner}, which are no ids", cure="give lists of item ids")
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
        return lengths.astype(np.int64), pc.list_flatten(column)
    if not (kinds.is_string(column.type) or kinds.is_binary(column.type)):
        faults.add(where, f"is {column.type}, which is no history", cure="give lists of item ids")
        return np.zeros(len(column), np.int64), []
    rows: list[list[Any]] = []
    for number, cell in enumerate(column.cast(pa.binary()).to_pylist(), 1):
        text = None if cell is None else cell.decode("utf-8", "replace")
        rows.append(_read(text, cells_are_json(field), number, faults, where))
    return np.array([len(row) for row in rows], np.int64), [entry for row in rows for entry in row]


def _read(text: str | None, is_json: bool, number: int, faults: Faults, where: str) -> list[Any]:
    """The entries of a cell; none for one that is empty."""
    value: Any = json.loads(text) if is_json and text is not None else text
    if isinstance(value, str):
        bare = value.strip()
        value = None
        if not bare:
            return []
        if (bare[0], bare[-1]) in (("[", "]"), ("(", ")")):
            try:
                value = read_literal(bare)
            except ValueError:
                value = None
    elif value is None:
        return []
    if not isinstance(value, list):
        cure = "write a history as [1, 2], ['a', 'b'] or [\"a\", \"b\"]"
        faults.add(where, "holds {value}, which is no list of item ids", number, text, cure=cure)
        return []
    return value
