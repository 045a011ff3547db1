"""Which cases belong to which slice: by how popular the target is, by how much history there is, and by whether the target is in it."""

from __future__ import annotations

import numpy as np

# Bounds are ours: on 5-core data half the targets have fewer than 10 training events. Both ends belong to the slice.
POPULARITY: tuple[tuple[str, int, int | None], ...] = (
    ("cold (0)", 0, 0),
    ("1-4", 1, 4),
    ("5-9", 5, 9),
    ("10-29", 10, 29),
    ("30+", 30, None),
)
HISTORY: tuple[tuple[str, int, int | None], ...] = (
    ("0", 0, 0),
    ("1-2", 1, 2),
    ("3-5", 3, 5),
    ("6-10", 6, 10),
    ("11+", 11, None),
)
NEW, REPEAT = "new to the user", "repeat"
TARGET: tuple[tuple[str, int, int | None], ...] = ((NEW, 0, 0), (REPEAT, 1, 1))  # times are not counted


def members(
    values: np.ndarray, bounds: tuple[tuple[str, int, int | None], ...]
) -> tuple[list[str], np.ndarray]:
    """Names of the slices and bool ``(C, len(bounds))``: each case lies in exactly one."""
    inside = [(values >= low) & (values <= (np.inf if high is None else high)) for _, low, high in bounds]
    return [name for name, _, _ in bounds], np.stack(inside, axis=1)
