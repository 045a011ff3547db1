"""Reward functions that users of such a platform write, some of which misbehave; importable by workers."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np


def first_code_zero(batch) -> np.ndarray:
    return (batch.codes[..., 0] == 0).astype(float)


def rank() -> int:
    import ray.train

    return int(ray.train.get_context().get_world_rank())


def not_a_number_on_rank_1(batch) -> np.ndarray:
    out = np.zeros(batch.items.shape)
    if rank() == 1:
        out[0, 0] = np.nan
    return out


def hangs_once(batch) -> np.ndarray:
    """Rank 1 sleeps for long, the first time only."""
    flag = Path(os.environ["HANG_FLAG"])
    if rank() == 1 and not flag.exists():
        flag.write_text("here")
        time.sleep(600)
    return np.zeros(batch.items.shape)
