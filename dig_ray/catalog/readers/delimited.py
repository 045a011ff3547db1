"""CSV and TSV into Arrow: every column is text, every row is there, or one sentence says where the file is wrong."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from dig_ray.catalog.columns.faults import Faults, shown
from dig_ray.catalog.readers.files import as_utf8, read_bytes, steady
from dig_ray.catalog.readers.quotes import CR, LF, QUOTE, find_quotes, is_quoted, line_of, places
from dig_ray.errors import UserError

BLOCK = 1 << 24  # bytes parsed in one go; a longer row takes the whole file as one block
OTHERS = {b",": "commas", b";": "semicolons", b"\t": "tabs", b"|": "bars"}


def read_delimited(
    path: Path, delimiter: str, notes: Counter[str], quoting: str = "auto", setting: str | None = None
) -> pa.Table:
    """A table with a header line; every column is text, an empty cell an empty text.

    Lines before the header that are blank, and blank lines between rows, are no rows. ``sep=,`` in a line before the header (Excel
    writes it) is skipped.

    Args:
        path: plain or gzipped.
        delimiter: one character.
        notes: ``lines_not_utf8`` is raised by the lines with bytes that had to be replaced, ``quotes_read_as_text`` by the quotes of
            a TSV that were taken for ordinary characters, ``columns_without_name`` by columns that were named ``unnamed_N``, and
            ``empty_columns_dropped`` by those without name and values.
        quoting: ``quoted``, ``plain`` or ``auto``, see :class:`dig_ray.catalog.config.ItemsConfig`.
        setting: the key of the config that says ``quoting`` of this file, if there is one, for messages.

    Raises:
        UserError: unreadable, empty, quotes that are not as they have to be, a column name twice, or rows with too few or too many
            values; the header again as a row.
    """
    with steady(path):
        data = read_bytes(path)
    data = as_utf8(data, notes)
    if not data.strip():
        raise UserError(f"{path}: the file is empty; give a table with a header line and at least one row")
    sign = delimiter.encode()
    first = _header_start(data, sign, path)
    quotes = find_quotes(data, sign) if quoting != "plain" else None
    quoted = quotes is not None and quotes.count > 0 and is_quoted(data, sign, quoting, quotes, path, setting)
    marks = quotes.marks if quotes is not None and quoted else np.zeros(0, np.uint32)
    if quotes is not None and quotes.count and not quoted:
        notes["quotes_read_as_text"] += quotes.count
    end = _record_end(data, first, marks)
    names = _header(data[first:end].decode("utf-8"), delimiter, quoted, path)
    table = _parse(data, end, names, delimiter, quoted)
    if table is None:
        raise _ragged(data, first, marks, sign, len(names), path, setting)
    _refuse_header_as_row(table, names, path)
    return _named(table, names, notes)


def _header_start(data: bytes, sign: bytes, path: Path) -> int:
    start = re.match(rb"(?:[ ]*(?:\r\n|\r|\n))*", data).end()  # type: ignore[union-attr]
    hint = re.compile(rb"sep=(.)[ \"]*(?:\r\n|\r|\n)").match(data, start)
    if hint is None:
        return start
    if hint[1] != sign:
        raise UserError(
            f"{path}: is delimited by {OTHERS.get(hint[1], repr(hint[1].decode('latin-1')))}, as its first line says; "
            f"write it with {OTHERS[sign]}"
        )
    return hint.end()


def _record_end(data: bytes, start: int, marks: np.ndarray) -> int:
    """One behind the line end that ends the record which begins at ``start``."""
    for found in re.compile(rb"\r\n|\r|\n").finditer(data, start):
        if np.searchsorted(marks, found.start()) % 2 == 0:
            return found.end()
    return len(data)


def _header(text: str, delimiter: str, quoted: bool, path: Path) -> list[str]:
    if "\ufffd" in text:
        raise UserError(
            f"{path}: the header ({shown(text.strip())}) holds bytes that are not UTF-8; save the file as UTF-8"
        )
    style: Literal[0, 3] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    try:
        names = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=style))
    except csv.Error as error:
        raise UserError(
            f"{path}: the header is not readable ({error}); give the file a line of column names"
        ) from None
    if len(names) == 1:
        for sign, name in OTHERS.items():
            if (other := sign.decode()) != delimiter and other in names[0]:
                cure = {"\t": "let its name end in .tsv", ",": "let its name end in .csv"}.get(other)
                raise UserError(
                    f"{path}: the header is one column, {shown(names[0])}, so the file seems to be delimited by {name}; "
                    f"{cure or 'write it with commas'}"
                )
    if not any(name.strip() for name in names):
        raise UserError(f"{path}: the header names no column; give the file a first line of column names")
    twice = sorted({name for name in names if name.strip() and names.count(name) > 1})
    if twice:
        raise UserError(f"{path}: column {twice[0]!r} stands twice in the header; rename one of them")
    return names


def _parse(data: bytes, start: int, names: list[str], delimiter: str, quoted: bool) -> pa.Table | None:
    """The rows behind the header in columns 0, 1, ...; None if a row has another number of values."""
    columns = [str(n) for n in range(len(names))]
    rest = pa.py_buffer(data).slice(start)
    if not data[start : start + 4096].strip(b"\r\n") and not data[start:].strip(b"\r\n"):
        return pa.table([pa.array([], pa.string())] * len(names), names=columns)
    parse = pacsv.ParseOptions(
        delimiter=delimiter, newlines_in_values=quoted, quote_char='"' if quoted else False
    )
    convert = pacsv.ConvertOptions(
        column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=False
    )
    for block in (BLOCK, max(BLOCK, min(rest.size + 1, (1 << 31) - 1))):
        try:
            read = pacsv.ReadOptions(block_size=block, column_names=columns)
            return pacsv.read_csv(pa.BufferReader(rest), read, parse, convert)
        except pa.ArrowInvalid as error:
            if "straddling" not in str(error):
                return None
    return None


def _ragged(
    data: bytes, first: int, marks: np.ndarray, sign: bytes, columns: int, path: Path, setting: str | None
) -> UserError:
    """Every row with another number of values than the header has, the first few of them by line."""
    faults = Faults(path, "line")

    def outside(byte: int) -> np.ndarray:
        found = places(data, byte)
        return found[np.searchsorted(marks, found) % 2 == 0] if len(marks) else found

    ends = np.unique(np.concatenate([outside(LF), outside(CR), np.array([len(data)], np.uint32)]))
    ends = ends[ends >= first]
    starts = np.concatenate([[first], ends[:-1] + 1])
    counts = np.diff(np.searchsorted(outside(sign[0]), np.concatenate([[first], ends]))) + 1
    bad = np.flatnonzero((counts != columns) & (ends > starts))
    hint = ""
    if (counts[bad] > columns).any():
        hint = "; where a value holds the delimiter, put it in quotes"
        if setting and QUOTE in data and not len(marks):
            hint += f" and set {setting}=quoted"
    for count in dict.fromkeys(counts[bad].tolist()):
        rows = bad[counts[bad] == count]
        what = f"has {count} value{'s' * (count != 1)} and the header {columns}"
        line = line_of(data, int(starts[rows[0]]))
        faults.add("", what, line, rows=len(rows), cure=f"every row needs the header's columns{hint}")
    if not faults:
        faults.add("", "a row cannot be taken apart", cure="write the file again with Python's csv or pandas")
    return UserError(str(faults))


def _refuse_header_as_row(table: pa.Table, names: list[str], path: Path) -> None:
    same: pa.ChunkedArray | None = None
    for n, (column, name) in enumerate(zip(table.columns, names, strict=True)):
        equal = pc.equal(column if n else pc.utf8_ltrim(column, "\ufeff"), name)  # each file's own mark
        same = equal if same is None else pc.and_(same, equal)
        if not pc.any(same).as_py():
            return
    row = pc.index(same, True).as_py() + 1
    raise UserError(f"{path}: data row {row} is the header again; remove it (files put together?)")


def _named(table: pa.Table, names: list[str], notes: Counter[str]) -> pa.Table:
    """Columns by name; one without a name is left out if it is empty, else named by its place."""
    keep = []
    for n, name in enumerate(names):
        if not name.strip():
            if (pc.max(pc.binary_length(table.column(n))).as_py() or 0) == 0:
                notes["empty_columns_dropped"] += 1
                continue
            name = f"unnamed_{n + 1}" + "_" * (f"unnamed_{n + 1}" in names)
            notes["columns_without_name"] += 1
            names[n] = name
        keep.append(n)
    return table.select(keep).rename_columns([names[n] for n in keep])
