"""Evaluation's stages: lists of the trained policies, and how good all lists are."""

from __future__ import annotations

from typing import Any

from dig_ray.base import Inputs, Stage
from dig_ray.stage_spec import StageSpec, always, never

DECODING = tuple(f"evaluation.{key}" for key in ("ks", "beam", "batch_size", "unconstrained"))
SCORING = tuple(f"evaluation.{key}" for key in ("ks", "n_bootstrap", "seed"))


def run_recommend(config: Any, stage: Stage, inputs: Inputs) -> None:
    _decode(config, stage, inputs, inputs.get("grpo", inputs.get("sft")), "policy")


def run_recommend_sft(config: Any, stage: Stage, inputs: Inputs) -> None:
    _decode(config, stage, inputs, inputs["sft"], "policy_sft")


def _decode(config: Any, stage: Stage, inputs: Inputs, trained: Any, name: str) -> None:
    from dig_ray.evaluation.decode_stage import run

    trusted = config.recommender.trust_remote_code
    run(
        config.evaluation, stage, inputs["catalog"], inputs["semantic_ids"], trained / "policy", name, trusted
    )


def run_evaluation(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.evaluation.stage import run

    made_by = ("recommend", "recommend_sft", "multi_interest", "baselines")
    lists = [inputs[name] for name in made_by if name in inputs]
    run(config.evaluation, stage, inputs["catalog"], lists)


def _has_grpo(config: Any) -> bool:
    return config.grpo is not None


STAGES = (
    StageSpec(
        name="recommend",
        run=run_recommend,
        settings=DECODING,
        needs=lambda config: ("catalog", "semantic_ids", "grpo" if _has_grpo(config) else "sft"),
        asked=always,
        seeded=never,
        code=("dig_ray.evaluation.decode_stage",),
        uses_interactions=True,
    ),
    StageSpec(
        name="recommend_sft",
        run=run_recommend_sft,
        settings=DECODING,
        needs=("catalog", "semantic_ids", "sft"),
        asked=_has_grpo,
        seeded=never,
        code=("dig_ray.evaluation.decode_stage",),
        uses_interactions=True,
    ),
    StageSpec(
        name="evaluation",
        run=run_evaluation,
        settings=SCORING,
        needs=("catalog", "recommend"),
        takes=("recommend_sft", "multi_interest", "baselines"),
        asked=always,
        seeded=never,
        on_ray=never,
        code=("dig_ray.evaluation.stage",),
        uses_interactions=True,
    ),
)
