"""What came of a search's trials, as plain data."""

from __future__ import annotations

import json
import math
from typing import Any

from dig_ray.artifacts.store import NO_SPACE
from dig_ray.errors import UserError
from dig_ray.experiments.sweeps.run_trial import why_failed
from dig_ray.experiments.sweeps.space import settings_of
from dig_ray.experiments.sweeps.target_readers import START
from dig_ray.experiments.sweeps.trials import Trials, name_of

BESIDE = (START, "loss")
"""What a table shows beside the objectives."""


def rows_of(grid: Any, trials: Trials, notes: str) -> list[dict[str, Any]]:
    """Every trial as plain data: its point, last figures, curve, and why it failed."""
    rows = []
    for result in grid:
        point = dict(result.config)
        metrics = result.metrics or {}
        history = result.metrics_dataframe
        figures = {
            name: float(value)
            for name, value in metrics.items()
            if isinstance(value, (int, float)) and not isinstance(value, bool) and _is_ours(name, trials)
        }
        complete = "complete" in metrics and result.error is None
        time_name = trials.judged.time
        curve: list[dict[str, float]] = json.loads(metrics.get("curve") or "[]")
        if not curve and history is not None and time_name in history:
            kept = [c for c in history.columns if c == time_name or _is_ours(c, trials)]
            curve = [
                {k: float(v) for k, v in row.items() if isinstance(v, (int, float)) and math.isfinite(v)}
                for row in history[kept].dropna(subset=[time_name]).to_dict("records")
            ]
        error = ""
        if result.error is not None:
            error = why_failed(notes, point) or str(result.error).strip().splitlines()[-1]
            if NO_SPACE in error:  # no result, of which the sweep would be published
                raise UserError(error[error.index(NO_SPACE) :])
        rows.append(
            {
                "name": name_of(point),
                "fingerprint": trials.identity(point),
                "point": point,
                "last": point,
                "settings": settings_of(point),
                "figures": figures,
                "per_seed": {
                    k.removeprefix("per_seed/"): v for k, v in metrics.items() if k.startswith("per_seed/")
                },
                "complete": complete,
                "stopped": not complete and result.error is None,
                "error": error,
                "seconds": round(float(metrics.get("time_total_s") or 0.0), 1),
                "curve": curve,
            }
        )
    return rows


def _is_ours(name: str, trials: Trials) -> bool:
    return name in trials.judged.objectives or name in BESIDE
