"""What the dashboard shows of an artifact that is there, made now or found: the figures that it holds, told by the driver."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from dig_ray.store import Artifact
from dig_ray.telemetry import count, put


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
    """Set the metrics of an artifact; where a file of it cannot be read, those that need none."""
    stage, stats = artifact.stage, artifact.stats
    count("dig_stage_artifacts", stage=stage, outcome="made" if made else "found")
    put("dig_stage_seconds", float(artifact.manifest["seconds"]), stage=stage)
    put("dig_stage_rows", stats.get("rows"), stage=stage)
    put("dig_training_best_ndcg", stats.get("valid_ndcg_at_10"), stage=stage)
    put("dig_decode_short_lists", stats.get("short_lists"), stage=stage)
    put("dig_decode_unconstrained_invalid_ratio", stats.get("unconstrained_invalid_rate"), stage=stage)
    try:
        if stage == "semantic_ids":
            _semantic_ids(json.loads((artifact.path / "sid_quality.json").read_text()))
        elif stage == "evaluation":
            _evaluation(json.loads((artifact.path / "metrics.json").read_text())["results"])
    except (OSError, ValueError, KeyError, TypeError):
        return  # the page and the file have it all; a run does not fail for its dashboard


def _semantic_ids(report: Mapping[str, Any]) -> None:
    put("dig_semantic_ids_collision_ratio", report["collisions"]["collision_rate"])
    for number, (usage, prefix) in enumerate(zip(report["levels"], report["prefixes"], strict=True), 1):
        level = str(number)
        put("dig_semantic_ids_codes_used_ratio", usage["share_used"], level=level)
        put("dig_semantic_ids_perplexity_codes", usage["perplexity"], level=level)
        put("dig_semantic_ids_error_ratio", prefix.get("error_over_variance"), level=level)


def _evaluation(results: Mapping[str, Any]) -> None:
    rules = {"seen": "allowed", "unseen": "left_out"}
    for recommender, by_rule in results.items():
        for rule, scored in by_rule.items():
            for metric, value in scored["metrics"].items():
                put(
                    "dig_evaluation_score",
                    value["mean"],
                    recommender=recommender,
                    seen=rules[rule],
                    metric=metric,
                )
