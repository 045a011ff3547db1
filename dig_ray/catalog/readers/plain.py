"""Tables with any columns, which the config maps to fields: Parquet, CSV, TSV or JSONL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from dig_ray.catalog.build import Raw
from dig_ray.catalog.columns.fields import interactions_table, items_table
from dig_ray.catalog.config import CatalogConfig
from dig_ray.catalog.readers.samples import samples_to_events
from dig_ray.catalog.readers.tables import read_table
from dig_ray.catalog.text import combined


def read(config: CatalogConfig, seed: int, log: Callable[[str], None]) -> Raw:
    """The items file and the interactions file, where they are named; rows of published samples become events.

    Raises:
        UserError: a file or a column of it cannot be used.
    """
    notes: Counter[str] = Counter()
    items = None
    if config.items is not None:
        table = read_table(config.items.path, notes, config.items.quoting, "catalog.items.quoting")
        items = items_table(table, config.items, config.max_text_chars, notes, config.bad_ids)
    items_file = config.items.path if config.items else "items"
    if config.interactions is None:
        return Raw(items, None, notes, items_file)
    table = read_table(
        config.interactions.path, notes, config.interactions.quoting, "catalog.interactions.quoting"
    )
    samples = config.interactions.columns.history is not None
    bad_ids = (
        "error" if samples else config.bad_ids
    )  # rows of samples stay as they are, beside their histories
    interactions = interactions_table(table, config.interactions, config.split == "given", notes, bad_ids)
    if samples:
        known = None if items is None else combined(items.column("item_id"))
        interactions = samples_to_events(
            table, interactions, config.interactions, config.duplicates, notes, known
        )
    return Raw(items, interactions, notes, items_file, config.interactions.path)
