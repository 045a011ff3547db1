"""The stage that fits the baselines and writes their lists."""

from __future__ import annotations

from typing import Any

from dig_ray.base import Inputs, Stage
from dig_ray.stage_spec import StageSpec


def run_baselines(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.baselines.stage import run

    run(config.baselines, stage, inputs["catalog"])


STAGES = (
    StageSpec(
        name="baselines",
        run=run_baselines,
        settings=("baselines",),
        needs=("catalog",),
        asked=lambda config: bool(config.baselines.run),
        code=("dig_ray.baselines.stage",),
        uses_interactions=True,
    ),
)
