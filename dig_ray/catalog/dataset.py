"""The catalogue and what people did, as flat arrays that every later room reads.

Items and users are numbered: item ``i`` is row ``i`` of the items table, users are in the order of their ids. The
events of all users lie in one array, user after user, each user's in the order they happened. A case is one
target event together with everything before it, so that no case can see its own future.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dig_ray.catalog.splits import split_hash
from dig_ray.catalog.text import combined
from dig_ray.errors import UserError
from dig_ray.numerics.subset import evenly_spaced

TRAIN, VALID, TEST = 0, 1, 2
SPLITS = ("train", "valid", "test")
NO_SPLIT = 3  # events that are part of histories only


@dataclass(frozen=True)
class Cases:
    """Events to predict. The history of case ``c`` is ``events[start[c]:end[c]]``; its target is event ``end[c]``.

    Attributes:
        user: int32 ``(C,)`` user index.
        target: int32 ``(C,)`` item index.
        start: int64 ``(C,)``.
        end: int64 ``(C,)``.
    """

    user: np.ndarray
    target: np.ndarray
    start: np.ndarray
    end: np.ndarray

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: slice | np.ndarray) -> Cases:
        """Some of them."""
        return Cases(self.user[rows], self.target[rows], self.start[rows], self.end[rows])

    def spread(self, most: int | None) -> Cases:
        """At most so many, evenly spaced; all when None."""
        return self if most is None else self.take(evenly_spaced(len(self), most))


@dataclass(frozen=True, eq=False)
class Dataset:
    """A catalogue with its interactions and their split.

    Attributes:
        items: one row per item: item_id, title, description, brand, categories, price, image, and what else the
            source had.
        user_ids: str ``(U,)``, ascending.
        offsets: int64 ``(U + 1,)``; user ``u`` has the events ``offsets[u]:offsets[u + 1]``.
        events: int32 ``(E,)`` item index, oldest first within a user.
        split: int8 ``(E,)``: 0 train, 1 valid, 2 test, 3 none of them (``without_latest``).
        timestamps: int64 ``(E,)`` milliseconds since 1970, or None.
        ratings: float32 ``(E,)``, NaN where none was given, or None.
        split_name: how the split was made.
        split_hash: see :func:`dig_ray.catalog.splits.split_hash`.
        max_history: longest history of a case, or None.
        stats: figures on all of this.
    """

    items: pa.Table
    user_ids: np.ndarray
    offsets: np.ndarray
    events: np.ndarray
    split: np.ndarray
    timestamps: np.ndarray | None = None
    ratings: np.ndarray | None = None
    split_name: str = "given"
    split_hash: str = ""
    max_history: int | None = None
    stats: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n_events = len(self.events)
        if (
            len(self.offsets) != len(self.user_ids) + 1
            or self.offsets[0] != 0
            or self.offsets[-1] != n_events
        ):
            raise ValueError("offsets do not fit users and events")
        for name in ("split", "timestamps", "ratings"):
            value = getattr(self, name)
            if value is not None and value.shape != (n_events,):
                raise ValueError(f"{name} must have one entry per event")
        if n_events and not (self.events.min() >= 0 and self.events.max() < self.items.num_rows):
            raise ValueError("an event names an item outside the catalogue")
        if not self.split_hash:
            digest = split_hash(self.user_ids, self.item_ids, self.offsets, self.events, self.split)
            object.__setattr__(self, "split_hash", digest)

    @property
    def n_items(self) -> int:
        return self.items.num_rows

    @property
    def n_users(self) -> int:
        return len(self.user_ids)

    @property
    def n_events(self) -> int:
        return len(self.events)

    @property
    def item_ids(self) -> np.ndarray:
        """str ``(N,)`` in catalogue order."""
        if "_item_ids" not in self.__dict__:
            object.__setattr__(self, "_item_ids", _string_array(self.items.column("item_id")))
        return self.__dict__["_item_ids"]

    @property
    def users(self) -> np.ndarray:
        """int32 ``(E,)`` user index of every event."""
        return np.repeat(np.arange(self.n_users, dtype=np.int32), np.diff(self.offsets))

    def train_sequences(self) -> tuple[np.ndarray, np.ndarray]:
        """Training events only: offsets int64 ``(U + 1,)``, all users (some may be empty), and items int32."""
        keep = self.split == TRAIN
        total = np.concatenate(([0], np.cumsum(keep)))
        return total[self.offsets].astype(np.int64), self.events[keep]

    def kept_without_latest(self, count: int, least: int = 2) -> np.ndarray:
        """int64 ``(U,)``: a user's training events before the latest ``count``; the first ``least`` always stay."""
        lengths = np.diff(self.train_sequences()[0])
        return np.maximum(np.minimum(lengths, least), lengths - count)

    def without_latest(self, count: int, least: int = 2) -> Dataset:
        """The same histories, in which each user's latest ``count`` training events are of no split: nobody learns from them. The first
        ``least`` always stay: two are the fewest to learn from, and one is what may be told about who is to be predicted."""
        offsets, _ = self.train_sequences()
        lengths = np.diff(offsets)
        kept = self.kept_without_latest(count, least)
        number = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)  # of an event among its user's
        split = self.split.copy()
        split[np.flatnonzero(self.split == TRAIN)[number >= np.repeat(kept, lengths)]] = NO_SPLIT
        return replace(self, split=split)

    def cases(self, split: str, min_history: int = 1) -> Cases:
        """Every event of ``"valid"`` or ``"test"``, in user order, with what precedes it.

        Test histories hold the valid events too. Histories are cut to the latest ``max_history`` events if that is set.

        Args:
            split: ``"valid"`` or ``"test"``.
            min_history: leave out events with fewer events before them; 0 keeps a user's very first event.
        """
        if split not in SPLITS[1:]:
            raise ValueError(f"cases are of 'valid' or 'test', not {split!r}")
        end = np.nonzero(self.split == SPLITS.index(split))[0].astype(np.int64)
        user = (np.searchsorted(self.offsets, end, side="right") - 1).astype(np.int32)
        start = self.offsets[user].astype(np.int64)
        keep = end - start >= min_history
        user, start, end = user[keep], start[keep], end[keep]
        if self.max_history is not None:
            start = np.maximum(start, end - self.max_history)
        return Cases(user, self.events[end], start, end)

    # --- disk ---------------------------------------------------------------------------------------------

    def save(self, directory: str | Path) -> None:
        """Write items.parquet, interactions.parquet, sequences.parquet and dataset.json. Same data, same bytes."""
        out = Path(directory)
        out.mkdir(parents=True, exist_ok=True)
        lengths = np.diff(self.offsets)
        position = np.arange(self.n_events) - np.repeat(self.offsets[:-1], lengths)
        item_id = pa.DictionaryArray.from_arrays(self.events, combined(self.items.column("item_id"))).cast(
            pa.string()
        )
        users = pa.array(self.user_ids.tolist(), pa.string())
        columns: dict[str, Any] = {
            "user_id": pa.DictionaryArray.from_arrays(self.users, users).cast(pa.string()),
            "item_id": item_id,
            "position": position.astype(np.int32),
        }
        if self.timestamps is not None:
            columns["timestamp"] = self.timestamps
        if self.ratings is not None:
            columns["rating"] = self.ratings
        columns["split"] = pa.DictionaryArray.from_arrays(self.split, pa.array(SPLITS)).cast(pa.string())
        offsets = pa.array(self.offsets.astype(np.int32))
        n_train = np.diff(np.concatenate(([0], np.cumsum(self.split == TRAIN)))[self.offsets])
        n_valid = np.diff(np.concatenate(([0], np.cumsum(self.split == VALID)))[self.offsets])
        sequences = pa.table(
            {
                "user_id": users,
                "item_ids": pa.ListArray.from_arrays(offsets, item_id),
                "valid_from": n_train.astype(np.int32),  # the list is train, then valid, then test events
                "test_from": (n_train + n_valid).astype(np.int32),
            }
        )
        pq.write_table(self.items, out / "items.parquet", compression="zstd")
        pq.write_table(pa.table(columns), out / "interactions.parquet", compression="zstd")
        pq.write_table(sequences, out / "sequences.parquet", compression="zstd")
        meta = {
            "split_name": self.split_name,
            "split_hash": self.split_hash,
            "max_history": self.max_history,
            "stats": self.stats,
        }
        (out / "dataset.json").write_text(
            json.dumps(meta, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )

    @classmethod
    def load(cls, directory: str | Path) -> Dataset:
        """What :meth:`save` wrote.

        Raises:
            UserError: a file is missing or damaged, or the files do not belong together (the split's hash is checked).
        """
        path = Path(directory)
        try:
            items = pq.read_table(path / "items.parquet")
            rows = pq.read_table(path / "interactions.parquet")
            users = pq.read_table(path / "sequences.parquet", columns=["user_id"]).column("user_id")
            meta = json.loads((path / "dataset.json").read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UserError(
                f"{error.filename or path}: missing from the catalogue artifact; run the catalog stage"
            ) from None
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UserError(
                f"{path}: a damaged catalogue artifact ({str(error)[:200]}); run the catalog stage again"
            ) from None
        try:
            user = pc.index_in(combined(rows.column("user_id")), value_set=combined(users))
            event = pc.index_in(combined(rows.column("item_id")), value_set=combined(items.column("item_id")))
            split = pc.index_in(combined(rows.column("split")), value_set=pa.array(SPLITS))
            if user.null_count or event.null_count or split.null_count:
                raise UserError(
                    f"{path}: interactions.parquet names a user, item or split that the other files lack"
                )
            user_index = user.to_numpy()
            if np.any(np.diff(user_index) < 0):
                raise UserError(f"{path}: interactions.parquet is not in the order of sequences.parquet")
            counts = np.bincount(user_index, minlength=len(users))
            dataset = cls(
                items=items,
                user_ids=_string_array(users),
                offsets=np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
                events=event.to_numpy().astype(np.int32),
                split=split.to_numpy().astype(np.int8),
                timestamps=rows.column("timestamp").to_numpy() if "timestamp" in rows.column_names else None,
                ratings=rows.column("rating").to_numpy() if "rating" in rows.column_names else None,
                split_name=meta["split_name"],
                max_history=meta["max_history"],
                stats=meta["stats"],
            )
            known_hash = meta["split_hash"]
        except KeyError as error:
            raise UserError(
                f"{path}: the catalogue artifact lacks {error}; run the catalog stage again"
            ) from None
        if dataset.split_hash != known_hash:
            raise UserError(
                f"{path}: the files do not match the split hash in dataset.json; run the catalog stage again"
            )
        return dataset


def _string_array(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """As a fixed-width unicode array (fast to sort and compare); object strings where one id is very long."""
    values = column.to_pylist()
    if not values:
        return np.zeros(0, dtype="<U1")
    if max(map(len, values)) > 256:
        return np.array(values, dtype=object)
    return np.array(values)
