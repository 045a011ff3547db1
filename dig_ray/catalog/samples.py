"""Published (history, target) samples into event sequences with a split per event.

Many projects publish their split as samples: a row is a user, the items so far, the next item, and the part it belongs to.
Trained on as they stand, such rows show every early event again and again; put back into one sequence per user they are what every
other source gives, and each published target is exactly one case.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa

from dig_ray.catalog.config import InteractionsConfig
from dig_ray.catalog.dataset import TRAIN
from dig_ray.catalog.histories import read_histories, refuse_padding
from dig_ray.catalog.text import combined
from dig_ray.errors import UserError


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
        targets: the same rows in house columns, with split (see :func:`dig_ray.catalog.columns.interactions_table`).
        config: its path, mapping and padding.
        duplicates: what happens to rows with the same user, history and target, as in ``catalog.duplicates``.
        notes: ``events_only_in_histories``, ``histories_cut_by_publisher``, ``duplicate_samples_dropped``, and what
            :func:`dig_ray.catalog.histories.read_histories` counts are raised; ``samples_without_history_dropped`` by rows whose history
            was nothing but padding: their target is in the user's next history.
        known_items: ids of the items file, if there is one.

    Raises:
        UserError: an empty or unreadable history, one that seems to be filled up, the same sample twice, or samples of a user that do
            not follow one another.
    """
    path, name = config.path, str(config.columns.history)
    lengths, flat = read_histories(table, name, path, config.padding, notes)
    item_ids = combined(targets.column("item_id"))
    if config.padding is None:
        refuse_padding(lengths, flat, item_ids if known_items is None else known_items, name, path)
    known = pa.concat_arrays([flat, item_ids]).dictionary_encode()
    numbers = known.indices.to_numpy().astype(np.int32)
    history, target = numbers[: len(flat)], numbers[len(flat) :]
    ends = np.cumsum(lengths)
    users = combined(targets.column("user_id")).dictionary_encode()
    user, names = users.indices.to_numpy(), users.dictionary
    split = targets.column("split").to_numpy()
    position = targets.column("position").to_numpy() if "position" in targets.column_names else split
    order = np.lexsort((position, split, lengths, user))
    notes["samples_without_history_dropped"] += int((lengths == 0).sum())
    order = order[lengths[order] > 0]

    def told(row: int) -> str:
        return f"data row {row + 1} of user {names[int(user[row])].as_py()!r}"

    longest = int(lengths.max())
    events: list[np.ndarray] = []
    owners: list[int] = []
    parts: list[list[int]] = []
    so_far = np.zeros(0, np.int32)  # of the current user, the first `size` entries
    size, owner = 0, -1
    seen: dict[tuple[bytes, int], int] = {}
    kept: dict[int, int] = {}
    for row in order.tolist():
        past = history[ends[row] - lengths[row] : ends[row]]
        if user[row] != owner:
            owner, seen = int(user[row]), {}
            so_far, size = np.array(past), len(past)
            events.append(so_far)
            owners.append(owner)
            parts.append([TRAIN] * size)
            notes["events_only_in_histories"] += size
        whole = size == len(past)
        cut = len(past) == longest and size > len(past)
        sample = (past.tobytes(), int(target[row]))
        if duplicates != "keep_all" and sample in seen:
            if duplicates == "error":
                raise UserError(
                    f"{path}: {told(row)} is the sample of {told(seen[sample])} again; remove it, or set catalog.duplicates=first, "
                    "last or keep_all"
                )
            notes["duplicate_samples_dropped"] += 1
            if duplicates == "last":
                parts[-1][kept[seen[sample]]] = int(split[row])
            continue
        if not (whole or cut) or not np.array_equal(so_far[size - len(past) : size], past):
            raise UserError(
                f"{path}: the history in {told(row)} ({_short(known.dictionary, past)}) is not the user's events so far "
                f"({_short(known.dictionary, so_far[:size])}); samples of a user must follow one another, so correct the "
                "row, or give a position column where histories are cut"
            )
        notes["histories_cut_by_publisher"] += cut
        if size == len(so_far):
            so_far = np.concatenate([so_far, np.zeros(max(8, size), np.int32)])
        so_far[size] = target[row]
        seen[sample], kept[row] = row, size
        size += 1
        events[-1] = so_far[:size]
        parts[-1].append(int(split[row]))
    counts = np.array([len(one) for one in events])
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    return pa.table(
        {
            "user_id": names.take(pa.array(np.repeat(owners, counts))),
            "item_id": known.dictionary.take(pa.array(np.concatenate(events))),
            "position": pa.array(np.arange(int(counts.sum())) - starts),
            "split": pa.array(np.concatenate([np.array(one, np.int8) for one in parts])),
        }
    )


def _short(ids: pa.Array, items: np.ndarray, most: int = 6) -> str:
    """The latest items of a history, for a message."""
    shown = [str(ids[int(item)].as_py())[:40] for item in items[-most:]]
    return ("..., " if len(items) > most else "") + ", ".join(shown)
