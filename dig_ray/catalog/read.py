"""From a config to raw tables: the one place that knows all sources."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from dig_ray.catalog.build import Raw
from dig_ray.catalog.columns import interactions_table, items_table
from dig_ray.catalog.config import CatalogConfig
from dig_ray.catalog.samples import samples_to_events
from dig_ray.catalog.tables import read_table
from dig_ray.catalog.text import combined

LARGE = 50_000_000  # bytes; a file from here on is announced, as it takes its time


def read_raw(config: CatalogConfig, seed: int = 0, log: Callable[[str], None] = print) -> Raw:
    """Read, download or generate what ``config.source`` names.

    Args:
        config: the catalogue's settings.
        seed: seeds the demo world, unless it has a seed of its own.
        log: prints one line of progress.

    Raises:
        UserError: a file cannot be used; see the readers.
    """
    for part in (config.items, config.interactions):
        if part is not None and (path := Path(part.path)).is_file() and path.stat().st_size >= LARGE:
            log(f"catalog: reads {path.name}, {path.stat().st_size / 1e6:,.0f} MB")
    if config.source == "demo":
        from dig_ray.catalog.demo import demo_world

        return demo_world(config.demo, seed)
    if config.source.startswith("amazon"):
        from dig_ray.catalog.amazon import read_amazon

        if config.download is not None:
            from dig_ray.catalog.download import fetch_release

            reviews, meta = fetch_release(config, log)
            return read_amazon(config, str(reviews), str(meta))
        assert config.interactions is not None
        return read_amazon(config, config.interactions.path, config.items.path if config.items else None)
    if config.source == "recbole":
        from dig_ray.catalog.recbole import read_recbole

        return read_recbole(config)
    return _read_plain(config)


def _read_plain(config: CatalogConfig) -> Raw:
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
