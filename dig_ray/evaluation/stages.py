"""Evaluation's stages: lists of the trained policies, and how good all lists are."""

from __future__ import annotations

from typing import Any

from dig_ray.stage_spec import StageSpec, always, never

DECODING = ("evaluation", *(f"-evaluation.{key}" for key in ("n_bootstrap", "seed")))
SCORING = ("evaluation", *(f"-evaluation.{key}" for key in ("beam", "batch_size", "unconstrained")))


def _has_grpo(config: Any) -> bool:
    return config.grpo is not None


STAGES = (
    StageSpec(
        name="recommend",
        run="dig_ray.evaluation.decode_stage:run_recommend",
        settings=DECODING,
        needs=lambda config: ("catalog", "semantic_ids", "grpo" if _has_grpo(config) else "sft"),
        asked=always,
        seeded=never,
        uses_interactions=True,
    ),
    StageSpec(
        name="recommend_sft",
        run="dig_ray.evaluation.decode_stage:run_recommend_sft",
        settings=DECODING,
        needs=("catalog", "semantic_ids", "sft"),
        asked=_has_grpo,
        seeded=never,
        uses_interactions=True,
    ),
    StageSpec(
        name="evaluation",
        run="dig_ray.evaluation.stage:run",
        settings=SCORING,
        needs=("catalog", "recommend"),
        takes=("recommend_sft", "multi_interest", "baselines"),
        asked=always,
        seeded=never,
        on_ray=never,
        uses_interactions=True,
    ),
)
