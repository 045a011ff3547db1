"""Numbers out of a foreign column: one rule for the whole column, found in the column itself, and said.

A column of an Arrow number type is what it is. In a column of texts each value has up to two readings: with a decimal point
(``1,299.00``, ``1 299.00``, ``1'299.00``, ``1,29,999.00``) and with a decimal comma (``1.299,00``, ``1 299,00``). Most values have only
one of them, or two that agree; ``1.800`` and ``1,299`` have two that differ. These are read by what the other values of the column
tell: a decimal point where some value has only that reading and none has only the other. Where no value tells, or values tell both,
they are unreadable, unless ``decimal_mark`` says which it is. Nothing is guessed from a size.

A currency before or after the number is left out (and said); ranges (``12.99 - 20``), fractions, percent and words are unreadable.
Infinity is always refused. Missing are null, NaN, blank, ``NA`` and the words that pandas writes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dig_ray.catalog.columns.cells import Column, Types, distinct, is_text
from dig_ray.catalog.columns.faults import Faults
from dig_ray.catalog.columns.number_texts import ABSENT, Form, read_number
from dig_ray.catalog.text import as_strings

Mark = Literal["auto", "point", "comma"]

EXACT = 1 << 53  # above, a float64 stands for several whole numbers
_OPEN = r"^[+-]?[1-9][0-9]{0,2}\.[0-9]{3}$"  # a decimal point, or one between thousands
CURE = "correct the values, or choose another column"
MARK_CURE = "set catalog.%s.decimal_mark=point or comma"


@dataclass
class Numbers:
    """A column as numbers.

    Attributes:
        values: int64 or float64 ``(R,)``, null where missing or unreadable.
        rule: how it was read, for a log; None where the type leaves nothing to decide.
        unreadable: places of values that are no number.
        open: places of values that could be read two ways and were not.
        infinite: places of infinite values.
        shown: the first unreadable, open and infinite value, by these names.
    """

    values: pa.Array
    rule: str | None = None
    unreadable: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    open: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    infinite: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    shown: dict[str, Any] = field(default_factory=dict)


def numbers(column: Column, mark: Mark, faults: Faults) -> Numbers | None:
    """A column as numbers, by the rule of the module; None where its type holds none (noted as a fault).

    Args:
        column: a column of the table.
        mark: which character stands before the decimals of a text.
        faults: get the type.
    """
    cells, kind = column.cells, column.kind
    if Types.is_null(kind):
        return Numbers(pa.nulls(len(cells), pa.float64()))
    if column.json or is_text(kind):
        return _of_texts(column, mark)
    if Types.is_integer(kind):
        return _of_integers(cells)
    if Types.is_decimal(kind):
        return _of_decimals(cells)
    if Types.is_floating(kind):
        values = cells.cast(pa.float64())
        infinite = pc.fill_null(pc.is_inf(values), False)
        return _bad(values, infinite, "infinite", cells)
    faults.add(column.where, f"is {kind}, which is no number", cure=CURE)
    return None


def _bad(values: pa.Array, bad: pa.Array, name: str, cells: pa.Array) -> Numbers:
    """Values with the bad ones null, and NaN too."""
    nan = pc.fill_null(pc.is_nan(values), False) if Types.is_floating(values.type) else bad
    out = Numbers(pc.if_else(pc.or_(bad, nan), pa.scalar(None, values.type), values))
    at = np.flatnonzero(bad.to_numpy(zero_copy_only=False))
    if len(at):
        setattr(out, name, at)
        out.shown[name] = cells[int(at[0])].as_py()
    return out


def _of_integers(cells: pa.Array) -> Numbers:
    if not Types.is_uint64(cells.type):
        return Numbers(cells.cast(pa.int64()))
    bad = pc.fill_null(pc.greater(cells, pa.scalar((1 << 63) - 1, pa.uint64())), False)
    return _bad(
        pc.if_else(bad, pa.scalar(None, pa.uint64()), cells).cast(pa.int64()), bad, "unreadable", cells
    )


def _of_decimals(cells: pa.Array) -> Numbers:
    try:
        return Numbers(cells.cast(pa.int64()))
    except pa.ArrowException:  # fractions, or beyond 64 bits
        return Numbers(cells.cast(pa.float64()))


# --- texts ---------------------------------------------------------------------------------------------------


def _of_texts(column: Column, mark: Mark) -> Numbers:
    if not column.json and (plain := _plain(column, mark)) is not None:
        return plain
    cells = (
        column if column.json else Column(column.name, as_strings(column.cells, Counter()), rows=column.rows)
    )
    values, places = distinct(cells)
    rows = np.bincount(places[places >= 0], minlength=len(values))
    read = [read_number(value) for value in values]
    tells = Counter[str]()
    for form, count in zip(read, rows.tolist(), strict=True):
        if form.tells:
            tells[form.tells] += count
    chosen = mark if mark != "auto" else "both" if len(tells) == 2 else next(iter(tells), None)
    numbers = [_chosen(form, chosen, mark != "auto") for form in read]
    out = Numbers(_array([n for n, _ in numbers]).take(pa.array(np.where(places < 0, len(values), places))))
    for name in ("unreadable", "open", "infinite"):
        bad = [n for n, (_, why) in enumerate(numbers) if why == name]
        if bad:
            at = np.flatnonzero(np.isin(places, bad))
            setattr(out, name, at)
            out.shown[name] = values[places[at[0]]]
    out.rule = _rule(read, rows, tells, mark, len(out.values) - out.values.null_count)
    return out


def _plain(column: Column, mark: Mark) -> Numbers | None:
    """All texts at once where each is a number as programs write it, and none leaves open what its point means."""
    texts = pc.utf8_trim_whitespace(as_strings(column.cells, Counter()))
    texts = pc.if_else(pc.is_in(texts, value_set=pa.array(ABSENT)), pa.scalar(None, pa.string()), texts)
    texts = pc.replace_substring_regex(texts, r"^\+", "")
    if not pc.all(pc.match_substring_regex(texts, r"^-?([0-9]+\.?[0-9]*|\.[0-9]+)$")).as_py():
        return None
    try:
        return Numbers(texts.cast(pa.int64()), f"whole numbers, {counted(len(texts) - texts.null_count)}")
    except pa.ArrowInvalid:
        if mark == "comma":
            return None
    points = pc.match_substring(texts, ".")
    unclear = pc.match_substring_regex(texts, _OPEN)
    telling = (pc.sum(points).as_py() or 0) - (pc.sum(unclear).as_py() or 0)
    if not telling and mark == "auto":
        return None
    values = texts.cast(pa.float64())
    if pc.any(pc.is_inf(values)).as_py():
        return None
    return Numbers(values, _said("point", telling, len(texts) - texts.null_count, mark))


def _chosen(form: Form, mark: str | None, strict: bool) -> tuple[float | int | None, str]:
    """A value's number under the column's mark, and what is wrong with it."""
    if form.problem or (form.point is None and form.comma is None):
        return None, form.problem
    if form.point == form.comma:
        return form.point, ""
    if mark in ("point", "comma"):
        number = form.point if mark == "point" else form.comma
        if number is not None:
            return number, ""
        if strict:
            return None, "unreadable"
    if form.tells:
        return (form.point if form.tells == "point" else form.comma), ""
    return None, "open"


def _array(values: list[float | int | None]) -> pa.Array:
    """The distinct numbers and a null at the end."""
    whole = all(n is None or (isinstance(n, int) and abs(n) < 1 << 63) for n in values)
    return pa.array([None if n is None else int(n) if whole else float(n) for n in [*values, None]],
                    pa.int64() if whole else pa.float64())  # fmt: skip


def _rule(read: list[Form], rows: np.ndarray, tells: Counter[str], mark: Mark, known: int) -> str:
    """The sentence for the log."""
    if len(tells) == 2 and mark == "auto":
        said = f"decimal point in {counted(tells['point'])} and decimal comma in {tells['comma']:,}, each read as it tells itself"
    elif tells or mark != "auto":
        used = mark if mark != "auto" else next(iter(tells))
        said = _said(used, tells[used], known, mark)
    else:
        said = f"whole numbers, {counted(known)}"
    found: Counter[str] = Counter()
    for form, count in zip(read, rows.tolist(), strict=True):
        if form.currency:
            found[form.currency] += count
    if found:
        said += f"; in {', '.join(f'{name} ({count:,})' for name, count in found.most_common(4))}"
        said += " and others" if len(found) > 4 else ""
        said += ", which are not one scale" if len(found) > 1 else ""
    return said


def counted(values: int) -> str:
    """So many values."""
    return f"{values:,} value{'' if values == 1 else 's'}"


def _said(mark: str, telling: int, known: int, given: Mark) -> str:
    return f"decimal {mark}, " + (
        "as decimal_mark says" if given != "auto" else f"from {telling:,} of {counted(known)}"
    )


# --- fields --------------------------------------------------------------------------------------------------


def prices(column: Column, mark: Mark, faults: Faults, notes: Counter[str]) -> tuple[pa.Array, str | None]:
    """Prices, float64 with nulls, and the rule for a log.

    Args:
        column: a column of the table.
        mark: the decimal mark, as for :func:`numbers`.
        faults: get infinite prices, those above 2^53, and a column none of whose values can be read.
        notes: ``prices_unreadable`` (ranges, words), ``prices_ambiguous`` (a value such as 1.800 where no other tells), and
            ``prices_negative``; all of these are null.
    """
    nothing = pa.nulls(len(column.cells), pa.float64())
    read = numbers(column, mark, faults)
    if read is None:
        return nothing, None
    column.refuse(faults, "holds {value}, which is infinite", read.infinite, read.shown.get("infinite"), CURE)
    values = read.values
    large = _places(pc.greater(pc.abs(values), EXACT))
    if len(large):
        shown = values[int(large[0])].as_py()
        column.refuse(faults, "holds {value}, which is too large to be kept exactly", large, shown, CURE)
    if len(read.unreadable) + len(read.open) and not len(values) - values.null_count:
        _refuse_unread(column, read, faults, "items")
    notes["prices_unreadable"] += len(read.unreadable)
    notes["prices_ambiguous"] += len(read.open)
    if len(large):
        return nothing, None
    negative = pc.fill_null(pc.less(values, 0), False)
    notes["prices_negative"] += pc.sum(negative).as_py() or 0
    values = values.cast(pa.float64())
    return pc.if_else(negative, pa.scalar(None, pa.float64()), values), read.rule


def ratings(column: Column, mark: Mark, faults: Faults) -> tuple[pa.Array, str | None]:
    """Ratings, float32 with nulls, and the rule for a log; ``faults`` get every value that is no finite number of that size."""
    read = numbers(column, mark, faults)
    if read is None:
        return pa.nulls(len(column.cells), pa.float32()), None
    column.refuse(faults, "holds {value}, which is infinite", read.infinite, read.shown.get("infinite"), CURE)
    _refuse_unread(column, read, faults)
    values = _as_float(read.values)
    large = _places(pc.greater(pc.abs(values), float(np.finfo(np.float32).max)))
    if len(large):
        shown = values[int(large[0])].as_py()
        column.refuse(faults, "holds {value}, which is no rating", large, shown, CURE)
        return pa.nulls(len(values), pa.float32()), None
    return values.cast(pa.float32()), read.rule


def positions(column: Column, faults: Faults) -> pa.Array:
    """Positions in a user's history, int64; ``faults`` get every one that is missing or no whole number of 64 bits."""
    nothing = pa.array(np.zeros(len(column.cells), np.int64))
    read = numbers(column, "point", faults)
    if read is None:
        return nothing
    column.refuse(faults, "holds {value}, which is infinite", read.infinite, read.shown.get("infinite"), CURE)
    _refuse_unread(column, read, faults)
    values = read.values
    known = np.zeros(len(values), dtype=bool)
    known[np.concatenate([read.infinite, read.unreadable, read.open])] = True
    missing = np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False) & ~known)
    column.refuse(faults, "is empty", missing, cure="give every row a position, or drop the row")
    if Types.is_floating(values.type):
        given = pc.fill_null(values, 0.0).to_numpy(zero_copy_only=False)
        broken = np.flatnonzero((given != np.floor(given)) | (np.abs(given) >= EXACT))
        if len(broken):
            column.refuse(
                faults, "holds {value}, which is no whole number", broken, float(given[broken[0]]), CURE
            )
            return nothing
        values = pa.array(given.astype(np.int64))
    return pc.fill_null(values, 0)


def _refuse_unread(column: Column, read: Numbers, faults: Faults, part: str = "interactions") -> None:
    shown = read.shown
    column.refuse(faults, "holds {value}, which is no number", read.unreadable, shown.get("unreadable"), CURE)
    what = "holds {value}, which is two numbers, with a decimal point and with a decimal comma"
    column.refuse(faults, what, read.open, shown.get("open"), MARK_CURE % part)


def _as_float(values: pa.Array) -> pa.Array:
    """int64 or float64 as float64; what is lost above 2^53 does not matter to who asks."""
    return pc.cast(values, pa.float64(), safe=False)


def _places(bad: pa.Array) -> np.ndarray:
    return np.flatnonzero(pc.fill_null(bad, False).to_numpy(zero_copy_only=False))
