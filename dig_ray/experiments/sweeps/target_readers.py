"""What a sweep reads of an artifact that it judges; nothing of it comes from the test split."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from dig_ray.artifacts.store import Artifact

START = "start_ndcg@10"
"""Validation NDCG@10 of what a training started from, where it was validated before its first step."""


def sid_figures(artifact: Artifact) -> dict[str, float]:
    """Figures of Semantic IDs; error and recall only where the quantizer reconstructs its vectors, or has some."""
    from dig_ray.semantic_ids.quality_file import read_quality

    quality = read_quality(artifact.path)
    levels = quality.levels
    found = {
        "collision_rate": quality.collision_rate,
        "share_used": sum(level.share_used for level in levels) / len(levels),
        "perplexity": math.prod(level.perplexity for level in levels) ** (1 / len(levels)),
        "codes": float(sum(quality.codebook_sizes)),
        "tokens": len(levels) + quality.sharing / quality.items,
    }
    error, recall = levels[-1].error_over_variance, levels[0].neighbour_recall
    if error is not None:
        found["error_over_variance"] = error
        found["signal"] = signal(found)
    if recall is not None:
        found["neighbour_recall"] = recall
    return found


def signal(figures: Mapping[str, float]) -> float:
    """The early sign of a quantizer: squared error over variance plus the share of items whose code is shared. Our choice."""
    return figures["error_over_variance"] + figures["collision_rate"]


def sid_epoch(figures: Mapping[str, float]) -> dict[str, float]:
    """An epoch of a quantizer, with its early sign."""
    return {**figures, "signal": signal(figures)}


def no_curve(artifact: Artifact) -> list[dict[str, float]]:
    """No validations: the artifact keeps none."""
    return []


def validation_curve(artifact: Artifact, time: str = "epoch") -> list[dict[str, float]]:
    """Validations of a policy or a model in their order; RL's begin with that of its start.

    Args:
        artifact: the artifact of a stage that trains.
        time: what its log counts by, ``epoch`` or ``step``.
    """
    from dig_ray.training.validation_log import read_validations

    return read_validations(artifact.path, time)


def best_validation(artifact: Artifact, time: str = "epoch") -> dict[str, float]:
    """Figures of the best validation after the start, the first of equals: RL's artifact keeps the start where nothing was better; a sweep
    wants to know how far RL came. Arguments as of ``validation_curve``."""
    return trained_figures(validation_curve(artifact, time), time)


def trained_figures(curve: Sequence[Mapping[str, float]], time: str, best: bool = True) -> dict[str, float]:
    """Figures of one validation of a training, and the start's, where it was validated.

    Args:
        curve: its validations, in order.
        time: ``epoch`` or ``step``.
        best: the one with the best NDCG@10, the first of equals; otherwise the latest.
    """
    from dig_ray.training.validation_log import HR, NDCG

    later = [entry for entry in curve if entry[time] > 0]
    one = max(later, key=lambda entry: entry[NDCG]) if best else later[-1]
    found = {name: one[name] for name in (NDCG, HR)}
    if curve[0][time] == 0:
        found[START] = curve[0][NDCG]
    return found


def baseline_figures(artifact: Artifact) -> dict[str, float]:
    """Figures of the one baseline that was run, with seen items allowed."""
    from dig_ray.baselines.validation_figures import best_figures

    return best_figures(artifact.stats)


def baseline_curve(artifact: Artifact) -> list[dict[str, float]]:
    """Validations by epoch of a baseline that is trained."""
    from dig_ray.baselines.validation_figures import epoch_curve

    return epoch_curve(artifact.stats)
