"""A file of Semantic IDs that somebody brings along: item_id, codes, and perhaps suffix.

Codes are a list of whole numbers (12.0 is one), or of tokens such as ``<a_12>``, ``<b_7>`` whose letter is the level's, as LC-Rec and its
kin spell them; also written as text: ``[12, 7]``, ``['<a_12>', '<b_7>']``, or the tokens one after the other, ``<a_12><b_7>``. Ids follow
the rule of the catalogue's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dig_ray.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

LEVEL_LETTERS = "abcdefghijklmnopqrstuvwxyz"
NO_SUFFIX = -1
_TOKENS = re.compile(r"(?:<[A-Za-z]_?[0-9]{1,9}>\s*){2,}")
_TOKEN = re.compile(r"<?([A-Za-z])_?([0-9]{1,9})>?")


def read_codes_table(path: str | Path, codes_column: str) -> pa.Table:
    """The Parquet file.

    Raises:
        UserError: missing, unreadable, or without the columns, or with one of them twice.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the semantic_ids stage or correct the path") from None
    except (pa.ArrowException, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise UserError(f"{path}: not a readable Parquet file ({reason}); write it again") from None
    names = table.column_names
    for column in ("item_id", codes_column):
        if column not in names:
            raise UserError(f"{path}: no column {column!r}; it has {', '.join(names)}")
    for column in ("item_id", codes_column, "suffix"):
        if names.count(column) > 1:
            raise UserError(f"{path}: column {column!r} stands there twice; rename or drop one of them")
    if not table.num_rows:
        raise UserError(f"{path}: no rows")
    return table


def read_item_ids(table: pa.Table, what: str, rows: np.ndarray) -> np.ndarray:
    """Ids of the rows, which stand at ``rows`` of the file.

    Raises:
        UserError: something is no id.
    """
    from dig_ray.catalog.columns.id_cells import every_id

    return np.asarray(every_id(table, "item_id", what, rows), dtype=object)


def read_suffixes(table: pa.Table, what: str, rows: np.ndarray) -> np.ndarray | None:
    """int32 (N,), -1 where there is none; None without such a column.

    Raises:
        UserError: something is no whole number from 0.
    """
    from dig_ray.catalog.columns.cells import column_of, distinct, is_missing

    if "suffix" not in table.column_names:
        return None
    column = column_of(table, "suffix", rows)
    values, places = distinct(column)
    numbers: list[int] = []
    for number, value in enumerate(values):
        whole = NO_SUFFIX if is_missing(value) else _whole(value)
        if whole is None or (whole < 0 and not is_missing(value)) or whole >= 1 << 31:
            row = column.row(int(np.argmax(places == number)))
            raise UserError(
                f"{what}: column 'suffix' must hold whole numbers from 0, or null where there is none, not {str(value)[:40]!r} in "
                f"data row {row}"
            )
        numbers.append(whole)
    return np.asarray([*numbers, NO_SUFFIX], dtype=np.int32)[places]


def read_codes(table: pa.Table, name: str, what: str, skip_uncoded: bool) -> tuple[np.ndarray, np.ndarray]:
    """The codes, int32 (M, L), and bool (N,) which rows have any; all must, unless ``skip_uncoded``.

    Raises:
        UserError: no lists of codes, of unequal length, with nulls, or with what is no code.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    from dig_ray.catalog.columns.cells import column_of, is_list, is_text

    column = column_of(table, name)
    lists = _written(column.cells.to_pylist(), name, what) if is_text(column.kind) else column.cells
    if not is_list(lists.type):
        raise UserError(f"{what}: column {name!r} is {lists.type}, expected a list of whole numbers per item")
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    coded = lengths > 0
    if not skip_uncoded:
        _check_all(coded, name, what)
        coded = np.ones(len(coded), dtype=bool)
    rows = np.flatnonzero(coded)
    if not len(rows):
        raise UserError(f"{what}: column {name!r} has codes in none of its {len(coded):,} rows")
    levels = int(np.bincount(lengths[coded]).argmax())
    odd = rows[lengths[coded] != levels]
    if len(odd):
        raise UserError(
            f"{what}: column {name!r} has {lengths[coded].min()} to {lengths[coded].max()} codes per item; it must be one number "
            f"(data row {odd[0] + 1} has {lengths[odd[0]]}, most have {levels})"
        )
    flat = lists.filter(pa.array(coded)).flatten()
    if flat.null_count:
        there = flat.is_valid().to_numpy(zero_copy_only=False).reshape(-1, levels)
        _check_all(np.asarray(there.all(axis=1)), name, what, rows)
    return _numbers(flat, levels, rows, name, what).reshape(-1, levels), coded


def _check_all(there: np.ndarray, name: str, what: str, rows: np.ndarray | None = None) -> None:
    if not there.all():
        at = int(np.argmin(there))
        raise UserError(
            f"{what}: column {name!r} has missing codes in data row {(at if rows is None else int(rows[at])) + 1} "
            f"({int((~there).sum()):,} such rows); every item needs all of them"
        )


def _numbers(flat: pa.Array, levels: int, rows: np.ndarray, name: str, what: str) -> np.ndarray:
    """Codes as int32; ``rows`` says where each item stands."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(flat.type):
        flat = flat.dictionary_decode()
    if pa.types.is_string(flat.type) or pa.types.is_large_string(flat.type):
        flat = _token_codes(flat, levels, rows, name, what)
    if not (pa.types.is_integer(flat.type) or pa.types.is_floating(flat.type)):
        raise UserError(f"{what}: column {name!r} holds {flat.type}, expected whole numbers")
    codes = flat.to_numpy(zero_copy_only=False)
    if pa.types.is_floating(flat.type):
        with np.errstate(invalid="ignore"):
            broken = ~(codes == np.floor(codes)) | ~np.isfinite(codes)
        if broken.any():
            at = int(np.argmax(broken))
            raise UserError(
                f"{what}: column {name!r} has {codes[at]} as code {at % levels + 1} of data row {rows[at // levels] + 1}, "
                "expected whole numbers"
            )
    if pc.max(flat).as_py() >= 1 << 31 or pc.min(flat).as_py() < -(1 << 31):
        at = int(np.argmax(np.abs(codes.astype(np.float64))))
        raise UserError(
            f"{what}: column {name!r} has code {codes[at]}, which is no code (data row {rows[at // levels] + 1}); number them from 0"
        )
    return codes.astype(np.int32)


def _whole(value: Any) -> int | None:
    """A whole number, also as a float or as text; None for what is none."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,10}(\.0*)?", value.strip()):
        return int(float(value))
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        return None
    return int(value) if abs(value) < 1 << 53 and value == int(value) else None


def _written(texts: Sequence[str | bytes | None], name: str, what: str) -> pa.Array:
    """Lists of codes written as text, as lists of whole numbers or of tokens."""
    import pyarrow as pa

    rows: list[list[Any] | None] = []
    for row, text in enumerate(texts):
        codes = _one(text)
        if codes == "":
            raise UserError(
                f"{what}: column {name!r} holds {str(text)[:60]!r} in data row {row + 1}, expected a list of codes; write [12, 7], or "
                "tokens such as <a_12><b_7>"
            )
        rows.append(codes)  # type: ignore[arg-type]
    kinds = {type(code) for codes in rows for code in codes or ()} - {type(None)}
    if len(kinds) > 1:
        raise UserError(
            f"{what}: column {name!r} holds numbers in some rows and tokens in others; write one of them"
        )
    return pa.array(rows, pa.list_(pa.string() if kinds == {str} else pa.int64()))


def _one(text: str | bytes | None) -> list[Any] | str | None:
    """A cell's codes, None where it is empty, "" where it is no list of codes."""
    from dig_ray.catalog.columns.cells import NAN_WORDS
    from dig_ray.catalog.readers.literals import read_literal

    text = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    if text is None or not text.strip() or text.strip() in NAN_WORDS:
        return None
    if _TOKENS.fullmatch(text.strip()):
        return re.findall(r"<[^>]+>", text)
    try:
        value = read_literal(text)
    except ValueError:
        return ""
    if not isinstance(value, list):
        return ""
    codes = [
        code if code is None or (isinstance(code, str) and _TOKEN.fullmatch(code)) else _whole(code)
        for code in value
    ]
    return (
        ""
        if any(code is None and given is not None for code, given in zip(codes, value, strict=True))
        else codes
    )


def _token_codes(flat: pa.Array, levels: int, rows: np.ndarray, name: str, what: str) -> pa.Array:
    """Codes of tokens in the spelling of LC-Rec and its kin, ``<a_12>``, ``<b_7>`` ...: a letter for the level, then the code."""
    import pyarrow as pa
    import pyarrow.compute as pc

    parts = pc.extract_regex(flat, r"^<?(?P<letter>[A-Za-z])_?(?P<code>[0-9]{1,9})>?$")
    wanted = pa.array([LEVEL_LETTERS[level % len(LEVEL_LETTERS)] for level in range(levels)])
    wanted = wanted.take(pa.array(np.arange(len(flat)) % levels))
    right = pc.fill_null(pc.equal(pc.utf8_lower(pc.struct_field(parts, "letter")), wanted), False)
    if not pc.all(right).as_py():
        at = int(np.argmin(right.to_numpy(zero_copy_only=False)))
        raise UserError(
            f"{what}: column {name!r} has {str(flat[at].as_py())[:40]!r} as code {at % levels + 1} of data row "
            f"{rows[at // levels] + 1}; there a token such as <{wanted[at].as_py()}_12> is expected, with the level's letter and the code"
        )
    return pc.struct_field(parts, "code").cast(pa.int64())
