"""Plain tables into Arrow: Parquet, CSV, TSV and JSONL, the text forms also gzipped.

A table from outside is never trusted: whatever is wrong with a file comes out as one sentence that names it. Text
files are decoded as UTF-8; bytes that are not are replaced and counted.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from dig_ray.catalog.text import clean_text
from dig_ray.errors import UserError

SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson", ".json")


def read_table(path: str | Path, notes: Counter[str]) -> pa.Table:
    """The whole table; every column of a CSV or TSV is text, so that an id such as ``007`` stays one.

    Args:
        path: the ending names the format; ``.gz`` after it means gzip.
        notes: ``lines_not_utf8`` is raised by the lines with bytes that had to be replaced.

    Raises:
        UserError: missing, unreadable, truncated, of an unknown format, or without rows.
    """
    path = existing_file(path)
    name = path.name.lower()
    plain = name.removesuffix(".gz")
    suffix = next((s for s in SUFFIXES if plain.endswith(s)), None)
    if suffix is None or (suffix == ".parquet" and name.endswith(".gz")):
        raise UserError(
            f"{path}: unknown format; give a .parquet, .csv, .tsv or .jsonl file (the last three also as .gz)"
        )
    if suffix == ".parquet":
        table = _read_parquet(path)
    elif suffix in (".csv", ".tsv"):
        table = read_delimited(path, "\t" if suffix == ".tsv" else ",", notes)
    else:
        table = records_to_table(list(read_json_lines(path, notes)))
    if not table.num_rows:
        raise UserError(f"{path}: the table has no rows; give a file with at least one")
    return table


def existing_file(path: str | Path) -> Path:
    """The path, if a file is there.

    Raises:
        UserError: it is missing or no file.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(
            f"{path}: the file does not exist; correct the path in the config (it counts from {Path.cwd()})"
        )
    if not path.is_file():
        raise UserError(f"{path}: is no file; give the path of one table")
    return path


def read_bytes(path: Path) -> bytes:
    """All bytes of a file, unpacked if its name ends in ``.gz``.

    Raises:
        UserError: unreadable, or truncated or damaged gzip.
    """
    try:
        with open_binary(path) as file:
            return file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise broken(path, error) from None


def open_binary(path: Path) -> io.BufferedReader:
    """Open for reading, through gzip if the first bytes say so (whatever the name)."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return io.BufferedReader(gzip.open(path, "rb") if packed else path.open("rb", buffering=0), 1 << 20)  # type: ignore[type-var,arg-type]  # noqa: SIM115


def broken(path: Path, error: BaseException) -> UserError:
    """The sentence for a file that ends early or cannot be unpacked."""
    what = "truncated" if isinstance(error, EOFError) else "damaged or unreadable"
    return UserError(
        f"{path}: {what} ({str(error)[:200] or type(error).__name__}); fetch or write the file again"
    )


def read_lines(path: Path, notes: Counter[str]) -> Iterator[tuple[int, str]]:
    """Line number (from 1) and text of every line that is not blank, decoded with replacement.

    Raises:
        UserError: unreadable, truncated or damaged.
    """
    number = 0
    try:
        with open_binary(path) as file:
            for raw in file:
                number += 1
                try:
                    line = raw.decode("utf-8")
                except UnicodeDecodeError:
                    notes["lines_not_utf8"] += 1
                    line = raw.decode("utf-8", "replace")
                if number == 1:
                    line = line.removeprefix("\ufeff")
                if line.strip():
                    yield number, line
    except (OSError, EOFError, zlib.error) as error:
        raise broken(path, error) from None


def read_json_lines(path: Path, notes: Counter[str]) -> Iterator[dict[str, Any]]:
    """One object per line.

    Raises:
        UserError: as :func:`read_lines`, or a line that holds no JSON object.
    """
    for number, line in read_lines(path, notes):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", None) or type(error).__name__
            raise UserError(
                f"{path}: line {number} is not valid JSON ({reason}); correct or remove the line"
            ) from None
        if not isinstance(record, dict):
            raise UserError(
                f"{path}: line {number} holds a {type(record).__name__}, not an object; write one object per line"
            )
        yield record


def records_to_table(records: list[dict[str, Any]]) -> pa.Table:
    """Objects to columns in the order the keys appear; a column of mixed types becomes text (JSON for nested values)."""
    names = list(dict.fromkeys(key for record in records for key in record))
    columns = {}
    for name in names:
        values = [_clean(record.get(name)) for record in records]
        try:
            columns[clean_text(name)] = pa.array(values)
        except (pa.ArrowException, OverflowError, TypeError):
            texts = [
                v if v is None or isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in values
            ]
            columns[clean_text(name)] = pa.array(texts, pa.string())
    return pa.table(columns)


def _clean(value: Any) -> Any:
    """JSON text may hold lone surrogates; Arrow cannot."""
    if isinstance(value, str):
        return value if value.isascii() else clean_text(value)
    if isinstance(value, list):
        return [_clean(v) for v in value]
    if isinstance(value, dict):
        return {clean_text(k): _clean(v) for k, v in value.items()}
    return value


def _read_parquet(path: Path) -> pa.Table:
    try:
        with pq.ParquetFile(path) as file:
            return file.read()
    except (pa.ArrowException, OSError) as error:
        reason = str(error).split("\n")[0][:200]
        raise UserError(
            f"{path}: not a readable Parquet file ({reason}); it may be truncated: write or fetch it again"
        ) from None


def read_delimited(path: Path, delimiter: str, notes: Counter[str], quoted: bool = True) -> pa.Table:
    """A table with a header line; every column is text.

    Args:
        path: plain or gzipped.
        delimiter: one character.
        notes: as in :func:`read_table`.
        quoted: ``"`` around a value hides delimiters and line ends in it.

    Raises:
        UserError: unreadable, empty, a column name twice, or a row with too few or too many values.
    """
    data = read_bytes(path)
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("utf-8", "replace")
        notes["lines_not_utf8"] += sum("\ufffd" in line for line in text.splitlines())
        data = text.encode("utf-8")
    data = data.removeprefix(b"\xef\xbb\xbf")
    if not data.strip():
        raise UserError(f"{path}: the file is empty; give a table with a header line and at least one row")
    parse = pacsv.ParseOptions(
        delimiter=delimiter, newlines_in_values=quoted, quote_char='"' if quoted else False
    )
    try:
        header = pacsv.read_csv(
            pa.py_buffer(data[: data.find(b"\n") + 1 or None]), parse_options=parse
        ).column_names
        twice = sorted({name for name in header if header.count(name) > 1})
        if twice:
            raise UserError(f"{path}: column {twice[0]!r} stands twice in the header; rename one of them")
        convert = pacsv.ConvertOptions(
            column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=False
        )
        read = pacsv.ReadOptions(block_size=max(1 << 24, min(len(data) + 1, (1 << 31) - 1)))
        return pacsv.read_csv(
            pa.py_buffer(data), read_options=read, parse_options=parse, convert_options=convert
        )
    except pa.ArrowException as error:
        reason = str(error).split("\n")[0][:200]
        raise UserError(
            f"{path}: not a readable table ({reason}); every row needs the header's columns"
        ) from None
