"""Small datasets from plain lists, and the real Beauty where it is at hand."""

from __future__ import annotations

import os
from pathlib import Path

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


@pytest.fixture(scope="session")
def beauty():
    """Amazon 2014 Beauty; skipped where the data is not at hand."""
    import pyarrow.parquet as pq

    root = Path(os.environ.get("DIG_RAY_DATA", Path(__file__).parents[2] / "../shared/data"))
    path = root / "amazon14_beauty" / "interactions.parquet"
    if not path.is_file():
        pytest.skip(f"{path} is absent; set DIG_RAY_DATA to the folder that holds amazon14_beauty")
    table = pq.read_table(path, columns=["user_id", "item_id", "position"]).to_pandas()
    table = table.sort_values(["user_id", "position"], kind="stable")
    sequences = [(g.to_numpy() - 1).tolist() for _, g in table.groupby("user_id")["item_id"]]
    return build(sequences, 12_101)
