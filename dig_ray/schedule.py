"""How a learning rate goes up and down."""

from __future__ import annotations

import math


def warm_cosine(step: int, total: int, warmup: int, final: float) -> float:
    """Factor of the learning rate: linear warm-up over ``warmup`` steps, then a cosine from 1 to ``final`` at ``total``."""
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))
