"""The stage that fits the baselines and writes their lists."""

from __future__ import annotations

from dig_ray.baselines.baseline import MODULES
from dig_ray.stage_spec import StageSpec

STAGES = (
    StageSpec(
        name="baselines",
        run="dig_ray.baselines.stage:run",
        settings=("baselines",),
        needs=("catalog",),
        asked=lambda config: bool(config.baselines.run),
        code=lambda config: tuple(MODULES[name] for name in config.baselines.run),
        uses_interactions=True,
    ),
)
