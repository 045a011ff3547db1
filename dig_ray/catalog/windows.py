"""Training sequences cut into windows that a model of bounded length can read."""

from __future__ import annotations

import numpy as np


def windows(offsets: np.ndarray, max_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut training sequences into runs of at most ``max_length + 1`` events, so that each event but the first of a user
    is a target exactly once; the newest run of a long sequence is full. Returns start and end, int64 ``(S,)``."""
    starts, ends = [], []
    for low, high in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        while high - low >= 2:
            start = max(low, high - max_length - 1)
            starts.append(start)
            ends.append(high)
            high = start + 1
    return np.asarray(starts, np.int64), np.asarray(ends, np.int64)
