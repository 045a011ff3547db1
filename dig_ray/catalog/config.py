"""Settings of the catalogue stage: where items and interactions come from, how they are cleaned and split.

Every rule that changes which rows are kept is a setting with a name, because two runs are only comparable when
all of these agree; the split's hash then proves that they do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from dig_ray.base import Config, InputPath, free
from dig_ray.catalog.readers import READERS, Reader

DecimalMark = Literal["auto", "point", "comma"]
Quoting = Literal["auto", "quoted", "plain"]


def _names(value: Any) -> Any:
    """One column name or a list of them, as a tuple; None stays None."""
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


class ItemColumns(Config):
    """Which column of the items file is which field.

    A field left out takes the column of its own name, if there is one; a column named here must exist. Text fields
    (title, description, brand) may name several columns, joined by a space; list cells are joined the same way.
    An empty list switches a field off.
    """

    item_id: str = "item_id"
    title: tuple[str, ...] | None = None
    description: tuple[str, ...] | None = None
    brand: tuple[str, ...] | None = None
    categories: tuple[str, ...] | None = None
    price: str | None = None
    image: str | None = None
    image_bytes: str | None = None

    _as_tuple = field_validator("title", "description", "brand", "categories", mode="before")(_names)


class InteractionColumns(Config):
    """Which column of the interactions file is which field; a field left out takes the column of its own name, if any.

    ``history`` (source table, split given) says that a row is a published sample: the user's items so far in this column of lists,
    the next item in ``item_id``, its part in ``split``. See :mod:`dig_ray.catalog.readers.samples`.
    """

    user_id: str = "user_id"
    item_id: str = "item_id"
    timestamp: str | None = None
    position: str | None = None
    rating: str | None = None
    split: str | None = None
    history: str | None = None


class ItemsConfig(Config):
    """The items file.

    Attributes:
        path: Parquet, CSV, TSV or JSONL, the last three also gzipped; for amazon sources the ``meta_*`` file, for
            recbole the ``.item`` file.
        columns: column mapping (sources table and recbole).
        category_separator: splits a category text such as ``"Tools,Saws"`` into several; None keeps it whole.
        extra_columns: keep the columns that are no field, as evidence or truth for later stages.
        decimal_mark: what stands before the decimals of prices written as text: ``point``, ``comma``, or ``auto``, which finds it in the
            column; a price such as 1.800 that it does not tell apart is unknown, and counted.
        quoting: what ``"`` means in a CSV or TSV: ``quoted`` (RFC 4180), ``plain`` (a character like any other), or ``auto``:
            quoted, but in a TSV none of whose quotes makes a quoted cell, plain.
    """

    path: InputPath = free(min_length=1)
    columns: ItemColumns = ItemColumns()
    category_separator: str | None = Field(default=None, min_length=1)
    extra_columns: bool = True
    decimal_mark: DecimalMark = "auto"
    quoting: Quoting = "auto"


class InteractionsConfig(Config):
    """The interactions file.

    Attributes:
        path: as for items; for amazon sources the reviews file, for recbole the ``.inter`` file.
        columns: column mapping (sources table and recbole).
        time_unit: unit of a numeric timestamp; ``auto`` tells seconds, milliseconds, microseconds and nanoseconds apart by their size,
            and all values must agree. ``each`` reads every value by its own size (logs merged from several sources), ``order`` takes
            the numbers for the order of events only, one clock for all users.
        decimal_mark: which of point and comma begins the decimals of ratings, as for items.
        quoting: how quotes in the file are read, as for items.
        padding: an id that only fills histories up to a length (``columns.history``); it is dropped from them, and counted.
    """

    path: InputPath = free(min_length=1)
    columns: InteractionColumns = InteractionColumns()
    time_unit: Literal["auto", "s", "ms", "us", "ns", "each", "order"] = "auto"
    decimal_mark: DecimalMark = "auto"
    quoting: Quoting = "auto"
    padding: str | None = Field(default=None, min_length=1)


class DownloadConfig(Config):
    """A named release to fetch before reading.

    Attributes:
        name: category of the release as its publisher writes it, for example ``All_Beauty``.
        directory: where the files are kept between runs.
        core: the 5-core reviews file instead of all reviews (2014 and 2018; 2023 has raw files only, see k_core).
        sha256: pinned checksum by file name. A file that is not pinned is recorded at the first download and must
            stay the same afterwards.
        base_url: a mirror to use instead of the publisher.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_]{1,60}$")
    directory: InputPath = free("downloads", min_length=1)
    core: bool = True
    sha256: Mapping[str, str] = {}
    base_url: str | None = Field(default=None, pattern=r"^https?://\S+$")

    @field_validator("sha256")
    @classmethod
    def _hex(cls, value: Mapping[str, str]) -> Mapping[str, str]:
        for name, digest in value.items():
            if len(digest) != 64 or set(digest.lower()) - set("0123456789abcdef"):
                raise ValueError(f"sha256 of {name} must be 64 hex digits, not {digest!r}")
        return value


class ImagesConfig(Config):
    """How the items' pictures are opened: bytes of a column, paths, members of an archive, or addresses on the web.

    Attributes:
        root: folder that relative paths count from; a path that leaves it is refused. Without one, paths count from
            the working directory and may lie anywhere.
        archive: a .zip or an uncompressed .tar whose members the image column names.
        fetch: whether http and https addresses are fetched.
        private_hosts: names or addresses of hosts that may lie in a private network, such as an intranet's.
        timeout: seconds for one try at an address.
        in_flight: addresses fetched at once, over all workers.
        max_bytes: a longer file or body is not read.
        max_pixels: a picture that unfolds to more is not decoded; at most what Pillow opens without a warning.
        min_side: a picture with a shorter side shows nothing.
        side: what is kept has a shorter side of at most this many pixels, and a longer one of at most four times that.
        missing: items without a usable picture: ``keep`` them, ``drop`` them from the catalogue after the k-core (which is
            then taken again), or ``error``.
    """

    root: InputPath | None = free(None, min_length=1)
    archive: InputPath | None = free(None, min_length=1)
    fetch: bool = False
    private_hosts: tuple[str, ...] = ()
    timeout: float = free(20.0, gt=0, le=600)
    in_flight: int = free(16, ge=1, le=1024)
    max_bytes: int = Field(default=50 << 20, ge=1, le=1 << 30)
    max_pixels: int = Field(default=50_000_000, ge=1, le=89_478_485)
    min_side: int = Field(default=2, ge=1)
    side: int = Field(default=512, ge=16, le=4096)
    missing: Literal["keep", "drop", "error"] = "keep"

    @model_validator(mode="after")
    def _one_place(self) -> ImagesConfig:
        if self.root is not None and self.archive is not None:
            raise ValueError("root and archive both say where pictures lie; keep one of them")
        if self.archive is not None and not self.archive.lower().endswith((".zip", ".tar")):
            raise ValueError(f"archive {self.archive} is neither .zip nor .tar; repack it as one of them")
        return self


class DemoConfig(Config):
    """The generated world. All counts are exact; the same seed gives the same bytes.

    Attributes:
        n_items: size of the catalogue.
        n_users: number of users.
        n_intents: how many of the usage contexts are in use.
        mean_events: mean length of a user's history; every user has at least 5 events.
        noise: share of events that follow popularity alone and no intent.
        next_step: share of intent events that take the step after the last one in that intent.
        drift: chance per event that a user turns to another of their intents.
        hint_rate: chance that an item's description hints at each intent it serves.
        popularity: exponent of the popularity skew; 0 makes all items equally known.
        image_size: side of a picture in pixels.
        seed: seeds the world; None takes the run's seed.
    """

    n_items: int = Field(default=500, ge=20, le=1_000_000)
    n_users: int = Field(default=2000, ge=10, le=10_000_000)
    n_intents: int = Field(default=24, ge=2, le=24)
    mean_events: float = Field(default=9.0, ge=5.0, le=200.0)
    noise: float = Field(default=0.15, ge=0.0, le=1.0)
    next_step: float = Field(default=0.35, ge=0.0, le=1.0)
    drift: float = Field(default=0.15, ge=0.0, le=1.0)
    hint_rate: float = Field(default=0.6, ge=0.0, le=1.0)
    popularity: float = Field(default=0.7, ge=0.0, le=3.0)
    image_size: int = Field(default=32, ge=16, le=256)
    seed: int | None = Field(default=None, ge=0, lt=2**32)

    @model_validator(mode="after")
    def _enough_items(self) -> DemoConfig:
        if self.n_items < 5 * self.n_intents:
            raise ValueError(
                f"n_items {self.n_items} is too few for {self.n_intents} intents; give at least 5 items per intent"
            )
        return self


class CatalogConfig(Config):
    """The whole catalogue stage.

    Rules are applied in this order: unknown items, duplicates, repeats, k-core, missing pictures, short users, split.

    Attributes:
        source: where the data comes from.
        items: the items file; without one the catalogue is the set of items people used, without text.
        interactions: the interactions file; source table can do without one, for a catalogue that nobody has used yet: it can be mined,
            embedded and quantized, but nothing can be trained or evaluated on it.
        download: fetch a named Amazon release instead of naming the files.
        demo: the generated world.
        images: how the items' pictures are opened.
        order: how a user's events are ordered: ``auto`` is by timestamp where there is one, else by position; equal
            times keep the position's order, then the file's. ``file`` takes the rows as they stand.
        bad_ids: rows whose user_id or item_id is missing or damaged: ``error``, or ``drop`` them, counted.
        unknown_items: interactions with items that the items file lacks: ``error``, ``drop`` them, or ``add`` the
            item without text.
        duplicate_items: the same item_id twice in the items file: ``error``, or keep the ``first``.
        duplicates: rows with the same user, item and time (the same user and position where there is no time; of samples, the
            same user, history and target).
        repeats: a user coming back to an item: ``keep``, ``collapse_consecutive`` runs into one event, or
            ``drop_repeats`` so that every item occurs once per user, at its first time.
        k_core: drop users and items with fewer than k events until none is left; 0 is off.
        unused_items: items without any event: ``keep`` or ``drop``; ``auto`` drops them when k_core is on.
        split: ``leave_last_out`` (last event test, the one before valid), ``global_time`` (by time, over all
            users) or ``given`` (a column of the interactions file).
        ratios: shares of train, valid and test interactions (global_time only).
        min_user_events: users with fewer events are short.
        short_users: what leave_last_out does with short users: all their events ``train``, ``drop``, or ``error``.
            global_time knows only ``drop``; otherwise it treats them like anybody.
        max_history: keep at most this many events before a target in valid and test cases; None keeps all.
        max_text_chars: longer texts are cut, and counted.
    """

    source: Literal[tuple(READERS)] = "demo"  # type: ignore[valid-type]
    items: ItemsConfig | None = None
    interactions: InteractionsConfig | None = None
    download: DownloadConfig | None = None
    demo: DemoConfig = DemoConfig()
    images: ImagesConfig = ImagesConfig()
    order: Literal["auto", "timestamp", "position", "file"] = "auto"
    bad_ids: Literal["error", "drop"] = "error"
    unknown_items: Literal["error", "drop", "add"] = "error"
    duplicate_items: Literal["error", "first"] = "error"
    duplicates: Literal["error", "first", "last", "keep_all"] = "error"
    repeats: Literal["keep", "collapse_consecutive", "drop_repeats"] = "keep"
    k_core: int = Field(default=0, ge=0, le=1000)
    unused_items: Literal["auto", "keep", "drop"] = "auto"
    split: Literal["leave_last_out", "global_time", "given"] = "leave_last_out"
    ratios: tuple[float, float, float] = (0.8, 0.1, 0.1)
    min_user_events: int = Field(default=3, ge=1, le=1000)
    short_users: Literal["train", "drop", "error"] = "train"
    max_history: int | None = Field(default=None, ge=1)
    max_text_chars: int = Field(default=8000, ge=16, le=10_000_000)

    @model_validator(mode="after")
    def _possible(self) -> CatalogConfig:
        files = self.items is not None or self.interactions is not None or self.download is not None
        if not self.reader.files and files:
            raise ValueError(
                "source demo is generated and reads no file; set source or drop items, interactions, download"
            )
        if self.source != "demo":
            if self.demo != DemoConfig():
                raise ValueError(
                    f"demo settings have no effect with source {self.source}; drop them or set source: demo"
                )
            if not self.has_interactions and (not self.reader.items_alone or self.items is None):
                raise ValueError(
                    f"source {self.source} needs interactions.path (or download.name for an amazon source; source table can do with "
                    "items.path alone)"
                )
        if self.download is not None:
            if not self.reader.downloads:
                *names, last = (name for name, reader in READERS.items() if reader.downloads)
                raise ValueError(f"download fetches {', '.join(names)} and {last}, not source {self.source}")
            if self.items is not None or self.interactions is not None:
                raise ValueError("download and items/interactions both name the files; keep one of them")
        for part in (self.items, self.interactions):
            if part is not None and not self.reader.columns and part.columns != type(part.columns)():
                raise ValueError(
                    f"source {self.source} knows its own columns; drop columns, or use source: table"
                )
            if part is not None and part.quoting != "auto" and not self.reader.quoting:
                raise ValueError(
                    f"quoting is about tables in CSV and TSV, and source {self.source} knows its own; drop quoting"
                )
        if self.unknown_items == "add" and self.source == "demo":
            raise ValueError("unknown_items add has no meaning for source demo, which knows all its items")
        if not self.has_interactions:
            return self._possible_without_interactions()
        return self._possible_split()

    @property
    def reader(self) -> Reader:
        """Of its source."""
        return READERS[self.source]

    @property
    def has_interactions(self) -> bool:
        """Whether there is anything that people did; without it a catalogue cannot train or evaluate."""
        return self.source == "demo" or self.interactions is not None or self.download is not None

    def _possible_without_interactions(self) -> CatalogConfig:
        for key in ("order", "split", "ratios", "k_core", "unused_items", "short_users", "max_history"):
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(
                    f"{key} is about interactions, and this catalogue has none; drop it, or give interactions.path"
                )
        return self

    def _possible_split(self) -> CatalogConfig:
        if any(not 0.0 < r < 1.0 for r in self.ratios) or abs(sum(self.ratios) - 1.0) > 1e-9:
            raise ValueError(
                f"ratios must be three shares between 0 and 1 that sum to 1, not {list(self.ratios)}"
            )
        if self.ratios != (0.8, 0.1, 0.1) and self.split != "global_time":
            raise ValueError(f"ratios belong to split global_time; split is {self.split}")
        if self.split == "leave_last_out" and self.min_user_events < 3:
            raise ValueError(
                "split leave_last_out needs 3 events (train, valid, test); raise min_user_events to 3"
            )
        if self.split == "given":
            if not self.reader.split:
                raise ValueError(
                    f"split given needs a split column, which source {self.source} does not have"
                )
            if self.k_core or self.repeats != "keep":
                raise ValueError(
                    "split given is kept as it is; set k_core: 0 and repeats: keep, or choose another split"
                )
        columns = None if self.interactions is None else self.interactions.columns
        if columns is not None and columns.history is not None:
            if self.source != "table" or self.split != "given":
                raise ValueError(
                    "interactions.columns.history reads published samples; it needs source: table and split: given"
                )
            if columns.timestamp is not None or columns.rating is not None or self.order == "timestamp":
                raise ValueError(
                    "interactions.columns.history gives the order of events, but no time or rating of each; drop columns.timestamp, "
                    "columns.rating and order: timestamp"
                )
        padding = None if self.interactions is None else self.interactions.padding
        if padding is not None and (columns is None or columns.history is None):
            raise ValueError(
                "interactions.padding is about published histories; drop it, or set interactions.columns.history"
            )
        if self.split == "global_time" and self.order in ("position", "file"):
            raise ValueError(
                f"split global_time needs timestamps, but order is {self.order}; set order: timestamp"
            )
        return self


def input_files(config: CatalogConfig) -> dict[str, str]:
    """Files from outside that decide the result, by purpose; downloads are checked by their own checksums."""
    parts = {"items": config.items, "interactions": config.interactions}
    files = {purpose: part.path for purpose, part in parts.items() if part is not None}
    return files | (picture_files(config) if config.images.missing == "drop" else {})


def picture_files(config: CatalogConfig) -> dict[str, str]:
    """Files from outside that decide what the items' pictures are; the content of single files is not among them."""
    return {"images": config.images.archive} if config.images.archive is not None else {}
