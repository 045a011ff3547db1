"""RecBole atomic files: tab-separated, with the type of a column in its name (``user_id:token``, ``title:token_seq``)."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from dig_ray.catalog.build import Raw
from dig_ray.catalog.columns import interactions_table, items_table
from dig_ray.catalog.config import CatalogConfig
from dig_ray.catalog.delimited import read_delimited
from dig_ray.catalog.files import existing_file
from dig_ray.catalog.text import combined
from dig_ray.errors import UserError

TYPES = ("token", "token_seq", "float", "float_seq")


def read_recbole(config: CatalogConfig) -> Raw:
    """The ``.inter`` file and, if given, the ``.item`` file. Columns are mapped by their names without the type.

    A ``token_seq`` is words with spaces between: as a title or description it is a text, as categories it is one category per
    word unless ``category_separator`` is set.

    Raises:
        UserError: as the table readers, or a header without types.
    """
    assert config.interactions is not None
    notes: Counter[str] = Counter()
    items = None
    if config.items is not None:
        table, types = _read_atomic(config.items.path, notes)
        sequences = {name for name, kind in types.items() if kind == "token_seq"}
        names = config.items.columns.categories
        for name in ("categories",) if names is None else names:
            if name in sequences and config.items.category_separator is None:
                words = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(combined(table.column(name))))
                table = table.set_column(table.column_names.index(name), name, words)
        items = items_table(table, config.items, config.max_text_chars, notes, config.bad_ids)
    table, _ = _read_atomic(config.interactions.path, notes)
    interactions = interactions_table(
        table, config.interactions, config.split == "given", notes, config.bad_ids
    )
    return Raw(
        items, interactions, notes, config.items.path if config.items else "items", config.interactions.path
    )


def _read_atomic(path: str, notes: Counter[str]) -> tuple[pa.Table, dict[str, str]]:
    table = read_delimited(existing_file(path), "\t", notes, "plain")
    types: dict[str, str] = {}
    for column in table.column_names:
        name, colon, kind = column.rpartition(":")
        if not colon or kind not in TYPES:
            raise UserError(
                f"{path}: column {column!r} has no RecBole type; write it as name:{'|'.join(TYPES)}, or use source: table"
            )
        types[name] = kind
    if not table.num_rows:
        raise UserError(f"{path}: the table has no rows; give a file with at least one")
    return table.rename_columns(list(types)), types
