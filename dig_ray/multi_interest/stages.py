"""Multi-interest retrieval's stages: users' items in clusters, synthesized users, their items in clusters, and the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dig_ray.base import Inputs, Stage
from dig_ray.mining.config import input_files
from dig_ray.mining.stages import ENGINES
from dig_ray.stage_spec import Names, StageSpec, never, when

WHO = tuple(
    f"multi_interest.crowd.{key}" for key in ("budget", "neighbours", "users_per_item", "choose", "max_items")
)
"""Settings that decide who the synthesized users are."""


def run_user_clusters(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.multi_interest.cluster_stage import run_user_clusters

    run_user_clusters(
        config.mining,
        config.multi_interest.vector_clusters,
        stage,
        inputs["catalog"],
        inputs.get("item_interests"),
        inputs.get("embedding"),
        config.multi_interest.hold_out,
    )


def run_crowd(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.multi_interest.cluster_stage import run_crowd

    run_crowd(config.multi_interest.crowd, stage, inputs["catalog"])


def run_crowd_clusters(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.multi_interest.cluster_stage import run_crowd_clusters

    run_crowd_clusters(
        config.mining,
        config.multi_interest.vector_clusters,
        stage,
        inputs["catalog"],
        inputs["crowd"],
        inputs.get("item_interests"),
        inputs.get("embedding"),
    )


def run_model(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.multi_interest.stage import run

    run(
        config.multi_interest,
        stage,
        inputs["catalog"],
        inputs.get("user_clusters"),
        inputs.get("crowd_clusters"),
    )


def by_llm(config: Any) -> bool:
    """Whether an LLM reads what is said of items; without one their vectors are grouped."""
    return config.mining.clusters is not None


def _cluster_files(config: Any) -> Mapping[str, str | Path]:
    return input_files(config.mining, "clusters") if by_llm(config) else {}


def clustered(
    name: str, run: Callable[[Any, Stage, Inputs], None], needs: Names = (), settings: Names = ()
) -> StageSpec:
    """A stage that allocates subjects' items to clusters; ``settings`` change its result, too."""

    def counted(config: Any) -> Names:
        read = ("mining.clusters", "mining.cluster_items", "multi_interest.vector_clusters", *settings)
        if by_llm(config):
            return (
                *read,
                "mining.cluster_prompt",
                "mining.evidence_tokens",
                "-multi_interest.vector_clusters",
            )
        return read

    def inputs(config: Any) -> Names:
        interests = by_llm(config) and bool(config.mining.items)
        return ("catalog", *when(item_interests=interests, embedding=not by_llm(config)), *needs)

    return StageSpec(
        name=name,
        run=run,
        settings=counted,
        needs=inputs,
        seeded=never,
        on_ray=by_llm,
        files=_cluster_files,
        code=("dig_ray.multi_interest.cluster_stage", *ENGINES),
        uses_interactions=True,
    )


def _model_settings(config: Any) -> Names:
    """All but what an input stands for and the settings of parts that a model does without."""
    model = config.multi_interest
    unread = ["vector_clusters"]
    unread += [] if model.clusters_users else ["alignment"]
    unread += [] if model.clusters_crowd else ["crowd"]
    unread += ["hidden"] if model.routing == "capsules" else ["rounds", "agreement"]
    unread += ["negatives_power"] if model.negatives is None else ["precision"]
    return ("multi_interest", *(f"-{key}" for key in WHO), *(f"-multi_interest.{key}" for key in unread))


def _model_needs(config: Any) -> Names:
    model = config.multi_interest
    return ("catalog", *when(user_clusters=model.clusters_users, crowd_clusters=model.clusters_crowd))


STAGES = (
    clustered("user_clusters", run_user_clusters, settings=("multi_interest.hold_out",)),
    StageSpec(
        name="crowd",
        run=run_crowd,
        settings=WHO,
        needs=("catalog",),
        seeded=lambda config: config.multi_interest.crowd.choose == "random",
        on_ray=never,
        code=("dig_ray.multi_interest.cluster_stage",),
        uses_interactions=True,
    ),
    clustered("crowd_clusters", run_crowd_clusters, needs=("crowd",)),
    StageSpec(
        name="multi_interest",
        run=run_model,
        settings=_model_settings,
        needs=_model_needs,
        asked=lambda config: config.multi_interest is not None,
        code=("dig_ray.multi_interest.stage", "dig_ray.multi_interest.loop"),
        uses_interactions=True,
        ignore=tuple(
            f"multi_interest.{key}" for key in ("cpus_per_worker", "max_failures", "hang_seconds", "nodes")
        ),
    ),
)
