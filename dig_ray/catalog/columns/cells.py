"""A column of a foreign table: its cells as Python values, and every fault in them told by column, row and value.

Work is done once for each distinct value, so that a million cells cost about as much as their distinct values.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dig_ray.catalog.columns.faults import Faults
from dig_ray.catalog.text import combined

T = TypeVar("T")

NAN_WORDS = ("nan", "NaN", "<NA>", "NaT", "None")  # what pandas writes for a missing text
CELLS_ARE_JSON = {b"dig_ray": b"json"}  # metadata of a field whose texts are JSON documents
Types = pa.types


def cells_are_json(field: pa.Field) -> bool:
    """Whether a text column holds JSON documents, one per cell, since its values are of no one plain kind.

    Every cell is null or a document as Python's ``json`` reads it: ``"5"`` is a text and ``5`` a number, ``NaN`` and ``Infinity``
    may stand in it (NaN never alone: that is null).
    """
    return (field.metadata or {}).get(b"dig_ray") == b"json"


class Refused(ValueError):
    """Why a value cannot be taken, as the end of a sentence about its column: ``is an object, which is no text``."""


@dataclass(frozen=True)
class Column:
    """One column as the reader gave it.

    Attributes:
        name: the column's name.
        cells: the values, without dictionaries and views.
        json: whether each cell is one JSON document (a column of mixed or nested values of a JSON lines file).
        rows: int64 ``(R,)``, where each cell stands in the file, from 0; None where none was left out.
        origin: the cells as the file has them, where ``cells`` were read out of texts.
    """

    name: str
    cells: pa.Array
    json: bool = False
    rows: np.ndarray | None = None
    origin: pa.Array | None = None

    @property
    def where(self) -> str:
        """The column in a sentence."""
        return f"column {self.name}"

    @property
    def kind(self) -> pa.DataType:
        """Arrow type of the cells."""
        return self.cells.type

    def row(self, place: int) -> int:
        """Data row of a cell, from 1, for messages."""
        return (place if self.rows is None else int(self.rows[place])) + 1

    def refuse(
        self, faults: Faults, what: str, places: np.ndarray, value: object = None, cure: str | None = None
    ) -> None:
        """Note one kind of fault that the cells at ``places`` have."""
        if len(places):
            faults.add(self.where, what, self.row(int(places[0])), value, len(places), cure)

    def written(self, place: int) -> object:
        """The cell at a place as it stands in the file."""
        return (self.cells if self.origin is None else self.origin)[int(place)].as_py()

    def refuse_kind(self, faults: Faults, as_what: str, cure: str) -> None:
        """Note that no cell of this type can be taken."""
        faults.add(self.where, f"is {self.kind}, which is no {as_what}", cure=cure)


def column_of(table: pa.Table, name: str, rows: np.ndarray | None = None) -> Column:
    """A column of a table by its name; cells of a dictionary, a view or an extension type become what they stand for."""
    field = table.schema.field(name)
    cells = combined(table.column(name))
    if isinstance(cells, pa.ExtensionArray):
        cells = cells.storage
    if Types.is_dictionary(cells.type):
        cells = cells.dictionary_decode()
    if Types.is_run_end_encoded(cells.type):
        cells = pc.run_end_decode(cells)
    if Types.is_large_string(cells.type) or Types.is_string_view(cells.type):
        cells = _as_text(cells)
    if Types.is_large_binary(cells.type) or Types.is_binary_view(cells.type):
        cells = cells.cast(pa.binary())
    if Types.is_decimal32(cells.type) or Types.is_decimal64(cells.type):  # which Arrow cannot do much with
        cells = cells.cast(pa.decimal128(cells.type.precision, cells.type.scale))
    return Column(name, cells, cells_are_json(field) and Types.is_string(cells.type), rows)


def _as_text(cells: pa.Array) -> pa.Array:
    try:
        return cells.cast(pa.string())
    except pa.ArrowInvalid:  # no UTF-8, which the readers of texts and ids see to
        return cells.cast(pa.large_binary()).cast(pa.binary())


def is_text(kind: pa.DataType) -> bool:
    """Whether a type holds texts, as such or as bytes."""
    return (
        Types.is_string(kind)
        or Types.is_large_string(kind)
        or Types.is_binary(kind)
        or Types.is_large_binary(kind)
    )


def is_list(kind: pa.DataType) -> bool:
    """Whether a type holds lists, a map's pairs not among them."""
    return (
        Types.is_list(kind)
        or Types.is_large_list(kind)
        or Types.is_fixed_size_list(kind)
        or str(kind).startswith(("list_view", "large_list_view"))
    )


def distinct(column: Column) -> tuple[list[Any], np.ndarray]:
    """Distinct values as Python has them (JSON documents read), and int64 ``(R,)`` which one stands in each row, -1 where none does."""
    try:
        encoded = column.cells.dictionary_encode()
        values = _plain_values(encoded.dictionary)
        places = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    except (pa.ArrowNotImplementedError, pa.ArrowTypeError):
        values = _plain_values(column.cells)
        places = np.arange(len(values), dtype=np.int64)
    if column.json:
        values = [json.loads(document) for document in values]
    return values, places


def _plain_values(cells: pa.Array) -> list[Any]:
    try:
        return cells.to_pylist()
    except (
        ValueError,
        OverflowError,
        UnicodeDecodeError,
    ):  # a time that Python has no object for, bytes that are no UTF-8
        return [_one(cell) for cell in cells]


def _one(cell: pa.Scalar) -> Any:
    try:
        return cell.as_py()
    except (ValueError, OverflowError, UnicodeDecodeError):
        return object()


def is_missing(value: Any) -> bool:
    """None or NaN."""
    return value is None or (isinstance(value, (float, Decimal)) and math.isnan(value))


Note = Callable[[str], None]


def converted(
    column: Column,
    faults: Faults,
    notes: Counter[str],
    one: Callable[[Any, Note], T],
    missing: T,
    cure: str | None = None,
) -> tuple[list[T], np.ndarray]:
    """Each distinct value through ``one``, and int64 ``(R,)`` which one stands in each row; the last is for missing cells.

    Args:
        column: where the values come from.
        faults: get the cells that ``one`` refuses, by reason.
        notes: raised by the rows whose value ``one`` says something about.
        one: makes a value of a cell; raises :class:`Refused`, and may name counts to its second argument.
        missing: stands for null, NaN and what was refused.
        cure: what helps against faults.
    """
    values, places = distinct(column)
    out: list[T] = []
    bad: dict[str, list[int]] = {}
    said: dict[str, list[int]] = {}
    for number, value in enumerate(values):

        def say(key: str, number: int = number) -> None:
            said.setdefault(key, []).append(number)

        try:
            out.append(missing if is_missing(value) else one(value, say))
        except Refused as why:
            out.append(missing)
            bad.setdefault(str(why), []).append(number)
    for reason, numbers in bad.items():
        at = np.flatnonzero(np.isin(places, numbers))
        column.refuse(faults, reason, at, values[places[at[0]]], cure)
    for key, numbers in said.items():
        notes[key] += int(np.isin(places, numbers).sum())
    return [*out, missing], np.where(places < 0, len(out), places)


def taken(values: Iterable[Any], places: np.ndarray, kind: pa.DataType) -> pa.Array:
    """The values of :func:`converted`, one per row."""
    return pa.array(values, kind).take(pa.array(places))
