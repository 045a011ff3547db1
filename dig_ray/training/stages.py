"""The stages that train a policy: SFT, then GRPO."""

from __future__ import annotations

from typing import Any

from dig_ray.base import Inputs, Stage
from dig_ray.stage_spec import Names, StageSpec, always, when


def run_sft(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.training.stage import run

    run(
        config.sft,
        config.recommender,
        stage,
        inputs["catalog"],
        inputs["semantic_ids"],
        inputs.get("item_interests"),
        inputs.get("multi_interest", inputs.get("user_interests")),
    )


def run_grpo(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.training.grpo_stage import run

    run(
        config.grpo,
        stage,
        inputs["catalog"],
        inputs["semantic_ids"],
        inputs["sft"],
        inputs.get("judgements"),
        inputs.get("item_interests"),
        inputs.get("user_interests"),
        config.embedding.model,
        config.recommender.trust_remote_code,
    )


def _tasks_need(config: Any) -> Names:
    """What the tasks of SFT are made of."""
    tasks = config.recommender
    users = tasks.reads("user_interests") is not None
    mined = tasks.user_interests == "mined"
    return (
        "catalog",
        "semantic_ids",
        *when(
            item_interests=tasks.reads("item_interests") is not None,
            user_interests=users and mined,
            multi_interest=users and not mined,
        ),
    )


def _rewards_need(config: Any) -> Names:
    """What the rewards of GRPO read, beside the policy it starts from."""
    grpo = config.grpo
    compares = grpo.compares_interests
    read = when(
        judgements=grpo.reads_quality or (compares and config.mining.judge is not None),
        item_interests=compares,
        user_interests=compares,
    )
    return ("catalog", "semantic_ids", "sft", *read)


STAGES = (
    StageSpec(
        name="sft",
        run=run_sft,
        settings=("sft", "recommender"),
        needs=_tasks_need,
        asked=always,
        code=("dig_ray.training.stage",),
        uses_interactions=True,
        ignore=("recommender.trust_remote_code",),
    ),
    StageSpec(
        name="grpo",
        run=run_grpo,
        settings=lambda config: (
            "grpo",
            "embedding.model",
            *when(**{"-embedding.model": not config.grpo.compares_interests}),
        ),
        needs=_rewards_need,
        asked=lambda config: config.grpo is not None,
        code=("dig_ray.training.grpo_stage",),
        uses_interactions=True,
    ),
)
