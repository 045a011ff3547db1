"""RecBole atomic files: tab-separated, with the type of a column in its name (``user_id:token``, ``title:token_seq``)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from dig_ray.catalog.build import Raw
from dig_ray.catalog.columns.faults import Faults
from dig_ray.catalog.columns.fields import interactions_table, items_table
from dig_ray.catalog.config import CatalogConfig
from dig_ray.catalog.readers.delimited import read_delimited
from dig_ray.catalog.readers.files import existing_file
from dig_ray.catalog.text import combined
from dig_ray.errors import UserError

TYPES = ("token", "token_seq", "float", "float_seq")


def read(config: CatalogConfig, seed: int, log: Callable[[str], None]) -> Raw:
    """The ``.inter`` file and, if given, the ``.item`` file. Columns are mapped by their names without the type.

    A ``token_seq`` is words with spaces between: as a title or description it is a text, as categories it is one category per
    word unless ``category_separator`` is set.

    Raises:
        UserError: as the table readers, a header without types, or values that are not of the type of their column.
    """
    assert config.interactions is not None
    notes: Counter[str] = Counter()
    items = None
    if config.items is not None:
        table, types = _read_atomic(config.items.path, {config.items.columns.item_id}, notes)
        sequences = {name for name, kind in types.items() if kind == "token_seq"}
        names = config.items.columns.categories
        for name in ("categories",) if names is None else names:
            if name in sequences and config.items.category_separator is None:
                words = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(combined(table.column(name))))
                table = table.set_column(table.column_names.index(name), name, words)
        items = items_table(table, config.items, config.max_text_chars, notes, config.bad_ids)
    ids = {config.interactions.columns.user_id, config.interactions.columns.item_id}
    table, _ = _read_atomic(config.interactions.path, ids, notes)
    interactions = interactions_table(
        table, config.interactions, config.split == "given", notes, config.bad_ids
    )
    return Raw(
        items, interactions, notes, config.items.path if config.items else "items", config.interactions.path
    )


def _read_atomic(path: str, ids: set[str], notes: Counter[str]) -> tuple[pa.Table, dict[str, str]]:
    """The table and the type of each column; names without types. Columns of floats that hold ids are numbers, all others texts.

    Args:
        path: the file's path, for messages.
        ids: names of the columns that hold ids.
        notes: see :func:`dig_ray.catalog.readers.delimited.read_delimited`.
    """
    table = read_delimited(existing_file(path), "\t", notes, "plain")
    types: dict[str, str] = {}
    for column in table.column_names:
        name, colon, kind = column.rpartition(":")
        if not colon or kind not in TYPES:
            raise UserError(
                f"{path}: column {column!r} has no RecBole type; write it as name:{'|'.join(TYPES)}, or use source: table"
            )
        if name in types:
            raise UserError(f"{path}: column {name!r} stands twice in the header; rename one of them")
        types[name] = kind
    if not table.num_rows:
        raise UserError(f"{path}: the table has no rows; give a file with at least one")
    table = table.rename_columns(list(types))
    faults = Faults(path)
    for n, (name, kind) in enumerate(types.items()):
        if name in ids and kind.endswith("_seq"):
            faults.add(f"column {name}", f"is a {kind}, which is no id", cure="choose a column of type token")
        elif kind in ("float", "float_seq"):
            numbers = _floats(combined(table.column(n)), kind, f"column {name}", faults)
            if name in ids and numbers is not None:
                table = table.set_column(n, name, numbers)
    faults.raise_any()
    return table, types


def _floats(column: pa.Array, kind: str, where: str, faults: Faults) -> pa.Array | None:
    """The numbers of a column that says it has them, null where empty; what is none is a fault."""
    row_of = None
    if kind == "float_seq":
        words = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(column))
        row_of, column = pc.list_parent_indices(words), pc.list_flatten(words)
    texts = pc.utf8_trim_whitespace(column)
    texts = pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)
    try:
        return texts.cast(pa.float64())
    except pa.ArrowInvalid:
        bad = [n for n, text in enumerate(texts.to_pylist()) if text is not None and not _is_float(text)]
    if bad:
        row = bad[0] if row_of is None else row_of[bad[0]].as_py()
        what = f"is of type {kind} and holds {{value}}, which is no number"
        faults.add(where, what, row + 1, texts[bad[0]].as_py(), rows=len(bad))
    return None


def _is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
