"""Plain tables into Arrow: Parquet, CSV, TSV and JSON lines, the text forms also gzipped.

A table from outside is never trusted: whatever is wrong with a file comes out as one sentence that names it. Text files are decoded as
UTF-8; bytes that are not are replaced and counted.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa

from dig_ray.catalog.readers.delimited import read_delimited
from dig_ray.catalog.readers.files import existing_file
from dig_ray.catalog.readers.json_lines import read_json_table
from dig_ray.catalog.readers.parquet import read_parquet
from dig_ray.errors import UserError

SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson", ".json")
PACKED = {
    ".zip": "unzip",
    ".zst": "zstd -d",
    ".bz2": "bunzip2",
    ".xz": "unxz",
    ".7z": "7z x",
    ".tar": "tar -x",
}


def read_table(
    path: str | Path, notes: Counter[str], quoting: str = "auto", setting: str | None = None
) -> pa.Table:
    """The whole table, rows in file order.

    A column of a CSV or TSV is text, so that an id such as ``007`` stays one; an empty cell is an empty text. A column of JSON lines
    is text, whole numbers, numbers, true and false, or lists of these; a column of anything else holds JSON documents, which
    :func:`dig_ray.catalog.columns.cells.cells_are_json` tells by its field. A column of a Parquet file is what its writer made it, in
    plain types (see :func:`dig_ray.catalog.readers.parquet.plain_type`).

    Args:
        path: the ending names the format; ``.gz`` after it means gzip.
        notes: raised by what had to be mended: ``lines_not_utf8`` by lines with bytes that had to be replaced; see also
            :func:`dig_ray.catalog.readers.delimited.read_delimited` and :func:`dig_ray.catalog.readers.json_lines.records_to_table`.
        quoting: how quotes in a CSV or TSV are read, see :class:`dig_ray.catalog.config.ItemsConfig`.
        setting: the key of the config that says ``quoting`` of this file, if there is one, for messages.

    Raises:
        UserError: missing, unreadable, truncated, of an unknown format, without rows, or wrong inside; see the readers.
    """
    path = existing_file(path)
    name = path.name.lower()
    plain = name.removesuffix(".gz")
    suffix = next((s for s in SUFFIXES if plain.endswith(s)), None)
    if suffix is None or (suffix == ".parquet" and name.endswith(".gz")):
        packed = next((tool for ending, tool in PACKED.items() if name.endswith(ending)), None)
        how = f"unpack it ({packed}) and " if packed else ""
        raise UserError(
            f"{path}: unknown format; {how}give a .parquet, .csv, .tsv or .jsonl file (the last three also as .gz)"
        )
    if suffix == ".parquet":
        table = read_parquet(path)
    elif suffix in (".csv", ".tsv"):
        table = read_delimited(path, "\t" if suffix == ".tsv" else ",", notes, quoting, setting)
    else:
        table = read_json_table(path, notes)
    if not table.num_rows:
        raise UserError(f"{path}: the table has no rows; give a file with at least one")
    _count_odd_names(table.column_names, notes)
    return table


def _count_odd_names(names: list[str], notes: Counter[str]) -> None:
    """Say what makes a column not be found by its name: it is easily overlooked, and its field is then empty."""
    alike = Counter(name.strip().lower() for name in names)
    if twice := sum(count for count in alike.values() if count > 1):
        notes["columns_whose_names_differ_in_case_or_space_only"] += twice
    if spaced := sum(name != name.strip() for name in names):
        notes["columns_with_space_around_their_name"] += spaced
