"""How a learning rate goes up and down, and when training ends, of the models that are trained from nothing by epochs."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from dig_ray.base import Config


class ScheduleConfig(Config):
    """Adam's settings, with a warm-up and a cosine.

    Attributes:
        learning_rate: the rate at its highest.
        final_learning_rate: part of it that is left at ``max_epochs``.
        warmup_steps: steps until the rate is at its highest.
        weight_decay: AdamW's.
        max_epochs: epochs at most.
        patience: epochs without a better validation NDCG@10 that end training.
        precision: the precision of the catalogue's softmax in training; ``bfloat16`` is about twice as fast where the processor has it.
        valid_users: validate after each epoch on so many users at most, evenly spaced; on all when unset.
        valid_seen: whether validation lets items of the history stand before the target, or leaves them out.
    """

    learning_rate: float = Field(1e-3, gt=0)
    final_learning_rate: float = Field(0.1, ge=0, le=1)
    warmup_steps: int = Field(100, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    max_epochs: int = Field(40, ge=1)
    patience: int = Field(5, ge=1)
    precision: Literal["float32", "bfloat16"] = "float32"
    valid_users: int | None = Field(None, ge=1)
    valid_seen: Literal["allowed", "left_out"] = "allowed"

    def rate(self, step: int, total: int) -> float:
        """The learning rate at a step: a linear warm-up, then a cosine down to its last part at ``total`` steps."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = min(1.0, (step - self.warmup_steps) / max(1, total - self.warmup_steps))
        down = 0.5 * (1 + math.cos(math.pi * progress))
        return self.learning_rate * (self.final_learning_rate + (1 - self.final_learning_rate) * down)


def warm_up_line(key: str, warmup: int, steps: int, about: bool = False) -> str | None:
    """The warning that a warm-up is longer than training; None where it is not.

    Args:
        key: the key of the settings, such as ``sft``.
        warmup: steps to the highest learning rate.
        steps: how many the whole training has.
        about: the steps are an estimate.
    """
    if warmup <= 1 or warmup < steps:
        return None
    return (
        f"{key}.warmup_steps={warmup} is as long as training or longer, which has {'about ' if about else ''}{steps:,} steps, so the "
        f"learning rate hardly comes to {key}.learning_rate; set {key}.warmup_steps={max(1, steps // 10)}"
    )
