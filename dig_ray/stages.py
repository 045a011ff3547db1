"""What the pipeline's stages are: their names, what decides their results, and the function that runs each.

To add a stage, write the room's ``run`` and one entry in ``STAGES``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dig_ray.base import Stage

Inputs = Mapping[str, Path]


@dataclass(frozen=True)
class StageSpec:
    """What the pipeline knows about a stage.

    Attributes:
        name: its name, directory and job.
        parts: the fields of the run's config that decide its result; ``room.field`` is a part of a room.
        inputs: stages whose artifacts it reads, where they are wanted and ``reads`` says so.
        code: modules where its code starts; all that they import counts.
        run: ``run(config, stage, inputs)``; imports its room itself, so that planning stays light.
        seeded: whether the run's seed changes its result under this config.
        on_ray: whether it needs Ray, always or under this config.
        ignore: dotted keys below ``parts`` that change its speed and not its result.
        unread: dotted keys below ``parts`` that it does not read under this config.
        files: files from outside the store that it reads, by purpose; their content counts, not where they lie.
        wanted: whether this config's pipeline needs it.
        possible: whether it can be asked for by name; where it is wanted, by default.
        reads: whether it reads one of its ``inputs`` under this config.
        uses_interactions: whether it has nothing to do on a catalogue that nobody has used yet.
    """

    name: str
    parts: tuple[str, ...]
    inputs: tuple[str, ...]
    code: tuple[str, ...]
    run: Callable[[Any, Stage, Inputs], None]
    seeded: Callable[[Any], bool] = lambda config: True
    on_ray: bool | Callable[[Any], bool] = True
    ignore: tuple[str, ...] = ()
    unread: Callable[[Any], tuple[str, ...]] = lambda config: ()
    files: Callable[[Any], Mapping[str, str | Path]] = lambda config: {}
    wanted: Callable[[Any], bool] = lambda config: True
    possible: Callable[[Any], bool] | None = None
    reads: Callable[[Any, str], bool] = lambda config, name: True
    uses_interactions: bool = False

    def can_run(self, config: Any) -> bool:
        """Whether it can be asked for by name."""
        return (self.possible or self.wanted)(config)

    def needs_ray(self, config: Any) -> bool:
        """Whether it needs Ray under this config."""
        return self.on_ray(config) if callable(self.on_ray) else self.on_ray


def _catalog(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.catalog.stage import run

    run(config.catalog, stage)


def _catalog_files(config: Any) -> Mapping[str, str]:
    from dig_ray.catalog.config import input_files

    return input_files(config.catalog)


def _pictures(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.catalog.pictures import run

    run(config.catalog, stage, inputs["catalog"])


def _picture_files(config: Any) -> Mapping[str, str]:
    from dig_ray.catalog.config import picture_files

    return picture_files(config.catalog)


def _drops_items(config: Any) -> bool:
    """Whether items without a picture leave the catalogue, which then has to open them."""
    return config.catalog.images.missing == "drop"


def _captions_read(config: Any, name: str) -> bool:
    """A recorded caption needs no picture of ours."""
    caption = config.mining.caption
    return name != "pictures" or (caption is not None and caption.engine != "replay")


def _captions(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.mining.stage import run_captions

    run_captions(config.mining, stage, inputs["catalog"], inputs.get("pictures"))


def _item_interests(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.mining.stage import run_items

    run_items(config.mining, stage, inputs["catalog"], inputs.get("captions"))


def _judgements(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.mining.judging import run

    run(config.mining, stage, inputs["catalog"], inputs["item_interests"], inputs.get("captions"))


def _user_interests(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.mining.stage import run_users

    run_users(config.mining, stage, inputs["catalog"], inputs.get("item_interests"))


def _mining_files(miners: str) -> Callable[[Any], Mapping[str, str | Path]]:
    def files(config: Any) -> Mapping[str, str | Path]:
        from dig_ray.mining.config import input_files

        return input_files(config.mining, miners)

    return files


def _embedding(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.embedding.stage import run

    run(
        config.embedding,
        stage,
        inputs["catalog"],
        inputs.get("captions"),
        inputs.get("item_interests"),
        inputs.get("judgements"),
    )


def _image_embedding(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.embedding.image_stage import run

    run(config.image_embedding, stage, inputs["catalog"], inputs.get("pictures"))


def _fusion(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.embedding.fusion_stage import run

    run(config.fusion, stage, inputs["catalog"], inputs["embedding"], inputs["image_embedding"])


def _items_are_mined(config: Any) -> bool:
    """Where miners are named, or something reads what the default one finds."""
    mining = config.mining
    return bool(mining.items) or (
        mining.items is None
        and (
            "interests" in config.embedding.fields
            or bool(mining.users)
            or mining.judge is not None
            or _sft_reads(config, "item_interests")
            or _compares_interests(config)
        )
    )


def _embedding_reads(config: Any, name: str) -> bool:
    if name == "catalog":
        return True
    wanted = {
        "captions": "caption" in config.embedding.fields,
        "item_interests": "interests" in config.embedding.fields,
        "judgements": config.embedding.curated,
    }
    return config.embedding.path is None and wanted[name]


def _brought_along(part: str) -> Callable[[Any], Mapping[str, str | Path]]:
    def files(config: Any) -> Mapping[str, str | Path]:
        path = getattr(config, part).path
        return {} if path is None else {"vectors": path}

    return files


def _image_files(config: Any) -> Mapping[str, str | Path]:
    found = dict(_brought_along("image_embedding")(config))
    if Path(config.image_embedding.pretrained).is_file():
        found["weights"] = config.image_embedding.pretrained
    return found


def _is_fused(config: Any) -> bool:
    return config.fusion is not None and config.semantic_ids.method != "file"


def _embeds_pictures(config: Any) -> bool:
    """Whether vectors of pictures are made rather than brought along."""
    return _is_fused(config) and config.image_embedding.path is None


def _semantic_ids(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.semantic_ids.stage import run

    made = inputs.get("fusion", inputs.get("embedding"))
    run(config.semantic_ids, stage, made and made / "embeddings.parquet", inputs["catalog"])


def _semantic_ids_read(config: Any, name: str) -> bool:
    return name != "embedding" or config.fusion is None


def _baselines(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.baselines.stage import run

    run(config.baselines, stage, inputs["catalog"])


def _sft(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.training.stage import run

    run(
        config.sft,
        config.recommender,
        stage,
        inputs["catalog"],
        inputs["semantic_ids"],
        inputs.get("item_interests"),
        inputs.get("user_interests"),
    )


def _sft_reads(config: Any, name: str) -> bool:
    return name in ("catalog", "semantic_ids") or config.recommender.reads(name) is not None


def _grpo(config: Any, stage: Stage, inputs: Inputs) -> None:
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
    )


def _grpo_reads(config: Any, name: str) -> bool:
    if name == "judgements":
        quality = config.grpo is not None and config.grpo.rewards.reads_quality
        return quality or (_compares_interests(config) and config.mining.judge is not None)
    return name in ("catalog", "semantic_ids", "sft") or _compares_interests(config)


def _has_grpo(config: Any) -> bool:
    return config.grpo is not None


def _compares_interests(config: Any) -> bool:
    return config.grpo is not None and config.grpo.rewards.gamma > 0


def _recommend(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.evaluation.decode_stage import run

    policy = inputs.get("grpo", inputs.get("sft"))
    assert policy is not None
    run(config.evaluation, stage, inputs["catalog"], inputs["semantic_ids"], policy / "policy")


def _recommend_reads(config: Any, name: str) -> bool:
    """The last policy that was trained is the one that recommends."""
    return name not in ("sft", "grpo") or (name == "grpo") == _has_grpo(config)


def _recommend_sft(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.evaluation.decode_stage import run

    policy_dir = inputs["sft"] / "policy"
    run(config.evaluation, stage, inputs["catalog"], inputs["semantic_ids"], policy_dir, "policy_sft")


def _evaluation(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.evaluation.stage import run

    lists = [inputs[name] for name in ("recommend", "recommend_sft", "baselines") if name in inputs]
    run(config.evaluation, stage, inputs["catalog"], lists)


def _report(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.report.stage import run

    run(config, stage, inputs)


def _report_files(config: Any) -> Mapping[str, Path]:
    from dig_ray.report.page import template_files

    return {path.name: path for path in template_files()}


ROOMS = (
    "catalog",
    "mining",
    "embedding",
    "image_embedding",
    "fusion",
    "semantic_ids",
    "recommender",
    "sft",
    "grpo",
    "evaluation",
    "baselines",
)

DECODING_RESOURCES = ("evaluation.num_actors", "evaluation.num_cpus", "evaluation.num_gpus")

MINING_FIELDS = (
    "caption",
    "items",
    "users",
    "judge",
    "caption_prompt",
    "item_prompt",
    "user_prompt",
    "judge_prompt",
    "evidence_tokens",
    "user_items",
    "image_side",
    "most",
    "self_judging",
    "merge",
    "rldi",
)
WHERE_PICTURES_LIE = tuple(  # and how fast they come
    f"catalog.images.{key}" for key in ("root", "archive", "timeout", "in_flight")
)
ENGINES = tuple(f"dig_ray.mining.engines.{name}" for name in ("keyphrase", "openai", "replay", "vllm"))
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
    "price",
    "replicas",
    "tensor_parallel",
    "device",
    "batch_size",
    "max_concurrent_batches",
    "path",
    "actors",
    "num_cpus",
    "num_gpus",
)


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

    operational = [
        f"mining.{field}.{key}" for field in ("caption", "items", "users", "judge") for key in HOW_MINERS_RUN
    ]
    unread = [f"mining.{field}" for field in MINING_FIELDS if field not in (miners, *settings)]
    return StageSpec(
        name=name,
        parts=("mining",),
        inputs=("catalog", *inputs),
        code=(code, *ENGINES),
        run=run,
        seeded=lambda config: seeded,
        ignore=("mining.max_failed", *operational, *unread),
        files=_mining_files(miners),
        wanted=wanted or has_miners,
        possible=has_miners,
        reads=reads,
    )


STAGES: tuple[StageSpec, ...] = (
    StageSpec(
        name="catalog",
        parts=("catalog",),
        inputs=(),
        code=("dig_ray.catalog.stage",),
        run=_catalog,
        seeded=lambda config: config.catalog.source == "demo" and config.catalog.demo.seed is None,
        on_ray=_drops_items,
        ignore=(
            "catalog.items.path",
            "catalog.interactions.path",
            "catalog.download.directory",
            *WHERE_PICTURES_LIE,
        ),
        unread=lambda config: () if _drops_items(config) else ("catalog.images",),
        files=_catalog_files,
    ),
    StageSpec(
        name="pictures",
        parts=("catalog.images",),
        inputs=("catalog",),
        code=("dig_ray.catalog.pictures",),
        run=_pictures,
        seeded=lambda config: False,
        ignore=WHERE_PICTURES_LIE,
        files=_picture_files,
        wanted=lambda config: _captions_read(config, "pictures") or _embeds_pictures(config),
        possible=lambda config: True,
    ),
    _mining_stage(
        "captions",
        _captions,
        "caption",
        ("caption_prompt", "image_side"),
        ("pictures",),
        reads=_captions_read,
    ),
    _mining_stage(
        "item_interests",
        _item_interests,
        "items",
        ("item_prompt", "evidence_tokens", "most", "merge"),
        ("captions",),
        wanted=_items_are_mined,
    ),
    _mining_stage(
        "judgements",
        _judgements,
        "judge",
        ("judge_prompt", "evidence_tokens", "rldi"),
        ("captions", "item_interests"),
        code="dig_ray.mining.judging",
        seeded=True,
    ),
    _mining_stage(
        "user_interests",
        _user_interests,
        "users",
        ("user_prompt", "evidence_tokens", "user_items", "most", "merge"),
        ("item_interests",),
    ),
    StageSpec(
        name="embedding",
        parts=("embedding",),
        inputs=("catalog", "captions", "item_interests", "judgements"),
        code=("dig_ray.embedding.stage",),
        run=_embedding,
        seeded=lambda config: False,
        ignore=(
            "embedding.path",
            "embedding.num_actors",
            "embedding.num_cpus",
            "embedding.num_gpus",
            "embedding.rows_per_part",
        ),
        files=_brought_along("embedding"),
        wanted=lambda config: config.semantic_ids.method != "file",
        reads=_embedding_reads,
    ),
    StageSpec(
        name="image_embedding",
        parts=("image_embedding",),
        inputs=("catalog", "pictures"),
        code=("dig_ray.embedding.image_stage",),
        run=_image_embedding,
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
        files=_image_files,
        wanted=_is_fused,
        possible=lambda config: True,
        reads=lambda config, name: name == "catalog" or config.image_embedding.path is None,
    ),
    StageSpec(
        name="fusion",
        parts=("fusion",),
        inputs=("catalog", "embedding", "image_embedding"),
        code=("dig_ray.embedding.fusion_stage",),
        run=_fusion,
        seeded=lambda config: config.fusion.target == "cooccurrence",
        on_ray=False,
        wanted=_is_fused,
    ),
    StageSpec(
        name="semantic_ids",
        parts=("semantic_ids",),
        inputs=("catalog", "embedding", "fusion"),
        code=("dig_ray.semantic_ids.stage",),
        run=_semantic_ids,
        reads=_semantic_ids_read,
        on_ray=False,
        ignore=("semantic_ids.path", "semantic_ids.rqvae.checkpoint_seconds"),
        files=lambda config: {"sids": config.semantic_ids.path} if config.semantic_ids.path else {},
    ),
    StageSpec(
        name="baselines",
        parts=("baselines",),
        inputs=("catalog",),
        code=("dig_ray.baselines.stage",),
        run=_baselines,
        uses_interactions=True,
        wanted=lambda config: bool(config.baselines.run),
    ),
    StageSpec(
        name="sft",
        parts=("sft", "recommender"),
        inputs=("catalog", "item_interests", "user_interests", "semantic_ids"),
        code=("dig_ray.training.stage",),
        run=_sft,
        uses_interactions=True,
        reads=_sft_reads,
        ignore=("sft.cpus_per_worker", "sft.max_failures", "sft.hang_seconds"),
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
        run=_grpo,
        uses_interactions=True,
        wanted=_has_grpo,
        reads=_grpo_reads,
        ignore=("grpo.cpus_per_worker", "grpo.max_failures", "grpo.hang_seconds"),
        unread=lambda config: () if _compares_interests(config) else ("embedding.model",),
    ),
    StageSpec(
        name="recommend",
        parts=("evaluation",),
        inputs=("catalog", "semantic_ids", "sft", "grpo"),
        reads=_recommend_reads,
        code=("dig_ray.evaluation.decode_stage",),
        run=_recommend,
        uses_interactions=True,
        seeded=lambda config: False,
        ignore=(
            "evaluation.n_bootstrap",
            "evaluation.seed",
            *DECODING_RESOURCES,
        ),
    ),
    StageSpec(
        name="recommend_sft",
        parts=("evaluation",),
        inputs=("catalog", "semantic_ids", "sft"),
        code=("dig_ray.evaluation.decode_stage",),
        run=_recommend_sft,
        uses_interactions=True,
        wanted=_has_grpo,
        seeded=lambda config: False,
        ignore=(
            "evaluation.n_bootstrap",
            "evaluation.seed",
            *DECODING_RESOURCES,
        ),
    ),
    StageSpec(
        name="evaluation",
        parts=("evaluation",),
        inputs=("catalog", "recommend", "recommend_sft", "baselines"),
        code=("dig_ray.evaluation.stage",),
        run=_evaluation,
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
            "semantic_ids",
            "baselines",
            "sft",
            "grpo",
            "recommend",
            "recommend_sft",
            "evaluation",
        ),
        code=("dig_ray.report.stage",),
        run=_report,
        uses_interactions=True,
        on_ray=False,
        files=_report_files,  # its looks are no Python, so the code's hash misses them
    ),
)
