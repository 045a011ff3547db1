"""The pipeline's stages, what decides the result of each, and the function that runs it.

To add a stage, write the room's ``run``, a function in ``stage_rooms`` that calls it, and one entry in ``STAGES``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dig_ray import stage_rooms
from dig_ray.base import Inputs, Stage
from dig_ray.mining.config import MEMORY_AND_SPEED
from dig_ray.stage_spec import StageSpec

ROOMS = (
    "catalog",
    "mining",
    "embedding",
    "image_embedding",
    "fusion",
    "multi_interest",
    "semantic_ids",
    "recommender",
    "sft",
    "grpo",
    "evaluation",
    "baselines",
)

DECODING_RESOURCES = ("evaluation.num_actors", "evaluation.num_cpus", "evaluation.num_gpus")
NOT_DECODING = ("evaluation.n_bootstrap", "evaluation.seed", *DECODING_RESOURCES)

MINING_FIELDS = (
    "caption",
    "items",
    "users",
    "judge",
    "clusters",
    "cluster_prompt",
    "cluster_items",
    "caption_prompt",
    "item_prompt",
    "user_prompt",
    "judge_prompt",
    "evidence_tokens",
    "user_items",
    "user_hold_out",
    "image_side",
    "most",
    "copies",
    "self_judging",
    "merge",
    "rldi",
)
WHERE_PICTURES_LIE = tuple(  # and how fast they come
    f"catalog.images.{key}" for key in ("root", "archive", "timeout", "in_flight")
)
ENGINES = tuple(
    f"dig_ray.mining.engines.{name}" for name in ("keyphrase", "openai", "replay", "similarity", "vllm")
)
HOW_MINERS_RUN = (  # where a model runs, how fast, and what it costs
    "base_url",
    "api_key_env",
    "max_tokens_field",
    "max_in_flight",
    "requests_per_minute",
    "timeout",
    "deadline",
    "max_tries",
    "spend_limit",
    "hopeless_rows",
    "price",
    "replicas",
    "tensor_parallel",
    "device",
    "batch_size",
    "max_concurrent_batches",
    "kv_cache_gib",
    *(f"engine_kwargs.{name}" for name in MEMORY_AND_SPEED),
    "path",
    "actors",
    "num_cpus",
    "num_gpus",
)

WHERE_WORKERS_RUN = ("cpus_per_worker", "max_failures", "hang_seconds", "nodes")
"""Of a stage on Ray Train."""


def _operational(*fields: str) -> tuple[str, ...]:
    return ("mining.max_failed", *(f"mining.{field}.{key}" for field in fields for key in HOW_MINERS_RUN))


def _mining_stage(
    name: str,
    run: Callable[[Any, Stage, Inputs], None],
    miners: str,
    settings: tuple[str, ...],
    inputs: tuple[str, ...],
    code: str = "dig_ray.mining.stage",
    seeded: bool = False,
    wanted: Callable[[Any], bool] | None = None,
    reads: Callable[[Any, str], bool] = lambda config, name: True,
) -> StageSpec:
    """A stage that asks the miners of one field of ``mining``, and whose result only that field and ``settings`` change."""

    def has_miners(config: Any) -> bool:
        found = config.mining.item_miners if miners == "items" else getattr(config.mining, miners)
        return bool(found)

    unread = [f"mining.{field}" for field in MINING_FIELDS if field not in (miners, *settings)]
    return StageSpec(
        name=name,
        parts=("mining",),
        inputs=("catalog", *inputs),
        code=(code, *ENGINES),
        run=run,
        seeded=lambda config: seeded,
        ignore=(*_operational("caption", "items", "users", "judge", "clusters"), *unread),
        files=stage_rooms.mining_files(miners),
        wanted=wanted or has_miners,
        possible=has_miners,
        reads=reads,
    )


def _cluster_stage(
    name: str,
    run: Callable[[Any, Stage, Inputs], None],
    wanted: Callable[[Any], bool],
    inputs: tuple[str, ...],
    settings: tuple[str, ...] = (),
) -> StageSpec:
    """A stage that allocates subjects' items to clusters, by an LLM or by vectors; ``settings`` change its result, too."""
    read = ("clusters", "cluster_prompt", "cluster_items", "evidence_tokens")
    unread = [f"mining.{field}" for field in MINING_FIELDS if field not in read]
    return StageSpec(
        name=name,
        parts=("mining", "multi_interest.vector_clusters", *settings),
        inputs=("catalog", "item_interests", "embedding", *inputs),
        code=("dig_ray.multi_interest.cluster_stage", *ENGINES),
        run=run,
        seeded=lambda config: False,
        on_ray=lambda config: config.mining.clusters is not None,
        ignore=(*_operational("clusters"), *unread),
        unread=stage_rooms.clusters_unread,
        files=stage_rooms.cluster_files,
        wanted=wanted,
        reads=stage_rooms.clusters_read,
        uses_interactions=True,
    )


STAGES: tuple[StageSpec, ...] = (
    StageSpec(
        name="catalog",
        parts=("catalog",),
        inputs=(),
        code=("dig_ray.catalog.stage",),
        run=stage_rooms.catalog,
        seeded=lambda config: config.catalog.source == "demo" and config.catalog.demo.seed is None,
        on_ray=stage_rooms.drops_items,
        ignore=(
            "catalog.items.path",
            "catalog.interactions.path",
            "catalog.download.directory",
            *WHERE_PICTURES_LIE,
        ),
        unread=lambda config: () if stage_rooms.drops_items(config) else ("catalog.images",),
        files=stage_rooms.catalog_files,
    ),
    StageSpec(
        name="pictures",
        parts=("catalog.images",),
        inputs=("catalog",),
        code=("dig_ray.catalog.pictures",),
        run=stage_rooms.pictures,
        seeded=lambda config: False,
        ignore=WHERE_PICTURES_LIE,
        files=stage_rooms.picture_files,
        wanted=lambda config: (
            stage_rooms.captions_read(config, "pictures") or stage_rooms.embeds_pictures(config)
        ),
        possible=lambda config: True,
    ),
    _mining_stage(
        "captions",
        stage_rooms.captions,
        "caption",
        ("caption_prompt", "image_side", "copies"),
        ("pictures",),
        reads=stage_rooms.captions_read,
    ),
    _mining_stage(
        "item_interests",
        stage_rooms.item_interests,
        "items",
        ("item_prompt", "evidence_tokens", "most", "copies", "merge"),
        ("captions",),
        wanted=stage_rooms.items_are_mined,
    ),
    _mining_stage(
        "judgements",
        stage_rooms.judgements,
        "judge",
        ("judge_prompt", "evidence_tokens", "rldi"),
        ("captions", "item_interests"),
        code="dig_ray.mining.judging",
        seeded=True,
    ),
    _mining_stage(
        "user_interests",
        stage_rooms.user_interests,
        "users",
        ("user_prompt", "evidence_tokens", "user_items", "user_hold_out", "most", "copies", "merge"),
        ("item_interests",),
    ),
    StageSpec(
        name="embedding",
        parts=("embedding",),
        inputs=("catalog", "captions", "item_interests", "judgements"),
        code=("dig_ray.embedding.stage",),
        run=stage_rooms.embedding,
        seeded=lambda config: False,
        ignore=(
            "embedding.path",
            "embedding.num_actors",
            "embedding.num_cpus",
            "embedding.num_gpus",
            "embedding.rows_per_part",
        ),
        files=stage_rooms.brought_along("embedding"),
        wanted=stage_rooms.embeds_items,
        reads=stage_rooms.embedding_reads,
    ),
    StageSpec(
        name="image_embedding",
        parts=("image_embedding",),
        inputs=("catalog", "pictures"),
        code=("dig_ray.embedding.image_stage",),
        run=stage_rooms.image_embedding,
        seeded=lambda config: False,
        ignore=(
            "image_embedding.path",
            "image_embedding.cache_dir",
            "image_embedding.num_actors",
            "image_embedding.num_cpus",
            "image_embedding.num_gpus",
            "image_embedding.decode_cpus",
            "image_embedding.batch_size",
        ),
        files=stage_rooms.image_files,
        wanted=stage_rooms.is_fused,
        possible=lambda config: True,
        reads=lambda config, name: name == "catalog" or config.image_embedding.path is None,
    ),
    StageSpec(
        name="fusion",
        parts=("fusion",),
        inputs=("catalog", "embedding", "image_embedding"),
        code=("dig_ray.embedding.fusion_stage",),
        run=stage_rooms.fusion,
        seeded=lambda config: config.fusion.target == "cooccurrence",
        on_ray=False,
        wanted=stage_rooms.is_fused,
    ),
    _cluster_stage(
        "user_clusters",
        stage_rooms.user_clusters,
        stage_rooms.clusters_users,
        (),
        ("multi_interest.hold_out",),
    ),
    StageSpec(
        name="crowd",
        parts=("multi_interest.crowd",),
        inputs=("catalog",),
        code=("dig_ray.multi_interest.cluster_stage",),
        run=stage_rooms.crowd,
        seeded=lambda config: config.multi_interest.crowd.choose == "random",
        on_ray=False,
        ignore=tuple(f"multi_interest.crowd.{name}" for name in ("weight", "temperature", "per_step")),
        wanted=stage_rooms.clusters_crowd,
        uses_interactions=True,
    ),
    _cluster_stage("crowd_clusters", stage_rooms.crowd_clusters, stage_rooms.clusters_crowd, ("crowd",)),
    StageSpec(
        name="multi_interest",
        parts=("multi_interest",),
        inputs=("catalog", "user_clusters", "crowd_clusters"),
        code=("dig_ray.multi_interest.stage", "dig_ray.multi_interest.loop"),
        run=stage_rooms.multi_interest,
        ignore=tuple(f"multi_interest.{name}" for name in WHERE_WORKERS_RUN),
        unread=stage_rooms.multi_interest_unread,
        wanted=stage_rooms.has_multi_interest,
        uses_interactions=True,
    ),
    StageSpec(
        name="semantic_ids",
        parts=("semantic_ids",),
        inputs=("catalog", "embedding", "fusion", "multi_interest"),
        code=("dig_ray.semantic_ids.stage",),
        run=stage_rooms.semantic_ids,
        reads=stage_rooms.semantic_ids_read,
        on_ray=False,
        ignore=("semantic_ids.path", "semantic_ids.rqvae.checkpoint_seconds"),
        unread=stage_rooms.semantic_ids_unread,
        files=lambda config: {"sids": config.semantic_ids.path} if config.semantic_ids.path else {},
    ),
    StageSpec(
        name="baselines",
        parts=("baselines",),
        inputs=("catalog",),
        code=("dig_ray.baselines.stage",),
        run=stage_rooms.baselines,
        uses_interactions=True,
        wanted=lambda config: bool(config.baselines.run),
    ),
    StageSpec(
        name="sft",
        parts=("sft", "recommender"),
        inputs=("catalog", "item_interests", "user_interests", "multi_interest", "semantic_ids"),
        code=("dig_ray.training.stage",),
        run=stage_rooms.sft,
        uses_interactions=True,
        reads=stage_rooms.sft_reads,
        ignore=(*(f"sft.{name}" for name in WHERE_WORKERS_RUN), "recommender.trust_remote_code"),
    ),
    StageSpec(
        name="grpo",
        parts=("grpo", "embedding.model"),
        inputs=(
            "catalog",
            "semantic_ids",
            "sft",
            "judgements",
            "item_interests",
            "user_interests",
        ),
        code=("dig_ray.training.grpo_stage",),
        run=stage_rooms.grpo,
        uses_interactions=True,
        wanted=stage_rooms.has_grpo,
        reads=stage_rooms.grpo_reads,
        ignore=tuple(f"grpo.{name}" for name in WHERE_WORKERS_RUN),
        unread=lambda config: () if stage_rooms.compares_interests(config) else ("embedding.model",),
    ),
    StageSpec(
        name="recommend",
        parts=("evaluation",),
        inputs=("catalog", "semantic_ids", "sft", "grpo"),
        reads=stage_rooms.recommend_reads,
        code=("dig_ray.evaluation.decode_stage",),
        run=stage_rooms.recommend(("grpo", "sft"), "policy"),
        uses_interactions=True,
        seeded=lambda config: False,
        ignore=NOT_DECODING,
    ),
    StageSpec(
        name="recommend_sft",
        parts=("evaluation",),
        inputs=("catalog", "semantic_ids", "sft"),
        code=("dig_ray.evaluation.decode_stage",),
        run=stage_rooms.recommend(("sft",), "policy_sft"),
        uses_interactions=True,
        wanted=stage_rooms.has_grpo,
        seeded=lambda config: False,
        ignore=NOT_DECODING,
    ),
    StageSpec(
        name="evaluation",
        parts=("evaluation",),
        inputs=("catalog", "recommend", "recommend_sft", "multi_interest", "baselines"),
        code=("dig_ray.evaluation.stage",),
        run=stage_rooms.evaluation,
        uses_interactions=True,
        seeded=lambda config: False,
        on_ray=False,
        ignore=(
            "evaluation.beam",
            "evaluation.batch_size",
            "evaluation.unconstrained",
            *DECODING_RESOURCES,
        ),
    ),
    StageSpec(
        name="report",
        parts=("name", *ROOMS),
        inputs=(
            "catalog",
            "pictures",
            "captions",
            "item_interests",
            "judgements",
            "user_interests",
            "embedding",
            "image_embedding",
            "fusion",
            "user_clusters",
            "crowd",
            "crowd_clusters",
            "multi_interest",
            "semantic_ids",
            "baselines",
            "sft",
            "grpo",
            "recommend",
            "recommend_sft",
            "evaluation",
        ),
        code=("dig_ray.report.stage",),
        run=stage_rooms.report,
        uses_interactions=True,
        on_ray=False,
        files=stage_rooms.report_files,  # its looks are no Python, so the code's hash misses them
    ),
)
