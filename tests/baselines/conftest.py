"""Small datasets from plain lists, and the real Beauty where it is at hand."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest


@dataclass(frozen=True)
class Cases:
    user: np.ndarray
    target: np.ndarray
    start: np.ndarray
    end: np.ndarray


class Small:
    """The part of a Dataset that evaluation and baselines use; leave-last-out of the given sequences."""

    split_name, split_hash = "leave_last_out", "small"

    def __init__(self, sequences: list[list[int]], n_items: int):
        lengths = np.array([len(s) for s in sequences])
        self.offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self.events = np.concatenate([np.asarray(s, np.int32) for s in sequences])
        self.split = np.zeros(len(self.events), np.int8)
        self.split[self.offsets[1:] - 1] = 2
        self.split[self.offsets[1:] - 2] = 1
        self.n_items, self.n_users = n_items, len(sequences)
        self.item_ids = np.array([f"i{i}" for i in range(n_items)])
        self.user_ids = np.array([f"u{i}" for i in range(len(sequences))])

    def train_sequences(self) -> tuple[np.ndarray, np.ndarray]:
        train = self.split == 0
        return np.concatenate([[0], np.cumsum(train)])[self.offsets], self.events[train]

    def cases(self, name: str) -> Cases:
        place = np.flatnonzero(self.split == {"valid": 1, "test": 2}[name])
        user = np.searchsorted(self.offsets, place, side="right") - 1
        return Cases(user.astype(np.int32), self.events[place], self.offsets[user], place)


@pytest.fixture(scope="session")
def small():
    return Small


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
    return Small(sequences, 41)


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
    return Small(sequences, 12_101)
