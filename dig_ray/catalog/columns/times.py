"""When things happened: one unit for the whole column, found in the column, said, and held against every value.

A time lies in the years 1990 to 2100; whatever does not is named. A column is

* Arrow's own times (timestamp of any unit and zone, date32, date64), kept as fine as they are;
* numbers in s, ms, us or ns since 1970: the years 1990 to 2100 in these units do not overlap, so a value has one unit, and all must have
  the same. ``time_unit`` gives it beforehand, or says ``each`` to read every value by its own size (a log merged from two sources);
* numbers or texts such as 20180131, 201801311259 or 20180131125959, where all are dates in the calendar;
* texts such as ``2018-01-31``, ``2018-01-31 12:59:59.123456`` or ``2018-01-31T12:59:59Z``: all with a time zone, or all without (UTC);
* small numbers, all below 10^8: positions or days of their own, which are an order and no times. They are used as the order only, which is
  said; ``time_unit: order`` says so beforehand, of any numbers, and that one clock counts for all users.

Times of day, durations, yes or no, lists and objects are refused. Rows without a time are refused: an event has no place without it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dig_ray.catalog.columns.cells import Column, Types, is_text
from dig_ray.catalog.columns.faults import Faults
from dig_ray.catalog.columns.numbers import counted, numbers
from dig_ray.catalog.columns.time_texts import MISSING_CURE, written_times

UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
"""Ticks of a second."""
FIRST, AFTER = 631_152_000, 4_133_980_800
"""1990 begins, 2101 begins, in seconds since 1970."""
WRITTEN = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
"""Dates written as one number, by their digits."""
SMALL = 10**8
COARSE = 1.0
"""Seconds; floats that hold times less exactly are said."""
CURE = "correct the values, or choose another column"
ORDER = "set catalog.interactions.time_unit=order if the numbers are an order and no times"
EACH = (
    "bring them to one unit, or set catalog.interactions.time_unit=each to read every value by its own size"
)


@dataclass
class Times:
    """A column of times.

    Attributes:
        order: int64 or float64 ``(R,)``, as fine as given; equal times are equal here.
        milliseconds: int64 ``(R,)`` since 1970; where the numbers are an order only, a thousand times the numbers.
        rule: how they were read, for a log.
        order_only: the numbers are no times.
    """

    order: np.ndarray
    milliseconds: np.ndarray
    rule: str
    order_only: bool = False


def times(column: Column, unit: str, faults: Faults) -> Times | None:
    """A column of times by the rules of the module; None where it holds faults, which are noted.

    Args:
        column: a column of the table.
        unit: ``auto``, a key of ``UNITS``, ``each``, or ``order``.
        faults: get every kind of value that is no time, with its first row.
    """
    kind = column.kind
    if Types.is_timestamp(kind) or Types.is_date(kind):
        return _moments(column, column.cells, faults)
    if column.json or is_text(kind):
        cells = written_times(column, faults)
        if cells is None:
            return None
        if Types.is_timestamp(cells.type):
            return _moments(column, cells, faults)
        return _numeric(Column(column.name, cells, rows=column.rows, origin=column.cells), unit, faults)
    if Types.is_null(kind):
        _refuse_missing(column, np.arange(len(column.cells)), faults)
        return None
    if not (Types.is_integer(kind) or Types.is_floating(kind) or Types.is_decimal(kind)):
        column.refuse_kind(faults, "time of an event", CURE)
        return None
    return _numeric(column, unit, faults)


def _refuse_missing(column: Column, at: np.ndarray, faults: Faults) -> bool:
    column.refuse(faults, "is empty", at, cure=MISSING_CURE)
    return bool(len(at))


# --- moments -------------------------------------------------------------------------------------------------


def _moments(column: Column, cells: pa.Array, faults: Faults, said: str = "dates") -> Times | None:
    """Times of Arrow's own, of ``column``."""
    if _refuse_missing(column, _places(cells.is_null()), faults):
        return None
    kind = cells.type
    if Types.is_date32(kind):
        ticks, per_second = cells.cast(pa.int32()).to_numpy(zero_copy_only=False).astype(np.int64) * 86_400, 1
    else:
        ticks = cells.cast(pa.int64()).to_numpy(zero_copy_only=False)
        per_second = 1000 if Types.is_date64(kind) else UNITS[kind.unit]
    bad = np.flatnonzero((ticks < FIRST * per_second) | (ticks >= AFTER * per_second))
    if len(bad):
        shown = _shown(int(ticks[bad[0]]), per_second)
        column.refuse(faults, f"holds {shown}, which is outside the years 1990 to 2100", bad, cure=CURE)
        return None
    return Times(ticks, _milliseconds(ticks, per_second), _rule(said, ticks, per_second))


def _shown(ticks: int, per_second: int) -> str:
    """A moment for a message, in any year."""
    seconds = ticks // per_second
    if not -62_135_596_800 <= seconds < 253_402_300_800:
        return f"a time {seconds:,} seconds from 1970"
    return str(np.datetime64(seconds, "s")).replace("T", " ")


def _milliseconds(ticks: np.ndarray, per_second: int) -> np.ndarray:
    if ticks.dtype.kind == "f":
        return np.floor(ticks * (1000 / per_second)).astype(np.int64)
    return ticks * (1000 // per_second) if per_second <= 1000 else ticks // (per_second // 1000)


def _rule(said: str, ticks: np.ndarray, per_second: int) -> str:
    """The sentence for the log."""
    if not len(ticks):
        return said
    first, last = (_shown(int(t), per_second)[:4] for t in (ticks.min(), ticks.max()))
    years = f"between {first} and {last}" if first != last else f"of {first}"
    rule = f"{said}, from {counted(len(ticks))} {years}"
    if len(ticks) > 1 and ticks.min() == ticks.max():
        rule += "; all are the same moment, so that events stand in the file's order"
    return rule


# --- numbers -------------------------------------------------------------------------------------------------


def _numeric(column: Column, unit: str, faults: Faults) -> Times | None:
    """Times out of a column of numbers."""
    read = numbers(column, "point", faults)
    if read is None:
        return None
    for name, why in (
        ("infinite", "is infinite"),
        ("unreadable", "is no time of 64 bits"),
        ("open", "is no time"),
    ):
        column.refuse(
            faults, f"holds {{value}}, which {why}", getattr(read, name), read.shown.get(name), CURE
        )
    known = np.concatenate([read.infinite, read.unreadable, read.open])
    missing = np.setdiff1d(_places(read.values.is_null()), known)
    if _refuse_missing(column, missing, faults) or len(known):
        return None
    ticks = read.values.to_numpy(zero_copy_only=False)
    if unit == "order":
        return _order_only(column, ticks, "time_unit is order")
    if unit == "each":
        return _each(column, ticks, faults)
    if unit in UNITS:
        return _of_unit(column, ticks, unit, faults, given=True)
    return _guessed(column, ticks, faults)


def _within(ticks: np.ndarray, unit: str) -> np.ndarray:
    """bool ``(R,)``: 1990 to 2100 in this unit."""
    return (ticks >= FIRST * UNITS[unit]) & (ticks < AFTER * UNITS[unit])


def _guessed(column: Column, ticks: np.ndarray, faults: Faults) -> Times | None:
    """By what the values themselves say; see the module."""
    for digits in WRITTEN:
        shares = _in_calendar(ticks, digits)
        if len(ticks) and shares.mean() >= 0.9:
            return _calendar(column, ticks, digits, shares, faults)
    if not len(ticks) or np.abs(ticks).max() < SMALL:
        return _order_only(column, ticks, "no times since 1990")
    counts = {unit: int(_within(ticks, unit).sum()) for unit in UNITS}
    unit = max(counts, key=lambda name: counts[name])
    if not counts[unit]:
        at = np.flatnonzero(np.abs(ticks) >= SMALL)
        what = "holds {value}, which is in none of s, ms, us and ns a time in the years 1990 to 2100"
        column.refuse(faults, what, at, column.written(at[0]), ORDER)
        return None
    return _of_unit(column, ticks, unit, faults)


def _of_unit(
    column: Column, ticks: np.ndarray, unit: str, faults: Faults, given: bool = False
) -> Times | None:
    """Times of one unit, or every kind of value that is none."""
    right = _within(ticks, unit)
    if right.all():
        rule = _rule(f"time unit: {unit}" + (" as given" if given else ""), ticks, UNITS[unit])
        return Times(ticks, _milliseconds(ticks, UNITS[unit]), rule + _coarse(column, ticks, unit))
    left = ~right
    told = ""
    if right.any():
        first = int(np.argmax(right))
        told = f" (data row {column.row(first)} holds {column.written(first)}, a time in {unit})"
    for other in UNITS:
        at = np.flatnonzero(left & _within(ticks, other)) if other != unit else left[:0]
        if len(at):
            left = left & ~_within(ticks, other)
            cure = EACH if right.any() else f"set catalog.interactions.time_unit={other}, or auto"
            what = f"holds {{value}}, which is a time in {other}, not in {unit}{told}"
            column.refuse(faults, what, at, column.written(at[0]), cure)
    at = np.flatnonzero(left)
    if len(at):
        what = f"holds {{value}}, which in {unit} is outside the years 1990 to 2100{told}"
        column.refuse(faults, what, at, column.written(at[0]), f"correct or drop the rows, or {ORDER}")
    return None


def _each(column: Column, ticks: np.ndarray, faults: Faults) -> Times | None:
    """Every value by its own size, as nanoseconds."""
    out = np.zeros(len(ticks), np.int64)
    left = np.ones(len(ticks), dtype=bool)
    found: Counter[str] = Counter()
    for unit, per_second in UNITS.items():
        here = _within(ticks, unit)
        scale = 10**9 // per_second
        out[here] = (ticks[here] * scale).astype(np.int64)
        left &= ~here
        found[unit] += int(here.sum())
    at = np.flatnonzero(left)
    if len(at):
        what = "holds {value}, which is in none of s, ms, us and ns a time in the years 1990 to 2100"
        column.refuse(faults, what, at, column.written(at[0]), CURE)
        return None
    units = ", ".join(f"{name} ({count:,})" for name, count in found.items() if count)
    return Times(out, _milliseconds(out, 10**9), _rule(f"time unit: of each value, {units}", out, 10**9))


def _order_only(column: Column, ticks: np.ndarray, why: str) -> Times:
    low, high = (ticks.min().item(), ticks.max().item()) if len(ticks) else (0, 0)
    per_second = 1 if max(abs(low), abs(high)) < (1 << 53) else 1000  # no overflow
    rule = f"{column.name} holds {low:,} to {high:,}, {why}: used as the order of events only"
    return Times(ticks, _milliseconds(ticks, per_second), rule, order_only=True)


def _coarse(column: Column, ticks: np.ndarray, unit: str) -> str:
    """What a float of few bits cannot tell apart."""
    kind = column.kind
    small = np.float32 if Types.is_float32(kind) else np.float64
    if ticks.dtype.kind != "f" or not len(ticks):
        return ""
    step = float(np.spacing(small(ticks.max()))) / UNITS[unit]
    return (
        f"; {kind} keeps them to {step:g} s only, so events closer than that are ties"
        if step >= COARSE
        else ""
    )


def _in_calendar(ticks: np.ndarray, digits: int) -> np.ndarray:
    """bool ``(R,)``: numbers such as 20180131 that are a date in the years 1990 to 2100."""
    scale = 10 ** (digits - 8)
    with np.errstate(invalid="ignore"):
        fits = (ticks >= 19_900_101 * scale) & (ticks < 21_010_101 * scale) & (ticks == np.floor(ticks))
    if not fits.any():
        return fits
    distinct_ticks, places = np.unique(ticks[fits].astype(np.int64), return_inverse=True)
    valid = [_written(int(tick), digits) is not None for tick in distinct_ticks]
    fits[np.flatnonzero(fits)] = np.array(valid, dtype=bool)[places]
    return fits


def _written(tick: int, digits: int) -> np.datetime64 | None:
    text = str(tick)
    parts = [text[:4], text[4:6], text[6:8], text[8:10] or "00", text[10:12] or "00", text[12:14] or "00"]
    try:
        return np.datetime64("{}-{}-{}T{}:{}:{}".format(*parts), "s")
    except ValueError:
        return None


def _calendar(
    column: Column, ticks: np.ndarray, digits: int, right: np.ndarray, faults: Faults
) -> Times | None:
    """Dates written as one number."""
    bad = np.flatnonzero(~right)
    form = {8: "20180131", 12: "201801311259", 14: "20180131125959"}[digits]
    if len(bad):
        what = (
            f"holds {{value}}, which is no date such as {form} in the years 1990 to 2100, as most values are"
        )
        column.refuse(faults, what, bad, ticks[bad[0]].item(), f"correct the rows, or {ORDER}")
        return None
    distinct_ticks, places = np.unique(ticks.astype(np.int64), return_inverse=True)
    moments = np.array([_written(int(tick), digits) for tick in distinct_ticks], "datetime64[s]")
    seconds = moments.astype(np.int64)[places.reshape(-1)]
    return Times(seconds, seconds * 1000, _rule(f"dates written as {form}", seconds, 1))


def _places(bad: pa.Array) -> np.ndarray:
    return np.flatnonzero(pc.fill_null(bad, False).to_numpy(zero_copy_only=False))
