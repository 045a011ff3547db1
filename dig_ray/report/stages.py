"""The stage that puts all artifacts of a run on one page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dig_ray.stage_spec import ALL, StageSpec, always, never


def _looks(config: Any) -> Mapping[str, Path]:
    """Templates are no Python, so the code's hash misses them."""
    from dig_ray.report.page import template_files

    return {path.name: path for path in template_files()}


STAGES = (
    StageSpec(
        name="report",
        run="dig_ray.report.stage:run",
        settings=ALL,
        needs=("catalog", "semantic_ids"),
        takes=ALL,
        asked=always,
        on_ray=never,
        files=_looks,
        uses_interactions=True,
    ),
)
