"""The shapes in which a column may bring texts, categories, interests and pictures, and how each is taken apart.

Every shape may be Arrow's own (list, struct, map), a cell of a JSON lines file, or text that writes it down as JSON or as a Python
literal. What fits no shape is refused with its row: no list or object is ever printed into a text.

=============  ============================================================================================================
text           a text; a list of texts or numbers (joined); a number (written out, and counted)
categories     a list of texts; a list of lists, each one path ``A > B``; objects with a ``name``; a text, whole or split
interests      a list of texts, of objects with ``text``, ``interest`` or ``descriptor``, or of pairs (text, number); one object;
               one text; an object that holds such a list as ``interests`` or ``descriptors``
image          a path or address; a list of them (the first); an object with ``bytes`` or ``path`` as Hugging Face datasets writes it
=============  ============================================================================================================

A null, a NaN, and the words that pandas writes for them (``nan``, ``NaN``, ``<NA>``, ``NaT``, ``None``, exactly) are missing; the words
are counted as ``texts_that_read_nan``, since a product may be called None, but rarely is.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dig_ray.catalog.columns.cells import (
    NAN_WORDS,
    Column,
    Note,
    Refused,
    Types,
    converted,
    is_list,
    is_missing,
    is_text,
    taken,
)
from dig_ray.catalog.columns.faults import Faults
from dig_ray.catalog.readers.literals import is_container_text, read_literal
from dig_ray.catalog.text import as_strings, clean_text

INTEREST_FIELDS = ("text", "interest", "descriptor")
INTEREST_LISTS = ("interests", "descriptors")
TEXT_CURE = "give texts or lists of texts, or choose another column"
_LIST_LIKE = re.compile(r"""^(?:\[\s*['"\[{]|\{\s*['"])""")


# --- texts ---------------------------------------------------------------------------------------------------


def texts(column: Column, faults: Faults, notes: Counter[str], separator: str = " ") -> pa.Array:
    """A column as text without nulls; see the module.

    Args:
        column: a column of the table.
        faults: get cells that hold objects, lists of lists, yes or no, infinity.
        notes: ``texts_that_read_nan``, ``texts_from_numbers``, ``texts_from_lists``, and what ``as_strings`` mends.
        separator: between the entries of a list.
    """
    kind = column.kind
    if Types.is_null(kind):
        return pa.array([""] * len(column.cells), pa.string())
    if column.json or not is_text(kind):
        if not (column.json or _may_be_text(kind)):
            column.refuse_kind(faults, "text", TEXT_CURE)
            return pa.array([""] * len(column.cells), pa.string())
        return _converted_texts(column, faults, notes, separator)
    cells = as_strings(column.cells, notes)
    odd = pc.fill_null(pc.or_(_reads_nan(cells), _is_container(cells)), False)
    if pc.any(odd).as_py():
        at = np.flatnonzero(odd.to_numpy(zero_copy_only=False))
        part = Column(
            column.name, cells.take(pa.array(at)), rows=at if column.rows is None else column.rows[at]
        )
        cells = pc.replace_with_mask(cells, odd, _converted_texts(part, faults, notes, separator))
    return pc.fill_null(cells, "")


def _may_be_text(kind: pa.DataType) -> bool:
    numbers = Types.is_integer(kind) or Types.is_floating(kind) or Types.is_decimal(kind)
    return numbers or is_list(kind) or Types.is_struct(kind) or Types.is_map(kind)


def _reads_nan(cells: pa.Array) -> pa.Array:
    return pc.is_in(cells, value_set=pa.array(NAN_WORDS))


def _is_container(cells: pa.Array) -> pa.Array:
    """Whether a text begins as a list or an object, so that a look is worth it."""
    return pc.match_substring_regex(cells, r"^\s*[\[{]")


def _converted_texts(column: Column, faults: Faults, notes: Counter[str], separator: str) -> pa.Array:
    def one(value: Any, say: Note) -> str:
        read = _opened(value)
        if isinstance(read, (list, tuple)):
            say("texts_from_lists")
            return separator.join(filter(None, (_scalar(entry, say, "text") for entry in read)))
        return _scalar(read, say, "text")

    found, places = converted(column, faults, notes, one, "", TEXT_CURE)
    return taken(found, places, pa.string())


def _opened(value: Any) -> Any:
    """A text that writes down a list or an object as that; all else as it is."""
    if isinstance(value, str) and is_container_text(value):
        try:
            read = read_literal(value)
        except ValueError:
            return value
        return read if isinstance(read, (list, dict)) else value
    return value


def _scalar(value: Any, say: Note, what: str) -> str:
    """A text or a number as text; "" for what is missing.

    Raises:
        Refused: it is neither.
    """
    if is_missing(value) or value == {}:
        return ""
    if isinstance(value, str):
        if value.strip() in NAN_WORDS:
            say("texts_that_read_nan")
            return ""
        return clean_text(value).strip()
    if isinstance(value, bool):
        raise Refused(f"is {value}, which is no {what}")
    if isinstance(value, (int, float, Decimal)):
        if not math.isfinite(value):
            raise Refused(f"is infinite, which is no {what}")
        say("texts_from_numbers")
        return str(int(value)) if value == int(value) else str(value)
    if isinstance(value, dict):
        raise Refused(f"is an object ({_fields(value)}), which is no {what}")
    if isinstance(value, (list, tuple)):
        raise Refused(f"is a list of lists, which is no {what}")
    raise Refused(f"is {type(value).__name__}, which is no {what}")


def _fields(value: dict[Any, Any]) -> str:
    return ", ".join(str(key)[:20] for key in list(value)[:4]) + (", ..." if len(value) > 4 else "")


# --- categories ----------------------------------------------------------------------------------------------


def categories(column: Column, separator: str | None, faults: Faults, notes: Counter[str]) -> list[list[str]]:
    """Each row's categories; see the module.

    Args:
        column: a column of the table.
        separator: splits a text such as ``Tools,Saws``; None keeps it whole.
        faults: get deeper lists, objects without a name, and texts that begin like a list and are none.
        notes: ``categories_read_by_name`` (objects), ``texts_that_read_nan``, ``texts_from_numbers``.
    """
    if not (column.json or is_text(column.kind) or _may_be_text(column.kind) or Types.is_null(column.kind)):
        column.refuse_kind(faults, "category", "give lists of texts, or choose another column")
        return [[]] * len(column.cells)
    if (plain := _plain_lists(column.cells)) is not None:
        return plain
    column = _mended(column, notes)

    def one(value: Any, say: Note) -> list[str]:
        read = _opened(value)
        if isinstance(read, (list, tuple)):
            return [text for entry in read if (text := _category(entry, say))]
        if isinstance(read, str):
            if _LIST_LIKE.match(read):
                raise Refused("holds {value}, which begins like a list and is none")
            parts = [read] if separator is None or read.strip() in NAN_WORDS else read.split(separator)
            return [text for part in parts if (text := _scalar(part, say, "category"))]
        return [text] if (text := _category(read, say)) else []

    nothing: list[str] = []
    found, places = converted(column, faults, notes, one, nothing, "give lists of texts")
    return [found[place] for place in places.tolist()]


def _plain_lists(cells: pa.Array) -> list[list[str]] | None:
    """Arrow's own lists of texts, where nothing but white space is to be taken away; else None."""
    if cells.type != pa.list_(pa.string()):
        return None
    flat = cells.flatten()
    try:
        flat.validate(full=True)
    except pa.ArrowInvalid:
        return None
    if pc.any(pc.or_(_reads_nan(pc.utf8_trim_whitespace(flat)), pc.match_substring(flat, "\0"))).as_py():
        return None
    return [[text for entry in cell or () if entry and (text := entry.strip())] for cell in cells.to_pylist()]


def _category(entry: Any, say: Note) -> str:
    if isinstance(entry, dict) and entry:
        name = entry.get("name")
        if not isinstance(name, str):
            raise Refused(
                f"holds an object without a text called name ({_fields(entry)}), which is no category"
            )
        say("categories_read_by_name")
        return _scalar(name, say, "category")
    if isinstance(entry, (list, tuple)):
        if any(isinstance(part, (list, tuple, dict)) for part in entry):
            raise Refused("is nested deeper than lists of lists of texts, which is no category")
        return " > ".join(filter(None, (_scalar(part, say, "category") for part in entry)))
    return _scalar(entry, say, "category")


def _mended(column: Column, notes: Counter[str]) -> Column:
    """Texts as UTF-8 without NUL, counted."""
    if column.json or not is_text(column.kind):
        return column
    return Column(column.name, as_strings(column.cells, notes), rows=column.rows)


# --- interests -----------------------------------------------------------------------------------------------


def interests(column: Column, faults: Faults, notes: Counter[str]) -> list[list[str]]:
    """Each row's interests as texts, in their order; confidences and other fields stay out. See the module.

    Args:
        column: a column of the table.
        faults: get objects without a text field, lists of lists that are no pairs, numbers.
        notes: ``texts_that_read_nan``.
    """
    cure = "give a list of texts, or of objects with text and confidence"
    if not (column.json or is_text(column.kind) or _may_be_text(column.kind) or Types.is_null(column.kind)):
        column.refuse_kind(faults, "list of interests", cure)
        return [[]] * len(column.cells)
    column = _mended(column, notes)

    def one(value: Any, say: Note) -> list[str]:
        read = _opened(value)
        if isinstance(read, dict):
            inner = [read[key] for key in INTEREST_LISTS if isinstance(read.get(key), (list, tuple))]
            read = inner[0] if len(inner) == 1 and not _named_text(read) else [read] if read else []
        elif isinstance(read, str) and _LIST_LIKE.match(read):
            raise Refused("holds {value}, which begins like a list and is none")
        elif not isinstance(read, (list, tuple)):
            read = [read]
        if _is_pair(read):
            read = [read]
        return [text for entry in read if (text := _interest(entry, say))]

    nothing: list[str] = []
    found, places = converted(column, faults, notes, one, nothing, cure)
    return [found[place] for place in places.tolist()]


def _named_text(entry: dict[Any, Any]) -> str | None:
    return next((entry[key] for key in INTEREST_FIELDS if isinstance(entry.get(key), str)), None)


def _is_pair(entry: Any) -> bool:
    """A text and a number, as a keyphrase extractor prints them."""
    return (
        isinstance(entry, (list, tuple))
        and len(entry) == 2
        and isinstance(entry[0], str)
        and isinstance(entry[1], (int, float, Decimal))
        and not isinstance(entry[1], bool)
    )


def _interest(entry: Any, say: Note) -> str:
    if isinstance(entry, dict) and entry:
        text = _named_text(entry)
        if text is None:
            if all(is_missing(value) for value in entry.values()):
                return ""
            raise Refused(
                f"holds an object without a text called text, interest or descriptor ({_fields(entry)}), which is no interest"
            )
        return _scalar(text, say, "interest")
    if _is_pair(entry):
        return _scalar(entry[0], say, "interest")
    if isinstance(entry, (int, float, Decimal)) and not is_missing(entry):
        raise Refused(f"holds the number {entry}, which is no interest")
    return _scalar(entry, say, "interest")


# --- pictures ------------------------------------------------------------------------------------------------


def images(column: Column, faults: Faults, notes: Counter[str]) -> tuple[pa.Array, pa.Array | None]:
    """Paths or addresses, null where there is none, and the bytes of pictures where the column has them; see the module.

    Args:
        column: a column of the table.
        faults: get numbers, yes or no, and objects without ``bytes`` or ``path``.
        notes: ``images_more_than_one`` where a list holds more than the one that is taken.
    """
    cure = "give paths, addresses or bytes of pictures"
    kind = column.kind
    if Types.is_null(kind):
        return pa.nulls(len(column.cells), pa.string()), None
    if Types.is_binary(kind):
        return pa.nulls(len(column.cells), pa.string()), column.cells
    if Types.is_fixed_size_binary(kind):
        return pa.nulls(len(column.cells), pa.string()), column.cells.cast(pa.binary())
    if not (column.json or is_text(kind) or is_list(kind) or Types.is_struct(kind)):
        column.refuse_kind(faults, "picture", cure)
        return pa.nulls(len(column.cells), pa.string()), None
    column = _mended(column, notes)

    def one(value: Any, say: Note) -> tuple[str | None, bytes | None]:
        read = _opened(value)
        if isinstance(read, (list, tuple)):
            there = [entry for entry in read if not is_missing(entry) and entry not in ("", {})]
            if len(there) > 1:
                say("images_more_than_one")
            read = there[0] if there else None
        return _picture(read, say)

    nothing: tuple[str | None, bytes | None] = (None, None)
    found, places = converted(column, faults, notes, one, nothing, cure)
    paths = taken([path for path, _ in found], places, pa.string())
    if all(raw is None for _, raw in found):
        return paths, None
    return paths, taken([raw for _, raw in found], places, pa.binary())


def _picture(value: Any, say: Note) -> tuple[str | None, bytes | None]:
    if isinstance(value, dict) and value:
        raw, path = value.get("bytes"), value.get("path")
        if not {"bytes", "path"} & value.keys() or not isinstance(raw, (bytes, type(None))):
            raise Refused(f"is an object without bytes or path ({_fields(value)}), which is no picture")
        return (None, raw) if raw else (_picture(path, say)[0], None)
    if isinstance(value, bytes):
        return None, value
    if isinstance(value, (int, float, Decimal)) and not is_missing(value):
        raise Refused("holds {value}, which is no path of a picture")
    return _scalar(value, say, "path of a picture") or None, None


def image_bytes(column: Column, faults: Faults, notes: Counter[str]) -> pa.Array:
    """Bytes of pictures, null where there are none: binary, lists of 0 to 255, or an object with ``bytes``.

    Args:
        column: a column of the table.
        faults: get all else, texts too.
        notes: counts of what was mended, as for :func:`images`.
    """
    kind, cure = column.kind, "give the bytes of pictures, or name the column as image if it holds paths"
    if Types.is_null(kind):
        return pa.nulls(len(column.cells), pa.binary())
    if Types.is_binary(kind) or Types.is_fixed_size_binary(kind):
        return column.cells.cast(pa.binary())
    if Types.is_struct(kind):
        return images(column, faults, notes)[1] or pa.nulls(len(column.cells), pa.binary())
    if not (is_list(kind) and Types.is_integer(kind.value_type)):
        column.refuse_kind(faults, "picture's bytes", cure)
        return pa.nulls(len(column.cells), pa.binary())

    def one(value: list[int], say: Note) -> bytes:
        try:
            return bytes(value)
        except (ValueError, TypeError):
            raise Refused("holds a number outside 0 to 255, which is no byte") from None

    found, places = converted(column, faults, notes, one, None, cure)
    return taken(found, places, pa.binary())
