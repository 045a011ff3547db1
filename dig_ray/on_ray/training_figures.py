"""What the dashboard shows of training: the leading worker's log, told by the driver, where the last figures outlive the worker."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from transformers import TrainerCallback

from dig_ray.on_ray.telemetry import count, put

OF_TRAINING = {
    "epoch": "dig_training_epochs",
    "step": "dig_training_steps",
    "loss": "dig_training_loss",
    "learning_rate": "dig_training_learning_rate",
    "grad_norm": "dig_training_gradient_norm",
    "eval_ndcg@10": "dig_training_valid_ndcg",
    "eval_hr@10": "dig_training_valid_hit_rate",
    "eval_seconds": "dig_training_valid_seconds",
}
"""Entry of the log -> metric with the tag ``stage``."""
OF_GRPO = {
    "reward": "dig_grpo_reward",
    "reward_std": "dig_grpo_reward_std",
    "kl": "dig_grpo_kl",
    "entropy": "dig_grpo_entropy",
    "clip_ratio/region_mean": "dig_grpo_clip_ratio",
    "frac_reward_zero_std": "dig_grpo_flat_groups_ratio",
    "groups_with_hit": "dig_grpo_hit_groups_ratio",
    "invalid": "dig_grpo_invalid_ratio",
    "eval_outside": "dig_grpo_outside_ratio",
}
"""Entry of GRPO's log -> metric without tags."""


class Figures(TrainerCallback):
    """Sends every entry of the log to the driver, with what was trained on since the last one and how fast.

    Args:
        send: takes a message of the shape that ``tell`` reads.
        stage: ``sft`` or ``grpo``.
        per_step: tokens or prompts that a step reads over all workers.
        unit: ``tokens`` or ``prompts``.
    """

    def __init__(
        self, send: Callable[[Mapping[str, Any]], None], stage: str, per_step: float, unit: str
    ) -> None:
        self.send, self.stage, self.per_step, self.unit = send, stage, per_step, unit
        self._last: tuple[int, float] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._last = state.global_step, time.monotonic()

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        figures = {name: value for name, value in (logs or {}).items() if isinstance(value, (int, float))}
        message: dict[str, Any] = {"stage": self.stage, "unit": self.unit, "units": 0.0}
        if self._last is not None and "loss" in figures:
            now = time.monotonic()
            message["units"] = (state.global_step - self._last[0]) * self.per_step
            message["rate"] = message["units"] / max(now - self._last[1], 1e-9)
            self._last = state.global_step, now
        self.send(message | {"figures": figures | {"step": state.global_step}})


def tell(message: Mapping[str, Any]) -> None:
    """In the driver: set the metrics of an entry that ``Figures`` sent."""
    stage, unit, figures = message["stage"], message["unit"], message["figures"]
    count("dig_training_units", message["units"], stage=stage, unit=unit)
    put("dig_training_units_per_second", message.get("rate"), stage=stage, unit=unit)
    for entry, metric in OF_TRAINING.items():
        put(metric, figures.get(entry), stage=stage)
    if stage != "grpo":
        return
    for entry, metric in OF_GRPO.items():
        put(metric, figures.get(entry))
    for entry, value in figures.items():
        kind, *rest = entry.split("/")
        if kind == "rewards" and len(rest) == 2:
            # of a custom reward package.module:function, the function
            put("dig_grpo_reward_component", value, component=rest[0].rpartition(":")[2], form=rest[1])
        elif kind == "seconds" and len(rest) == 1:
            put("dig_grpo_phase_seconds", value, phase=rest[0])
