"""Small datasets from plain lists."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from dig_ray.catalog.dataset import Dataset


def build(sequences: list[list[int]], n_items: int) -> Dataset:
    """Items i0, i1 ... and one user per sequence: the last event is test, the one before it valid."""
    lengths = np.array([len(s) for s in sequences])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    split = np.zeros(offsets[-1], np.int8)
    split[offsets[1:] - 2] = 1
    split[offsets[1:] - 1] = 2
    return Dataset(
        items=pa.table({"item_id": [f"i{i}" for i in range(n_items)]}),
        user_ids=np.array([f"u{i}" for i in range(len(sequences))]),
        offsets=offsets,
        events=np.concatenate([np.asarray(s, np.int32) for s in sequences]),
        split=split,
        split_name="leave_last_out",
    )


@pytest.fixture(scope="session")
def small():
    return build


@pytest.fixture(scope="session")
def chains():
    """60 users who walk along one of 4 rings of 10 items, from anywhere, with a jump now and then."""
    rng = np.random.default_rng(0)
    sequences = []
    for user in range(60):
        ring, at = user % 4, int(rng.integers(10))
        walk = []
        for _ in range(int(rng.integers(4, 9))):
            walk.append(ring * 10 + at % 10)
            at += 1 if rng.random() < 0.9 else 2
        sequences.append(walk)
    return build(sequences, 41)
