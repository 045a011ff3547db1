"""JSON lines into Arrow: a column of one plain kind is of that type, and any other keeps each value as JSON."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from dig_ray.catalog.columns.cells import CELLS_ARE_JSON
from dig_ray.catalog.columns.faults import Faults, shown
from dig_ray.catalog.readers.files import as_utf8, read_bytes, read_lines, steady
from dig_ray.errors import UserError

INT64 = 1 << 63
MOST_COLUMNS = 10_000
EXACT = 1 << 53  # below, a whole number is the same as a float

PANDAS = "write one object per line, with pandas to_json(orient='records', lines=True)"


class KeyTwice(ValueError):
    """A key that stands twice in one object."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise KeyTwice(next(key for key in keys if keys.count(key) > 1))
    return found


decode = json.JSONDecoder(object_pairs_hook=_object).decode


def read_json_lines(path: Path, notes: Counter[str]) -> Iterator[dict[str, Any]]:
    """One object per line.

    Raises:
        UserError: as :func:`dig_ray.catalog.readers.files.read_lines`, or (at the end, all together) lines that hold no JSON object, or one
            with a key twice.
    """
    faults = Faults(path, "line")
    for number, line in read_lines(path, notes):
        record = _record(line, number, faults)
        if record is not None:
            yield record
        elif _is_one_document(path, number, line):
            raise UserError(
                f"{path}: is one JSON value over many lines and not one object per line; {PANDAS}"
            )
    faults.raise_any()


def _record(line: str, number: int, faults: Faults) -> dict[str, Any] | None:
    cure = "write one object per line"
    try:
        record = decode(line)
    except KeyTwice as error:
        faults.add("", "has the key {value} twice in one object", number, str(error), cure=cure)
    except json.JSONDecodeError as error:
        rest = line[error.pos :].strip()
        if error.msg == "Extra data" and rest.startswith("{"):
            faults.add("", "holds more than one object", number, cure=cure)
        elif error.msg == "Extra data":
            faults.add("", "has {value} after the object", number, rest[:20], cure=cure)
        else:
            what = f"is not valid JSON ({error.msg}, character {error.pos + 1})"
            faults.add("", what, number, cure="correct or remove the line")
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)[:80]
        faults.add("", f"is not valid JSON ({reason})", number, cure="correct or remove the line")
    else:
        if isinstance(record, dict):
            return record
        kind = {"list": "list", "str": "text", "int": "number", "float": "number", "bool": "true or false"}
        name = kind.get(type(record).__name__, "null")
        faults.add("", f"holds a {name}, not an object", number, cure=cure)
    return None


def _is_one_document(path: Path, number: int, line: str) -> bool:
    """Whether a file whose first line is ``{`` is one object, as pretty-printed JSON is."""
    if number > 3 or line.strip() != "{":
        return False
    try:
        json.loads(read_bytes(path).decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        return False
    return True


def read_json_table(path: Path, notes: Counter[str]) -> pa.Table:
    """A file of one object per line, or of one list of objects, as a table.

    Raises:
        UserError: as :func:`read_json_lines`, or one object that holds the columns.
    """
    records = _read_list(path, notes)
    if records is None:
        records = list(read_json_lines(path, notes))
        if len(records) == 1 and _holds_columns(records[0]):
            raise UserError(
                f"{path}: is one object that holds the columns and not one object per row; {PANDAS}"
            )
    keys = {key for record in records for key in record}
    if len(keys) > MOST_COLUMNS:
        raise UserError(
            f"{path}: its objects have {len(keys):,} different keys, such as {shown(next(iter(keys)))}, so they seem to be values and no "
            "columns; write one object per row with the same keys"
        )
    return records_to_table(records, notes)


def _holds_columns(record: dict[str, Any]) -> bool:
    """``{"title": {"0": "x", ...}, ...}``, as pandas writes a table by default, or ``{"data": [{...}, ...]}``."""
    parts = list(record.values())
    if len(parts) > 1 and all(isinstance(part, dict) for part in parts):
        return len({tuple(part) for part in parts}) == 1
    return (
        bool(parts)
        and any(
            isinstance(part, list) and len(part) > 0 and all(isinstance(row, dict) for row in part)
            for part in parts
        )
        and not any(isinstance(part, (str, int, float)) for part in parts)
    )


def _read_list(path: Path, notes: Counter[str]) -> list[dict[str, Any]] | None:
    """The objects of a file that is one list, or None for a file of lines."""
    lines = read_lines(path, Counter())
    head = next(lines, (0, ""))[1].lstrip()
    lines.close()  # type: ignore[attr-defined]
    if not head.startswith("["):
        return None
    with steady(path):
        text = as_utf8(read_bytes(path), notes).decode("utf-8")
    try:
        rows = decode(text)
    except KeyTwice as error:
        raise UserError(f"{path}: has the key {str(error)[:60]!r} twice in one object; correct it") from None
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return None  # a list per line, which the reader of lines refuses
        raise UserError(
            f"{path}: begins as a JSON list and is not valid JSON in line {error.lineno} ({error.msg}); "
            "correct it, or write one object per line"
        ) from None
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)[:80]
        raise UserError(f"{path}: line 1 is not valid JSON ({reason}); write one object per line") from None
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise UserError(
                f"{path}: line 1 holds a list, and element {number} of it is no object; write one object per line"
            )
    return rows


def records_to_table(records: Sequence[dict[str, Any]], notes: Counter[str]) -> pa.Table:
    """Objects to columns in the order in which their keys appear.

    A column of texts, of whole numbers, of numbers, of true and false, or of lists of one of these is of that Arrow type; null, NaN
    and absent are null. Any other column holds JSON documents (see :func:`cells_are_json`).

    Args:
        records: one per row.
        notes: ``texts_not_utf8`` is raised by the values with a lone surrogate, which no UTF-8 can hold.
    """
    names = list(dict.fromkeys(key for record in records for key in record))
    fields, columns = [], []
    for name in names:
        values = [record.get(name) for record in records]
        kind = _kind(values)
        name = encodable(name)
        if kind is None:
            texts = [None if _is_missing(v) else json.dumps(v, ensure_ascii=False) for v in values]
            columns.append(_strings(texts, notes))
            fields.append(pa.field(name, pa.string(), metadata=CELLS_ARE_JSON))
            continue
        text = kind == pa.string()
        columns.append(_strings(values, notes) if text else pa.array(_without_nan(values, kind, notes), kind))
        fields.append(pa.field(name, kind))
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _kind(values: Sequence[Any]) -> pa.DataType | None:
    """The one plain type of all values, or None."""
    kinds = set(map(type, values)) - {type(None)}
    if kinds == {list}:
        inner = _kind([value for cell in values if cell is not None for value in cell])
        if inner is None or pa.types.is_list(inner):
            return None
        return pa.list_(pa.string() if inner == pa.null() else inner)
    if float in kinds and kinds <= {int, float}:
        floats = [v for v in values if type(v) is float]
        if any(map(math.isinf, floats)):
            return None
        if int not in kinds:
            return pa.float64() if not all(map(math.isnan, floats)) else pa.null()
        if all(abs(v) < EXACT for v in values if type(v) is int):
            return pa.int64() if all(map(math.isnan, floats)) else pa.float64()
        return pa.int64() if all(map(math.isnan, floats)) and _fit_int64(values) else None
    if float in kinds:  # NaN beside texts is a missing text
        floats = [v for v in values if type(v) is float]
        if not all(map(math.isnan, floats)):
            return None
        return _kind([None if type(v) is float else v for v in values])
    if kinds == {str}:
        return pa.string()
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int}:
        return pa.int64() if _fit_int64(values) else None
    return pa.null() if not kinds else None


def _fit_int64(values: Sequence[Any]) -> bool:
    return all(-INT64 <= v < INT64 for v in values if type(v) is int)


def _without_nan(values: Sequence[Any], kind: pa.DataType, notes: Counter[str]) -> Sequence[Any]:
    """Values that Arrow takes as ``kind``: NaN is null, texts in lists can be encoded."""
    if not pa.types.is_list(kind):
        return [None if _is_missing(v) else v for v in values]
    out: list[Any] = []
    for cell in values:
        if _is_missing(cell):
            out.append(None)
            continue
        inner = [None if _is_missing(v) else v for v in cell]
        if kind.value_type == pa.string():
            clean = [v if v is None else encodable(v) for v in inner]
            if clean != inner:
                notes["texts_not_utf8"] += 1
            inner = clean
        out.append(inner)
    return out


def _strings(values: Sequence[Any], notes: Counter[str]) -> pa.Array:
    values = [None if _is_missing(v) else v for v in values]
    try:
        return pa.array(values, pa.string())
    except UnicodeEncodeError:
        clean = [v if v is None else encodable(v) for v in values]
        notes["texts_not_utf8"] += sum(a != b for a, b in zip(values, clean, strict=True))
        return pa.array(clean, pa.string())


def encodable(text: str) -> str:
    """Lone surrogates, which JSON can hold and UTF-8 cannot, become U+FFFD."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
