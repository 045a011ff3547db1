"""Text as the models see it: one cleaned string per item, whatever the source held.

Cleaning removes what breaks later stages (NUL bytes, lone surrogates, bytes that are no UTF-8) and cuts what is
absurdly long; each kind is counted, so that nothing is lost without a trace.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

TEXT_FIELDS = ("title", "brand", "categories", "description")

_TAG = re.compile(
    r"<(?:!--.*?-->|(?:script|style)\b.*?</(?:script|style)\s*>|/?[a-zA-Z!][^<>]*>)",
    re.DOTALL | re.IGNORECASE,
)
_SPACE = re.compile(r"\s+")


def item_text(items: pa.Table, fields: Sequence[str] = TEXT_FIELDS) -> list[str]:
    """The text that an encoder or a prompt sees: the fields in the given order, one per line, blanks left out.

    Args:
        items: a table with string or list-of-string columns; a field without a column is skipped.
        fields: column names. List cells are joined with ``", "``.

    Returns:
        One string per row; empty where the item has no text.
    """
    columns = []
    for field in fields:
        if field not in items.column_names:
            continue
        column = combined(items.column(field))
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            column = join_lists(column, ", ")
        columns.append(pc.fill_null(pc.cast(column, pa.string()), ""))
    return join_columns(columns, "\n", items.num_rows)


def join_columns(columns: Sequence[pa.Array], separator: str, rows: int) -> list[str]:
    """Text columns without nulls to one text per row; blank cells are left out.

    Not ``pc.binary_join_element_wise``: with ``null_handling="skip"`` pyarrow 26 loses the rows in which all are null.
    """
    if not columns:
        return [""] * rows
    cells = [pc.utf8_trim_whitespace(column).to_pylist() for column in columns]
    return [separator.join(filter(None, row)) for row in zip(*cells, strict=True)]


def combined(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """A column as one contiguous array."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    return column


def join_lists(column: pa.Array, separator: str) -> pa.Array:
    """List cells to one string each; null elements are skipped, null and empty lists give an empty string."""
    values = column.to_pylist()
    return pa.array(
        [separator.join(str(v) for v in cell if v is not None) if cell else "" for cell in values],
        pa.string(),
    )


def clean_text(text: str) -> str:
    """Without NUL; lone surrogates become U+FFFD, so that the text can be encoded as UTF-8."""
    if "\0" in text:
        text = text.replace("\0", "")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def plain_text(text: str) -> str:
    """Shop text without HTML: entities decoded, tags and comments dropped, white space collapsed."""
    if "&" in text:
        text = html.unescape(text)
    if "<" in text:
        text = _TAG.sub(" ", text)
    return _SPACE.sub(" ", text).strip()


def as_strings(column: pa.Array, notes: Counter[str]) -> pa.Array:
    """A string-like or binary column as valid UTF-8 without NUL; nulls stay.

    Args:
        column: string, large_string or binary.
        notes: ``texts_not_utf8`` and ``texts_with_nul`` are raised by the cells that had to be mended.
    """
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type) or not _is_valid(column):
        raw = column.cast(pa.large_binary()).to_pylist()
        fixed = []
        for cell in raw:
            try:
                fixed.append(None if cell is None else cell.decode("utf-8"))
            except UnicodeDecodeError:
                notes["texts_not_utf8"] += 1
                fixed.append(clean_text(cell.decode("utf-8", "replace")))
        column = pa.array(fixed, pa.string())
    column = column.cast(pa.string())
    nul = pc.sum(pc.match_substring(column, "\0")).as_py() or 0
    if nul:
        notes["texts_with_nul"] += nul
        column = pc.replace_substring(column, "\0", "")
    return column


def _is_valid(column: pa.Array) -> bool:
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def cut(column: pa.Array, max_chars: int, notes: Counter[str]) -> pa.Array:
    """Texts cut to ``max_chars`` characters; ``texts_cut`` counts the ones that were longer."""
    long = pc.sum(pc.greater(pc.utf8_length(column), max_chars)).as_py() or 0
    if not long:
        return column
    notes["texts_cut"] += long
    return pc.utf8_slice_codeunits(column, 0, max_chars)
