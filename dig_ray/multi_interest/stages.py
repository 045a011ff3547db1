"""Multi-interest retrieval's stages: users' items in clusters, synthesized users, their items in clusters, and the model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dig_ray.mining.config import input_files
from dig_ray.mining.stages import engines
from dig_ray.stage_spec import Names, StageSpec, never, when

WHO = tuple(
    f"multi_interest.crowd.{key}" for key in ("budget", "neighbours", "users_per_item", "choose", "max_items")
)
"""Settings that decide who the synthesized users are."""


def by_llm(config: Any) -> bool:
    """Whether an LLM reads what is said of items; without one their vectors are grouped."""
    return config.mining.clusters is not None


def _cluster_files(config: Any) -> Mapping[str, str | Path]:
    return input_files(config.mining, "clusters") if by_llm(config) else {}


def clustered(name: str, needs: Names = (), settings: Names = ()) -> StageSpec:
    """A stage that allocates subjects' items to clusters.

    Args:
        name: the stage's name; ``run_NAME`` of ``cluster_stage`` runs it.
        needs: stages whose artifacts it reads beside the catalogue and what clusters are made from.
        settings: dotted keys that change its result beside those of every such stage.
    """

    def counted(config: Any) -> Names:
        asks = ("mining.cluster_prompt", "mining.evidence_tokens")
        read = asks if by_llm(config) else ("multi_interest.vector_clusters",)
        return ("mining.clusters", "mining.cluster_items", *read, *settings)

    def inputs(config: Any) -> Names:
        interests = by_llm(config) and bool(config.mining.items)
        return ("catalog", *when(item_interests=interests, embedding=not by_llm(config)), *needs)

    return StageSpec(
        name=name,
        run=f"dig_ray.multi_interest.cluster_stage:run_{name}",
        settings=counted,
        needs=inputs,
        seeded=never,
        on_ray=by_llm,
        files=_cluster_files,
        code=engines("clusters"),
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
    clustered("user_clusters", settings=("multi_interest.hold_out",)),
    StageSpec(
        name="crowd",
        run="dig_ray.multi_interest.crowd:run",
        settings=WHO,
        needs=("catalog",),
        seeded=lambda config: config.multi_interest.crowd.choose == "random",
        on_ray=never,
        uses_interactions=True,
    ),
    clustered("crowd_clusters", needs=("crowd",)),
    StageSpec(
        name="multi_interest",
        run="dig_ray.multi_interest.stage:run",
        settings=_model_settings,
        needs=_model_needs,
        asked=lambda config: config.multi_interest is not None,
        uses_interactions=True,
    ),
)
