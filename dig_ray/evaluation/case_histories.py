"""The history of each case as flat arrays: all that precedes the target, so nothing can leak."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch


class CasesLike(Protocol):
    """What a scored case needs; ``dig_ray.catalog.dataset.Cases`` has this shape."""

    @property
    def user(self) -> np.ndarray: ...
    @property
    def target(self) -> np.ndarray: ...
    @property
    def start(self) -> np.ndarray: ...
    @property
    def end(self) -> np.ndarray: ...


class DatasetLike(Protocol):
    """What evaluation and baselines need of a dataset; ``dig_ray.catalog.dataset.Dataset`` has this shape."""

    @property
    def n_items(self) -> int: ...
    @property
    def events(self) -> np.ndarray: ...
    def train_sequences(self) -> tuple[np.ndarray, np.ndarray]: ...


def histories(
    events: np.ndarray, cases: CasesLike, low: int = 0, high: int | None = None, max_length: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The latest events before each target, newest first, for cases ``low:high``.

    Args:
        events: int ``(E,)`` item index of every event.
        cases: which events precede which target.
        low: first case.
        high: one past the last case; all when None.
        max_length: keep at most this many of the newest events per case.

    Returns:
        row (0 is case ``low``), item and age (0 = newest), each ``(H,)``.
    """
    start, end = (np.asarray(a[low:high], dtype=np.int64) for a in (cases.start, cases.end))
    length = end - start
    if max_length is not None:
        length = np.minimum(length, max_length)
    row = np.repeat(np.arange(len(length)), length)
    age = np.arange(len(row)) - np.repeat(np.cumsum(length) - length, length)
    return row, np.asarray(events)[np.repeat(end, length) - 1 - age], age


def without_seen(scores: torch.Tensor, events: np.ndarray, cases: CasesLike, low: int) -> torch.Tensor:
    """Scores of all items, float ``(B, N)``, for the cases from ``low`` on; in place, items of a case's history are minus infinity."""
    import torch

    row, item, _ = histories(events, cases, low, low + len(scores))
    at = (torch.from_numpy(row).to(scores.device), torch.from_numpy(item).long().to(scores.device))
    return scores.index_put_(at, torch.tensor(-torch.inf, dtype=scores.dtype, device=scores.device))


def train_counts(dataset: DatasetLike) -> np.ndarray:
    """How often each item occurs in the training events; int64 ``(n_items,)``."""
    return np.bincount(dataset.train_sequences()[1], minlength=dataset.n_items).astype(np.int64)
