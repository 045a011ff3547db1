"""Which events train and which are predicted: k-core filter, leave-last-out, global time, and the split's hash.

All functions work on flat arrays (see :mod:`dig_ray.catalog.dataset`) and touch each event a few times, so that
millions of events take seconds.
"""

from __future__ import annotations

import hashlib

import numpy as np

from dig_ray.errors import UserError

HASH_ROWS = 1 << 20  # events hashed at once


def k_core(users: np.ndarray, items: np.ndarray, k: int) -> tuple[np.ndarray, int]:
    """The largest set of events in which every user and every item has at least k events.

    Args:
        users: int ``(E,)`` user index of each event.
        items: int ``(E,)`` item index of each event.
        k: 0 or 1 keeps everything.

    Returns:
        bool ``(E,)``, which events stay (the k-core is unique, so the order of removal does not matter), and the
        number of rounds that removed something.
    """
    keep = np.ones(len(users), dtype=bool)
    if k <= 1 or not len(users):
        return keep, 0
    rounds = 0
    while True:
        poor_user = np.bincount(users[keep], minlength=int(users.max()) + 1) < k
        stay = keep & ~poor_user[users]
        poor_item = np.bincount(items[stay], minlength=int(items.max()) + 1) < k
        stay &= ~poor_item[items]
        if stay.sum() == keep.sum():
            return keep, rounds
        keep = stay
        rounds += 1


def leave_last_out(offsets: np.ndarray, min_events: int = 3) -> np.ndarray:
    """Last event of a user is test, the one before valid, the rest train; users below ``min_events`` train only.

    Args:
        offsets: int64 ``(U + 1,)``.
        min_events: how many events a user needs, at least 3.

    Returns:
        int8 ``(E,)``: 0 train, 1 valid, 2 test.
    """
    if min_events < 3:
        raise ValueError("leave-last-out needs 3 events per user")
    split = np.zeros(int(offsets[-1]), dtype=np.int8)
    last = offsets[1:][np.diff(offsets) >= min_events] - 1
    split[last] = 2
    split[last - 1] = 1
    return split


def global_time(timestamps: np.ndarray, ratios: tuple[float, float, float] = (0.8, 0.1, 0.1)) -> np.ndarray:
    """Split all interactions by time: the first share trains, the next validates, the last tests.

    The borders are moments, so events of one moment never lie on both sides: those at a border go to the later
    part (our choice; nothing later than a target is ever trained on).

    Args:
        timestamps: int64 ``(E,)``.
        ratios: shares of train, valid, test.

    Returns:
        int8 ``(E,)``.

    Raises:
        UserError: so many events share one moment that a part would be empty.
    """
    n = len(timestamps)
    ordered = np.sort(timestamps)
    first_valid = ordered[min(int(round(n * ratios[0])), n - 1)]
    first_test = ordered[min(int(round(n * (ratios[0] + ratios[1]))), n - 1)]
    split = (timestamps >= first_valid).astype(np.int8) + (timestamps >= first_test).astype(np.int8)
    counts = np.bincount(split, minlength=3)
    if not counts.all():
        raise UserError(
            f"split global_time with ratios {list(ratios)} leaves {counts.tolist()} events for train, valid and test, because too "
            "many share one timestamp or there are too few; change catalog.ratios or use split leave_last_out"
        )
    return split


def in_order(offsets: np.ndarray, split: np.ndarray) -> int:
    """Index of the first user whose events are not train, then valid, then test; -1 when all are."""
    if len(split) < 2:
        return -1
    back = np.diff(split) < 0
    back[offsets[1:-1][(offsets[1:-1] > 0) & (offsets[1:-1] < len(split))] - 1] = (
        False  # steps from user to user
    )
    wrong = np.nonzero(back)[0]
    return int(np.searchsorted(offsets, wrong[0], side="right") - 1) if len(wrong) else -1


def split_hash(
    user_ids: np.ndarray, item_ids: np.ndarray, offsets: np.ndarray, events: np.ndarray, split: np.ndarray
) -> str:
    """A fingerprint of exactly which event is what: two runs with equal hashes measure on the same cases.

    sha256 of one UTF-8 line per event, users by ascending id and a user's events in order:
    ``user_id NUL item_id NUL position NUL split LF``, with position counted from 0 and split as 0, 1 or 2. Neither the
    numbering of items nor the order of rows in a file has any part in it.

    Returns:
        64 hex digits.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    order = np.arange(len(events))
    if np.any(user_ids[1:] < user_ids[:-1]):
        users = np.argsort(user_ids, kind="stable")
        lengths = np.diff(offsets)[users]
        order = np.arange(len(events)) + np.repeat(offsets[users] - (np.cumsum(lengths) - lengths), lengths)
    user = np.repeat(np.arange(len(user_ids)), np.diff(offsets))
    position = np.arange(len(events)) - offsets[user]
    names, items = (pa.array(ids.tolist(), pa.large_string()) for ids in (user_ids, item_ids))
    parts = pa.array(["0\n", "1\n", "2\n"], pa.large_string())
    digest = hashlib.sha256()
    for low in range(0, len(order), HASH_ROWS):
        rows = order[low : low + HASH_ROWS]
        columns = (
            names.take(pa.array(user[rows])),
            items.take(pa.array(events[rows])),
            pc.cast(pa.array(position[rows]), pa.large_string()),
            parts.take(pa.array(split[rows])),
        )
        # The values of an Arrow array lie one behind the other, so its buffer is the text to hash.
        joined = pc.binary_join_element_wise(*columns, pa.scalar("\0", pa.large_string()))
        digest.update(memoryview(joined.buffers()[2])[: pc.sum(pc.binary_length(joined)).as_py() or 0])
    return digest.hexdigest()
