"""From a config to raw tables: whatever the source."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from dig_ray.catalog.build import Raw
from dig_ray.catalog.config import CatalogConfig
from dig_ray.catalog.readers import READERS

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
    module, _, function = READERS[config.source].read.partition(":")
    raw: Raw = getattr(import_module(module), function)(config, seed, log)
    return raw
