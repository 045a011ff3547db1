"""The stages that train a policy: SFT, then GRPO."""

from __future__ import annotations

from typing import Any

from dig_ray.stage_spec import Names, StageSpec, always, when


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
    read = [name for one in config.grpo.evidence for name in one.stages(config)]
    return ("catalog", "semantic_ids", "sft", *dict.fromkeys(read))


def _rewards_count(config: Any) -> Names:
    """GRPO's settings, and those that decide what its rewards read."""
    return ("grpo", *(key for one in config.grpo.evidence for key in one.settings))


STAGES = (
    StageSpec(
        name="sft",
        run="dig_ray.training.sft_stage:run",
        settings=("sft", "recommender"),
        needs=_tasks_need,
        asked=always,
        uses_interactions=True,
    ),
    StageSpec(
        name="grpo",
        run="dig_ray.training.grpo_stage:run",
        settings=_rewards_count,
        needs=_rewards_need,
        asked=lambda config: config.grpo is not None,
        uses_interactions=True,
    ),
)
