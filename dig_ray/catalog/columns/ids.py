"""What is an id and what is not, for every reader: one rule, so that no source is looser than another.

An id is a text as it stands (white space around it belongs to it), a whole number, or a float that is whole, as a column of whole
numbers with gaps turns into one. What is missing is no id, in whatever spelling, and what was damaged is none either: two ids of which
the same characters were lost would be one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal

import numpy as np
import pyarrow as pa

from dig_ray.catalog.columns.faults import Faults

MISSING_WORDS = frozenset(
    {"nan", "NaN", "None", "<NA>", "NaT", "null", "NULL"}
)  # as pandas and databases write it
MISSING = "is empty"  # how the reason of a missing id begins
EXACT = 1 << 53  # below, every whole number is a float of its own
LONGEST_NUMBER = 10**40  # a UUID as a number has 39 digits


def id_text(value: object) -> str | None:
    """The id as text, or None for what is no id (:func:`bad_id` says why).

    Texts stay as they are, ``007`` too. Whole numbers, and floats and decimals that are whole, are written in digits: 5863.0 is
    ``5863``. Bytes are decoded as UTF-8.
    """
    return None if bad_id(value) is not None else _text(value)


def bad_id(value: object) -> str | None:
    """Why a value is no id, as the end of a sentence such as ``column user_id is empty``; None for an id.

    The reason begins with :data:`MISSING` where a value is missing: None, NaN, a blank text, or one of :data:`MISSING_WORDS`.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return MISSING
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:
            return "holds bytes that are not UTF-8"
    if isinstance(value, str):
        return _bad_text(value)
    if isinstance(value, bool):
        return f"is {value}, which is no id"
    if isinstance(value, (float, Decimal)):
        return _bad_fraction(value)
    if isinstance(value, int):
        return None if abs(value) < LONGEST_NUMBER else "is a number of more than 40 digits, which is no id"
    kind = {"dict": "an object", "list": "a list", "tuple": "a list"}.get(
        type(value).__name__, type(value).__name__
    )
    return f"is {kind}, which is no id"


def _bad_text(value: str) -> str | None:
    if not value or value.isspace():
        return MISSING
    if value in MISSING_WORDS:
        return f"{MISSING} (written as {value})"
    if value.isascii():
        return "holds a NUL character" if "\0" in value else None
    if "\ufffd" in value or any("\ud800" <= c <= "\udfff" for c in value):
        return "holds bytes that are not UTF-8"
    return "holds a NUL character" if "\0" in value else None


def _bad_fraction(value: float | Decimal) -> str | None:
    if isinstance(value, Decimal) and value.is_nan():
        return MISSING
    if not math.isfinite(value):
        return "is infinite, which is no id"
    if value != int(value):
        return "is a fraction, which is no id"
    if isinstance(value, float):
        wide = abs(value) >= EXACT
        return "is a float of 2^53 or more, where different whole numbers are one" if wide else None
    return None if abs(value) < LONGEST_NUMBER else "is a number of more than 40 digits, which is no id"


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8")
    return value if isinstance(value, str) else str(int(value))  # type: ignore[call-overload]


def id_column(values: pa.Array | Sequence[object]) -> tuple[pa.Array, list[tuple[int, str]]]:
    """A whole column of ids.

    Args:
        values: Python values, or an Arrow array of text, binary, whole numbers, floats, decimals or nulls.

    Returns:
        Text ``(R,)``, null where there is no id, and the place (from 0) and reason of each of these, by place.
    """
    if not isinstance(values, pa.Array):
        reasons = [bad_id(value) for value in values]
        texts = [_text(v) if why is None else None for v, why in zip(values, reasons, strict=True)]
        return pa.array(texts, pa.string()), [(n, why) for n, why in enumerate(reasons) if why is not None]
    kind = values.type
    if pa.types.is_nested(kind) or pa.types.is_temporal(kind):
        why = f"is of type {kind}, which is no id"
        there = values.is_valid().to_pylist()
        nothing: pa.Array = pa.nulls(len(values), pa.string())
        return nothing, [(n, why if given else MISSING) for n, given in enumerate(there)]
    encoded = values if pa.types.is_dictionary(kind) else values.dictionary_encode()
    dictionary = encoded.dictionary
    if pa.types.is_string(dictionary.type) or pa.types.is_large_string(dictionary.type):
        dictionary = dictionary.cast(
            pa.large_binary() if pa.types.is_large_string(dictionary.type) else pa.binary()
        )
    texts, bad = id_column(dictionary.to_pylist())  # text may be no UTF-8, so it is decoded here
    reason = dict(bad)
    index = encoded.indices
    out = texts.take(index)
    empty = np.nonzero(out.is_null().to_numpy(zero_copy_only=False))[0].tolist()
    places = index.take(pa.array(empty, pa.int64())).to_pylist()
    return out, [(n, MISSING if at is None else reason[at]) for n, at in zip(empty, places, strict=True)]


def add_bad_ids(bad: Sequence[tuple[int, str]], where: str, faults: Faults, cure: str | None = None) -> None:
    """Note the reasons of :func:`id_column` as faults of a column; rows are counted from 1."""
    for place, why in bad:
        faults.add(where, why, place + 1, cure=cure)
