"""What the dashboard shows of an artifact that is there, made now or found: the figures that it holds, told by the driver."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dig_ray.artifacts.store import Artifact
from dig_ray.evaluation.metrics_file import Means, read_means
from dig_ray.on_ray.telemetry import count, put
from dig_ray.semantic_ids.quality_file import SidQuality, read_quality

OF_STATS: dict[str, tuple[str, tuple[str, ...]]] = {
    "dig_training_best_ndcg": ("valid_ndcg_at_10", ("sft", "grpo", "multi_interest")),
    "dig_decode_short_lists": ("short_lists", ("recommend", "recommend_sft")),
    "dig_decode_unconstrained_invalid_ratio": ("unconstrained_invalid_rate", ()),
}
"""Metric -> its entry of an artifact's stats, and the stages that always have it."""


@contextmanager
def running(stage: str) -> Iterator[None]:
    """Say that a stage runs, and if it fails, that it did."""
    put("dig_stage_running", 1, stage=stage)
    try:
        yield
    except Exception:
        count("dig_stage_artifacts", stage=stage, outcome="failed")
        raise
    finally:
        put("dig_stage_running", 0, stage=stage)


def tell(artifact: Artifact, made: bool) -> None:
    """Set the metrics of an artifact.

    A file of it that is gone or is no JSON costs its metrics and no more: a run does not fail for its dashboard. A figure that goes by
    another name now is a mistake of ours, and is told.

    Args:
        artifact: what is there.
        made: whether it was made now, and not found.

    Raises:
        LookupError: it lacks a figure that its stage always has.
    """
    stage, stats = artifact.stage, artifact.stats
    count("dig_stage_artifacts", stage=stage, outcome="made" if made else "found")
    put("dig_stage_seconds", float(artifact.manifest["seconds"]), stage=stage)
    put("dig_stage_rows", stats.get("rows"), stage=stage)
    for metric, (name, always) in OF_STATS.items():
        if stage in always and name not in stats:
            raise LookupError(f"the stats of {stage} have no {name}, which the stage always tells")
        put(metric, stats.get(name), stage=stage)
    try:
        if stage == "semantic_ids":
            _semantic_ids(read_quality(artifact.path))
        elif stage == "evaluation":
            _evaluation(read_means(artifact.path))
    except (OSError, ValueError):
        return


def _semantic_ids(quality: SidQuality) -> None:
    put("dig_semantic_ids_collision_ratio", quality.collision_rate)
    for number, one in enumerate(quality.levels, 1):
        level = str(number)
        put("dig_semantic_ids_codes_used_ratio", one.share_used, level=level)
        put("dig_semantic_ids_perplexity_codes", one.perplexity, level=level)
        put("dig_semantic_ids_error_ratio", one.error_over_variance, level=level)


def _evaluation(means: Means) -> None:
    rules = {"seen": "allowed", "unseen": "left_out"}
    for recommender, by_rule in means.items():
        for rule, metrics in by_rule.items():
            for metric, mean in metrics.items():
                put("dig_evaluation_score", mean, recommender=recommender, seen=rules[rule], metric=metric)
