"""Choosing some of many the same way every time."""

from __future__ import annotations

import numpy as np


def evenly_spaced(total: int, most: int) -> np.ndarray:
    """int64 places among ``total``, rising from the first to the last; all where there are no more than ``most``."""
    if most >= total:
        return np.arange(total)
    return np.linspace(0, total - 1, max(most, 0)).astype(np.int64)
