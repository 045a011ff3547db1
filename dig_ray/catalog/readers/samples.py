"""Published (history, target) samples into event sequences with a split per event.

Many projects publish their split as samples: a row is a user, the items so far, the next item, and the part it belongs to.
Trained on as they stand, such rows show every early event again and again; put back into one sequence per user they are what every
other source gives, and each published target is exactly one case.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dig_ray.catalog.config import InteractionsConfig
from dig_ray.catalog.dataset import TRAIN
from dig_ray.catalog.readers.histories import read_histories, refuse_padding
from dig_ray.catalog.text import combined
from dig_ray.errors import UserError


@dataclass
class _Samples:
    """Samples as numbers; parallel arrays, one entry per row, but for ``history``.

    Attributes:
        user: number of the user.
        target: number of the item that comes next.
        split: part of the target.
        history: items of all rows one after the other; a row's end at ``ends`` and are ``lengths`` many.
        user_names: id of each user.
        item_names: id of each item.
    """

    user: np.ndarray
    target: np.ndarray
    split: np.ndarray
    history: np.ndarray
    lengths: np.ndarray
    ends: np.ndarray
    user_names: pa.Array
    item_names: pa.Array

    def past(self, row: int) -> np.ndarray:
        return self.history[self.ends[row] - self.lengths[row] : self.ends[row]]

    def told(self, row: int) -> str:
        return f"data row {row + 1} of user {self.user_names[int(self.user[row])].as_py()!r}"

    def short(self, items: np.ndarray, most: int = 6) -> str:
        """The latest items of a history, for a message."""
        shown = [str(self.item_names[int(item)].as_py())[:40] for item in items[-most:]]
        return ("..., " if len(items) > most else "") + ", ".join(shown)


class _Sequence:
    """The events of one user, as far as the samples so far tell them."""

    def __init__(self, user: int, first: np.ndarray) -> None:
        self.user = user
        self.items = np.array(first)  # the first `size` entries
        self.size = len(first)
        self.parts = [TRAIN] * self.size
        self.seen: dict[tuple[bytes, int], int] = {}  # history and target, and the row that had them
        self.place: dict[int, int] = {}  # of each row's target

    def follows(self, past: np.ndarray, longest: int) -> bool:
        """Whether a history is all events so far, or the latest of them where it is as long as histories get."""
        fits = len(past) == self.size or (len(past) == longest and self.size > len(past))
        return fits and np.array_equal(self.items[self.size - len(past) : self.size], past)

    def add(self, row: int, past: np.ndarray, item: int, part: int) -> None:
        if self.size == len(self.items):
            self.items = np.concatenate([self.items, np.zeros(max(8, self.size), np.int32)])
        self.items[self.size] = item
        self.seen[past.tobytes(), item] = row
        self.place[row] = self.size
        self.parts.append(part)
        self.size += 1


def samples_to_events(
    table: pa.Table,
    targets: pa.Table,
    config: InteractionsConfig,
    duplicates: str,
    notes: Counter[str],
    known_items: pa.Array | None = None,
) -> pa.Table:
    """Samples to interactions in house columns: user_id, item_id, position, split.

    A user's samples are put in order by the length of their history, then by split, position and place in the file. The first history
    starts the user's sequence and is train, as it is nobody's target; after that every history must be all events so far, and its target
    is the next one. Where the longest history of the file has n items, one of n items may also be the latest n events: publishers cut
    there.

    Args:
        table: as the reader gave it; its column ``config.columns.history`` has lists, or texts such as ``[1, 2]`` or ``['a', 'b']``.
        targets: the same rows in house columns, with split (see :func:`dig_ray.catalog.columns.fields.interactions_table`).
        config: its path, mapping and padding.
        duplicates: what happens to rows with the same user, history and target, as in ``catalog.duplicates``.
        notes: ``events_only_in_histories``, ``histories_cut_by_publisher``, ``duplicate_samples_dropped``, and what
            :func:`~dig_ray.catalog.readers.histories.read_histories` counts are raised; ``samples_without_history_dropped`` by rows whose
            history was nothing but padding: their target is in the user's next history.
        known_items: ids of the items file, if there is one.

    Raises:
        UserError: an empty or unreadable history, one that seems to be filled up, the same sample twice, or samples of a user that do
            not follow one another.
    """
    name = str(config.columns.history)
    lengths, flat = read_histories(table, name, config.path, config.padding, notes)
    if not lengths.any():
        raise UserError(
            f"{config.path}: every history (column {name}) is nothing but {config.padding!r}; correct catalog.interactions.padding"
        )
    item_ids = combined(targets.column("item_id"))
    if config.padding is None:
        refuse_padding(lengths, flat, item_ids if known_items is None else known_items, name, config.path)
    known = pa.concat_arrays([flat, item_ids]).dictionary_encode()
    numbers = known.indices.to_numpy().astype(np.int32)
    users = combined(targets.column("user_id")).dictionary_encode()
    split = targets.column("split").to_numpy()
    samples = _Samples(
        user=users.indices.to_numpy(),
        target=numbers[len(flat) :],
        split=split,
        history=numbers[: len(flat)],
        lengths=lengths,
        ends=np.cumsum(lengths),
        user_names=users.dictionary,
        item_names=known.dictionary,
    )
    position = targets.column("position").to_numpy() if "position" in targets.column_names else split
    order = np.lexsort((position, split, lengths, samples.user))
    notes["samples_without_history_dropped"] += int((lengths == 0).sum())
    return _events(_sequences(samples, order[lengths[order] > 0], duplicates, config.path, notes), samples)


def _sequences(
    samples: _Samples, order: np.ndarray, duplicates: str, path: str, notes: Counter[str]
) -> list[_Sequence]:
    """One sequence per user, of rows sorted by user and then by the length of their history."""
    longest = int(samples.lengths.max())
    out: list[_Sequence] = []
    for row in order.tolist():
        past, item, part = samples.past(row), int(samples.target[row]), int(samples.split[row])
        if not out or out[-1].user != samples.user[row]:
            out.append(_Sequence(int(samples.user[row]), past))
            notes["events_only_in_histories"] += len(past)
        one = out[-1]
        again = one.seen.get((past.tobytes(), item))
        if duplicates != "keep_all" and again is not None:
            if duplicates == "error":
                raise UserError(
                    f"{path}: {samples.told(row)} is the sample of {samples.told(again)} again; remove it, or set "
                    "catalog.duplicates=first, last or keep_all"
                )
            notes["duplicate_samples_dropped"] += 1
            if duplicates == "last":
                one.parts[one.place[again]] = part
            continue
        if not one.follows(past, longest):
            raise UserError(
                f"{path}: the history in {samples.told(row)} ({samples.short(past)}) is not the user's events so far "
                f"({samples.short(one.items[: one.size])}); samples of a user must follow one another, so correct the "
                "row, or give a position column where histories are cut"
            )
        notes["histories_cut_by_publisher"] += len(past) < one.size
        one.add(row, past, item, part)
    return out


def _events(sequences: list[_Sequence], samples: _Samples) -> pa.Table:
    counts = np.array([one.size for one in sequences])
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    items = np.concatenate([one.items[: one.size] for one in sequences])
    return pa.table(
        {
            "user_id": samples.user_names.take(pa.array(np.repeat([one.user for one in sequences], counts))),
            "item_id": samples.item_names.take(pa.array(items)),
            "position": pa.array(np.arange(int(counts.sum())) - starts),
            "split": pa.array(np.concatenate([np.array(one.parts, np.int8) for one in sequences])),
        }
    )
