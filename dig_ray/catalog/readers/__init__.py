"""Where raw data comes from: one file a source, and its row in :data:`READERS`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reader:
    """What is known of a source before anything of it is read.

    Attributes:
        read: ``module:function``, called with (:class:`~dig_ray.catalog.config.CatalogConfig`, seed, log) and returning
            :class:`~dig_ray.catalog.build.Raw`. ``log`` prints one line of progress.
        files: whether it reads the files that ``items`` and ``interactions`` name; else it is generated.
        columns: whether the user maps its columns; else it knows its own.
        split: whether it may have a column that says which part of the split a row belongs to.
        quoting: whether ``"`` in its files may mean two things, so that the user can say which.
        items_alone: whether it can do without interactions, as a catalogue that nobody has used yet.
        downloads: whether it has named releases that can be fetched.
    """

    read: str
    files: bool = True
    columns: bool = True
    split: bool = False
    quoting: bool = False
    items_alone: bool = False
    downloads: bool = False

    @property
    def module(self) -> str:
        """Where its code starts."""
        return self.read.partition(":")[0]


_AMAZON = Reader("dig_ray.catalog.readers.amazon:read", columns=False, downloads=True)

READERS = {
    "demo": Reader("dig_ray.catalog.demo.world:read", files=False),
    "table": Reader("dig_ray.catalog.readers.plain:read", split=True, quoting=True, items_alone=True),
    "amazon14": _AMAZON,
    "amazon18": _AMAZON,
    "amazon23": _AMAZON,
    "recbole": Reader("dig_ray.catalog.readers.recbole:read", split=True),
}
"""Source -> its reader, in the order in which they are named to a user."""
