"""Ids out of a foreign column: the rule of :mod:`dig_ray.catalog.columns.ids` for every type of column, with rows for what is no id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dig_ray.catalog.columns.cells import Column, Types, column_of, distinct, is_text
from dig_ray.catalog.columns.faults import Faults
from dig_ray.catalog.columns.ids import MISSING, MISSING_WORDS, id_column, id_text
from dig_ray.errors import UserError

ROUNDED = r"^[0-9](\.[0-9]+)?E\+[0-9]{2}$"
"""What spreadsheets make of long whole numbers, 5.86E+12: different ids become one."""
_DOUBTFUL = pa.array(sorted(MISSING_WORDS))


def read_ids(column: Column, faults: Faults, cure: str, notes: Counter[str] | None = None) -> pa.Array:
    """A column each row of which must be an id, as text; "" where one is not, which is a fault.

    Args:
        column: texts, whole numbers, floats and decimals that are whole, or JSON cells of these.
        faults: get what is no id, by reason.
        cure: what helps where one is missing.
        notes: ``ids_written_as_number_and_as_text`` is raised by the numbers of a mixed column that are the id of a text too,
            ``ids_with_space_around`` by texts that begin or end with white space, which belongs to them.
    """
    ids, why = ids_of(column, faults, Counter() if notes is None else notes)
    found: dict[str, list[int]] = {}
    for place, reason in why:
        found.setdefault(reason, []).append(place)
    for reason, places in found.items():
        missing = reason.startswith(MISSING)
        column.refuse(faults, reason, np.array(places), cure=cure if missing else "correct the ids")
    return ids.fill_null("")


def every_id(table: pa.Table, name: str, path: str, rows: np.ndarray | None = None) -> list[str]:
    """The ids of a column of a file, each row of which must have one.

    Args:
        table: the table as it was read.
        name: the column's name.
        path: the file's path, for messages.
        rows: the rows' numbers, as in :class:`Column`.

    Raises:
        UserError: something is no id; all of it is told.
    """
    faults = Faults(path)
    ids: list[str] = read_ids(
        column_of(table, name, rows), faults, "give every row an id, or remove the row"
    ).to_pylist()
    faults.raise_any()
    return ids


def places_once(ids: Sequence[str], sentence: Callable[[str, int, int], str]) -> dict[str, int]:
    """Id -> its place, from 0.

    Raises:
        UserError: an id is there twice; ``sentence`` makes the message of it and its two data rows, from 1.
    """
    place: dict[str, int] = {}
    for row, one in enumerate(ids):
        if one in place:
            raise UserError(sentence(one, place[one] + 1, row + 1))
        place[one] = row
    return place


def ids_of(column: Column, faults: Faults, notes: Counter[str]) -> tuple[pa.Array, list[tuple[int, str]]]:
    """Ids as text, null where there is none, and the place (from 0) and reason of each of these; see :func:`read_ids`.

    ``faults`` get a column whose type has no ids at all.
    """
    ids, why = _ids_of(column, faults, notes)
    if not (column.json or is_text(column.kind)):
        return ids, why
    rounded = pc.fill_null(pc.match_substring_regex(ids, ROUNDED), False)
    if pc.any(rounded).as_py():
        at = np.flatnonzero(rounded.to_numpy(zero_copy_only=False))
        reason = f"is written as {ids[int(at[0])]}, which a spreadsheet has rounded"
        ids = pc.if_else(rounded, pa.scalar(None, pa.string()), ids)
        why = [*why, *((int(place), reason) for place in at)]
    spaced = pc.sum(pc.not_equal(pc.utf8_trim_whitespace(ids), ids)).as_py() or 0
    notes["ids_with_space_around"] += spaced
    return ids, why


def _ids_of(column: Column, faults: Faults, notes: Counter[str]) -> tuple[pa.Array, list[tuple[int, str]]]:
    kind = column.kind
    if column.json:
        return _of_json(column, notes)
    if (plain := _plain(column.cells)) is not None:
        return plain, []
    if is_text(kind) or Types.is_integer(kind) or Types.is_decimal(kind) or Types.is_null(kind):
        return id_column(column.cells)
    if Types.is_floating(kind):
        ids, why = id_column(column.cells.cast(pa.float64()))
        coarse = _coarse(column)
        if coarse:
            bad = np.zeros(len(ids), dtype=bool)
            bad[[place for place, _ in coarse]] = True
            ids = pc.if_else(pa.array(bad), pa.scalar(None, pa.string()), ids)
        return ids, [*why, *coarse]
    column.refuse_kind(faults, "id", "give text or whole numbers")
    return pa.array([""] * len(column.cells), pa.string()), []


def _plain(cells: pa.Array) -> pa.Array | None:
    """All ids at once, where they are whole numbers or texts and nothing is wrong with any; else None."""
    if cells.null_count:
        return None
    if Types.is_integer(cells.type):
        return cells.cast(pa.string())
    if not Types.is_string(cells.type):
        return None
    try:
        cells.validate(full=True)
    except pa.ArrowInvalid:
        return None
    damaged = pc.match_substring_regex(
        cells, "[\\x{fffd}\\x00]|^\\s*$"
    )  # white space of ASCII; the rest is for the slow way
    doubtful = pc.or_(damaged, pc.is_in(cells, value_set=_DOUBTFUL))
    if pc.any(pc.or_(doubtful, pc.utf8_is_space(cells))).as_py():
        return None
    return cells


def _of_json(column: Column, notes: Counter[str]) -> tuple[pa.Array, list[tuple[int, str]]]:
    values, places = distinct(column)
    ids, bad = id_column([*values, None])
    reasons = dict(bad)
    found = np.where(places < 0, len(values), places)
    _count_merged(values, np.bincount(found, minlength=len(values)), notes)
    empty = np.flatnonzero(np.isin(found, list(reasons)))
    return ids.take(pa.array(found)), [(int(place), reasons[int(found[place])]) for place in empty]


def _coarse(column: Column) -> list[tuple[int, str]]:
    """Ids that a float of few bits cannot tell apart."""
    bits = {16: 11, 32: 24}.get(column.kind.bit_width)
    if bits is None:
        return []
    values = column.cells.cast(pa.float64()).to_numpy(zero_copy_only=False)
    at = np.flatnonzero(np.isfinite(values) & (np.abs(values) >= 1 << bits) & (np.abs(values) < 1 << 53))
    why = f"is a {column.kind} of 2^{bits} or more, where different whole numbers are one"
    return [(int(place), why) for place in at]


def _count_merged(values: list[Any], rows: np.ndarray, notes: Counter[str]) -> None:
    """Count numbers of a mixed column that are the id of a text too, such as 7, 7.0 and "7"."""
    written = {value for value in values if isinstance(value, str)}
    if not written:
        return
    for value, count in zip(values, rows.tolist(), strict=False):
        if isinstance(value, (int, float)) and id_text(value) in written:
            notes["ids_written_as_number_and_as_text"] += count
