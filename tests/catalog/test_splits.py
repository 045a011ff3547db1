"""Splits and the k-core against plain definitions."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dig_ray.catalog.splits import global_time, in_order, k_core, leave_last_out, split_hash
from dig_ray.errors import UserError

pairs = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=80)


@settings(max_examples=200, deadline=None)
@given(pairs, st.integers(0, 5))
def test_k_core_is_the_one_found_by_removing_one_event_at_a_time(events, k):
    users, items = (np.array([e[i] for e in events], dtype=np.int64) for i in (0, 1))
    keep, _ = k_core(users, items, k)
    left = list(range(len(events)))
    while True:
        poor = [
            i
            for i in left
            if sum(users[j] == users[i] for j in left) < k or sum(items[j] == items[i] for j in left) < k
        ]
        if not poor:
            break
        left.remove(poor[0])
    assert np.nonzero(keep)[0].tolist() == left


@given(st.lists(st.integers(0, 7), min_size=1, max_size=20))
def test_leave_last_out_takes_the_last_two_of_everybody_long_enough(lengths):
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    split = leave_last_out(offsets)
    for low, high in zip(offsets[:-1], offsets[1:], strict=True):
        n = high - low
        expected = [0] * n if n < 3 else [0] * (n - 2) + [1, 2]
        assert split[low:high].tolist() == expected
    assert in_order(offsets, split) == -1


@given(st.lists(st.integers(0, 1000), min_size=40, max_size=200, unique=True))
def test_global_time_cuts_at_moments(times):
    times = np.array(times)
    split = global_time(times, (0.8, 0.1, 0.1))
    assert (
        times[split == 0].max() < times[split == 1].min() <= times[split == 1].max() < times[split == 2].min()
    )
    assert abs((split == 0).mean() - 0.8) < 0.02 and abs((split == 2).mean() - 0.1) < 0.02


def test_events_of_one_moment_are_never_parted():
    times = np.array([1, 2, 3, 4, 5, 6, 7, 7, 7, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17])
    split = global_time(times, (0.4, 0.3, 0.3))
    for moment in np.unique(times):
        assert len(set(split[times == moment].tolist())) == 1
    with pytest.raises(UserError, match="share one timestamp"):
        global_time(np.ones(100, dtype=np.int64))


def test_in_order_names_the_first_wrong_user():
    offsets = np.array([0, 2, 2, 4, 6])
    assert in_order(offsets, np.array([1, 2, 0, 0, 0, 2])) == -1
    assert in_order(offsets, np.array([1, 2, 0, 0, 2, 0])) == 3
    assert in_order(offsets, np.array([1, 0, 0, 0, 2, 0])) == 0
    assert in_order(np.array([0]), np.array([])) == -1


def test_split_hash_is_what_its_description_says():
    users, items = np.array(["u1", "u2"]), np.array(["x", "ü"])
    offsets, events, split = np.array([0, 2, 3]), np.array([1, 0, 0]), np.array([0, 2, 0])
    lines = "u1\0ü\x000\x000\nu1\0x\x001\x002\nu2\0x\x000\x000\n"
    digest = split_hash(users, items, offsets, events, split)
    assert digest == hashlib.sha256(lines.encode()).hexdigest()
    swapped = split_hash(users[::-1], items, np.array([0, 1, 3]), np.array([0, 1, 0]), np.array([0, 0, 2]))
    assert swapped == digest  # the order of users in the arrays decides nothing
    renumbered = split_hash(users, items[::-1], offsets, 1 - events, split)
    assert renumbered == digest
    assert split_hash(users, items, offsets, events, np.array([0, 1, 0])) != digest


def test_split_hash_is_the_same_in_pieces(monkeypatch):
    rng = np.random.default_rng(0)
    users, items = np.array([f"u{i:03d}" for i in range(50)]), np.array([f"i{i}" for i in range(9)])
    offsets = np.arange(51) * 4
    events, split = rng.integers(0, 9, 200), rng.integers(0, 3, 200).astype(np.int8)
    whole = split_hash(users, items, offsets, events, split)
    monkeypatch.setattr("dig_ray.catalog.splits.HASH_ROWS", 7)
    assert split_hash(users, items, offsets, events, split) == whole
