"""Times written as text: numbers, or dates like ``2018-01-31T12:59:59Z``; and which value is at fault where a column mixes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dig_ray.catalog.columns.cells import Column, distinct, is_missing
from dig_ray.catalog.columns.faults import Faults
from dig_ray.catalog.columns.ids import MISSING_WORDS
from dig_ray.catalog.text import as_strings

CURE = "correct the values, or choose another column"
MISSING_CURE = "give every row a time, or drop the row"
DATES = "write dates like 2024-05-01 12:00:00"

_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$"
_DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([ T][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?( ?(Z|[+-][0-9]{2}(:?[0-9]{2})?))?)?$"
_ZONE = r"[T ][0-9:.]+ ?(Z|[+-][0-9]{2}(:?[0-9]{2})?)$"


def written_times(column: Column, faults: Faults) -> pa.Array | None:
    """A column of texts, or of JSON cells, as int64, float64 or timestamps: all are numbers, or all are dates.

    Args:
        column: a column of the table.
        faults: get every kind of value that is neither, or is not what most values are, with its first row.

    Returns:
        As many as there are rows; None where there are faults.
    """
    texts = _unquoted(column, faults) if column.json else as_strings(column.cells, Counter())
    if texts is None:
        return None
    texts = pc.utf8_trim_whitespace(texts)
    gone = pc.is_in(texts, value_set=pa.array([*MISSING_WORDS, "", "NA"]))
    missing = _places(pc.or_(texts.is_null(), gone))
    if len(missing):
        column.refuse(faults, "is empty", missing, cure=MISSING_CURE)
        return None
    if (whole := _whole(texts)) is not None:
        return whole
    texts = pc.replace_substring_regex(texts, r" ?(UTC|GMT)$", "Z")
    number, date = (_matches(texts, form) for form in (_NUMBER, _DATE))
    if number.all():
        return _as_numbers(texts)
    if date.all():
        return _of_dates(column, texts, faults)
    mostly = number.sum() >= date.sum()
    neither, other = np.flatnonzero(~number & ~date), np.flatnonzero(date if mostly else number)
    wanted = "number" if number.any() and mostly else "date" if date.any() else "number and no date"
    for at, what in (
        (neither, f"which is no {wanted}"),
        (other if number.any() and date.any() else neither[:0], f"which is no {wanted} as most values are"),
    ):
        if len(at):
            cure = DATES if "date" in wanted else "correct or drop the row"
            column.refuse(faults, f"holds {{value}}, {what}", at, texts[int(at[0])].as_py(), cure)
    return None


def _unquoted(column: Column, faults: Faults) -> pa.Array | None:
    """JSON cells as texts: numbers as they are written, texts without their quotes; None where one is neither."""
    values, places = distinct(column)
    bad: dict[str, list[int]] = {}
    out: list[str | None] = []
    for number, value in enumerate(values):
        out.append(None if is_missing(value) else value if isinstance(value, str) else repr(value))
        if isinstance(value, (bool, list, dict)):
            kind = (
                "an object"
                if isinstance(value, dict)
                else "a list"
                if isinstance(value, list)
                else str(value)
            )
            bad.setdefault(f"is {kind}, which is no time", []).append(number)
    for why, numbers_ in bad.items():
        column.refuse(faults, why, np.flatnonzero(np.isin(places, numbers_)), cure=CURE)
    if bad:
        return None
    return pa.array([*out, None], pa.string()).take(pa.array(np.where(places < 0, len(values), places)))


def _whole(texts: pa.Array) -> pa.Array | None:
    """All at once where all are whole numbers; Arrow would read 0x10 too."""
    try:
        numbers = texts.cast(pa.int64())
    except pa.ArrowInvalid:
        return None
    return None if pc.any(pc.match_substring(texts, "x", ignore_case=True)).as_py() else numbers


def _as_numbers(texts: pa.Array) -> pa.Array:
    texts = pc.replace_substring_regex(texts, r"^\+", "")
    try:
        return texts.cast(pa.int64())
    except pa.ArrowInvalid:
        return texts.cast(pa.float64())


def _of_dates(column: Column, texts: pa.Array, faults: Faults) -> pa.Array | None:
    zoned = _matches(texts, _ZONE)
    if zoned.any() and not zoned.all():
        at, first = np.flatnonzero(~zoned), int(np.argmax(zoned))
        what = f"holds {{value}}, which has no time zone, while data row {column.row(first)} has one ({texts[first]})"
        column.refuse(faults, what, at, texts[int(at[0])].as_py(), "write a time zone into all dates or none")
        return None
    texts = pc.replace_substring_regex(texts, r" (Z|[+-][0-9:]+)$", r"\1")
    fine = _matches(texts, r"\.[0-9]{7,9}").any()
    kind = pa.timestamp("ns" if fine else "us", "UTC" if zoned.any() else None)
    try:
        return texts.cast(kind)
    except pa.ArrowInvalid:
        place = _first_failing(texts, lambda part: part.cast(kind))
        column.refuse(
            faults,
            "holds {value}, which is no date in the calendar",
            np.array([place]),
            texts[place].as_py(),
            DATES,
        )
        return None


def _first_failing(texts: pa.Array, cast: Callable[[pa.Array], Any]) -> int:
    """The first cell that ``cast`` refuses, by halving."""
    low, high = 0, len(texts)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            cast(texts.slice(low, middle - low))
            low = middle
        except pa.ArrowInvalid:
            high = middle
    return low


def _matches(texts: pa.Array, form: str) -> np.ndarray:
    return pc.match_substring_regex(texts, form).to_numpy(zero_copy_only=False)


def _places(bad: pa.Array) -> np.ndarray:
    return np.flatnonzero(pc.fill_null(bad, False).to_numpy(zero_copy_only=False))
