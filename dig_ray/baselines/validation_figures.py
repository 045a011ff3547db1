"""What the baselines stage tells of validation, read from its stats under the names that all trained models share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dig_ray.baselines.sasrec import epoch_figures


def best_figures(stats: Mapping[str, Any]) -> dict[str, float]:
    """Validation figures of the one baseline that was run, with seen items allowed.

    Args:
        stats: the figures in the manifest of the stage's artifact.

    Raises:
        ValueError: it tells of none, or of several.
        KeyError: a figure is missing, which the stage always writes.
    """
    seen = _the_one(stats)["validation"]["seen"]
    return {f"eval_{name.lower()}": seen[name] for name in ("NDCG@10", "HR@10")}


def epoch_curve(stats: Mapping[str, Any]) -> list[dict[str, float]]:
    """Epoch and validation figures of every epoch of the one baseline that was run; [] where it is not trained in epochs.

    Args:
        stats: the figures in the manifest of the stage's artifact.

    Raises:
        ValueError: it tells of no baseline, or of several.
    """
    return [epoch_figures(entry) for entry in _the_one(stats).get("epochs", ())]


def _the_one(stats: Mapping[str, Any]) -> Mapping[str, Any]:
    (told,) = (told for told in stats.values() if isinstance(told, dict) and "validation" in told)
    return told
