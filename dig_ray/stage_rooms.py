"""What each stage calls in its room, when it is wanted and what it reads; rooms are imported when their stage runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dig_ray.base import Inputs, Stage

CROWD = ("budget", "neighbours", "users_per_item", "choose", "max_items")
"""Settings that decide who the synthesized users are."""


def catalog(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.catalog.stage import run

    run(config.catalog, stage)


def catalog_files(config: Any) -> Mapping[str, str]:
    from dig_ray.catalog.config import input_files

    return input_files(config.catalog)


def pictures(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.catalog.pictures import run

    run(config.catalog, stage, inputs["catalog"])


def picture_files(config: Any) -> Mapping[str, str]:
    from dig_ray.catalog.config import picture_files

    return picture_files(config.catalog)


def drops_items(config: Any) -> bool:
    """Whether items without a picture leave the catalogue, which then has to open them."""
    return config.catalog.images.missing == "drop"


def captions_read(config: Any, name: str) -> bool:
    """A recorded caption needs no picture of ours."""
    caption = config.mining.caption
    return name != "pictures" or (caption is not None and caption.engine != "replay")


def captions(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.mining.stage import run_captions

    run_captions(config.mining, stage, inputs["catalog"], inputs.get("pictures"))


def item_interests(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.mining.stage import run_items

    run_items(config.mining, stage, inputs["catalog"], inputs.get("captions"))


def judgements(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.mining.judging import run

    run(config.mining, stage, inputs["catalog"], inputs["item_interests"], inputs.get("captions"))


def user_interests(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.mining.stage import run_users

    run_users(config.mining, stage, inputs["catalog"], inputs.get("item_interests"))


def mining_files(miners: str) -> Callable[[Any], Mapping[str, str | Path]]:
    def files(config: Any) -> Mapping[str, str | Path]:
        from dig_ray.mining.config import input_files

        return input_files(config.mining, miners)

    return files


def embedding(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.embedding.stage import run

    run(
        config.embedding,
        stage,
        inputs["catalog"],
        inputs.get("captions"),
        inputs.get("item_interests"),
        inputs.get("judgements"),
    )


def image_embedding(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.embedding.image_stage import run

    run(config.image_embedding, stage, inputs["catalog"], inputs.get("pictures"))


def fusion(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.embedding.fusion_stage import run

    run(config.fusion, stage, inputs["catalog"], inputs["embedding"], inputs["image_embedding"])


def items_are_mined(config: Any) -> bool:
    """Where miners are named, or something reads what the default one finds."""
    mining = config.mining
    return bool(mining.items) or (
        mining.items is None
        and (
            "interests" in config.embedding.fields
            or bool(mining.users)
            or mining.judge is not None
            or sft_reads(config, "item_interests")
            or compares_interests(config)
        )
    )


def embedding_reads(config: Any, name: str) -> bool:
    if name == "catalog":
        return True
    wanted = {
        "captions": "caption" in config.embedding.fields,
        "item_interests": "interests" in config.embedding.fields,
        "judgements": config.embedding.curated,
    }
    return config.embedding.path is None and wanted[name]


def brought_along(part: str) -> Callable[[Any], Mapping[str, str | Path]]:
    def files(config: Any) -> Mapping[str, str | Path]:
        path = getattr(config, part).path
        return {} if path is None else {"vectors": path}

    return files


def image_files(config: Any) -> Mapping[str, str | Path]:
    found = dict(brought_along("image_embedding")(config))
    if Path(config.image_embedding.pretrained).is_file():
        found["weights"] = config.image_embedding.pretrained
    return found


def embeds_items(config: Any) -> bool:
    """Whether vectors of items are read: by a quantizer, or to group users' items without an LLM."""
    quantized = config.semantic_ids.method != "file" and config.semantic_ids.vectors == "items"
    return quantized or (
        (clusters_users(config) or clusters_crowd(config)) and config.mining.clusters is None
    )


def is_fused(config: Any) -> bool:
    return config.fusion is not None and config.semantic_ids.method != "file"


def embeds_pictures(config: Any) -> bool:
    """Whether vectors of pictures are made rather than brought along."""
    return is_fused(config) and config.image_embedding.path is None


def has_multi_interest(config: Any) -> bool:
    return config.multi_interest is not None


def clusters_users(config: Any) -> bool:
    return has_multi_interest(config) and config.multi_interest.clusters_users


def clusters_crowd(config: Any) -> bool:
    return has_multi_interest(config) and config.multi_interest.clusters_crowd


def clusters_read(config: Any, name: str) -> bool:
    """An LLM reads what is said of items, and without one their vectors are grouped."""
    if name == "embedding":
        return config.mining.clusters is None
    if name == "item_interests":
        return config.mining.clusters is not None and bool(config.mining.items)
    return True


def clusters_unread(config: Any) -> tuple[str, ...]:
    if config.mining.clusters is not None:
        return ("multi_interest.vector_clusters",)
    return ("mining.cluster_prompt", "mining.evidence_tokens")


def cluster_files(config: Any) -> Mapping[str, str | Path]:
    return {} if config.mining.clusters is None else mining_files("clusters")(config)


def user_clusters(config: Any, stage: Stage, inputs: Inputs) -> None:
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


def crowd(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.multi_interest.cluster_stage import run_crowd

    run_crowd(config.multi_interest.crowd, stage, inputs["catalog"])


def crowd_clusters(config: Any, stage: Stage, inputs: Inputs) -> None:
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


def multi_interest(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.multi_interest.stage import run

    run(
        config.multi_interest,
        stage,
        inputs["catalog"],
        inputs.get("user_clusters"),
        inputs.get("crowd_clusters"),
    )


def multi_interest_unread(config: Any) -> tuple[str, ...]:
    """The settings of parts that a model does without, and those that an input stands for."""
    model = config.multi_interest
    unread = ["vector_clusters", *(f"crowd.{name}" for name in CROWD)]
    unread += [] if model.clusters_users else ["alignment"]
    unread += [] if model.clusters_crowd else ["crowd"]
    unread += ["hidden"] if model.routing == "capsules" else ["rounds", "agreement"]
    unread += ["negatives_power"] if model.negatives is None else ["precision"]
    return tuple(f"multi_interest.{name}" for name in unread)


def semantic_ids(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.semantic_ids.stage import run

    made = inputs.get("multi_interest", inputs.get("fusion", inputs.get("embedding")))
    run(config.semantic_ids, stage, made and made / "embeddings.parquet", inputs["catalog"])


def semantic_ids_read(config: Any, name: str) -> bool:
    by_models = config.semantic_ids.method != "file" and config.semantic_ids.vectors == "multi_interest"
    return {
        "embedding": config.fusion is None and not by_models,
        "multi_interest": by_models,
    }.get(name, True)


def semantic_ids_unread(config: Any) -> tuple[str, ...]:
    """The settings of quantizers that are not used."""
    used = {"residual_kmeans": "kmeans", "rqvae": "rqvae"}.get(config.semantic_ids.method)
    return tuple(f"semantic_ids.{name}" for name in ("kmeans", "rqvae") if name != used)


def baselines(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.baselines.stage import run

    run(config.baselines, stage, inputs["catalog"])


def sft(config: Any, stage: Stage, inputs: Inputs) -> None:
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


def sft_reads(config: Any, name: str) -> bool:
    if name in ("user_interests", "multi_interest"):
        mined = config.recommender.user_interests == "mined"
        return config.recommender.reads("user_interests") is not None and mined == (name == "user_interests")
    return name in ("catalog", "semantic_ids") or config.recommender.reads(name) is not None


def grpo(config: Any, stage: Stage, inputs: Inputs) -> None:
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


def grpo_reads(config: Any, name: str) -> bool:
    if name == "judgements":
        quality = config.grpo is not None and config.grpo.reads_quality
        return quality or (compares_interests(config) and config.mining.judge is not None)
    return name in ("catalog", "semantic_ids", "sft") or compares_interests(config)


def has_grpo(config: Any) -> bool:
    return config.grpo is not None


def compares_interests(config: Any) -> bool:
    return config.grpo is not None and config.grpo.compares_interests


def recommend(trained_by: tuple[str, ...], name: str) -> Callable[[Any, Stage, Inputs], None]:
    """Decode with the policy of the first of these stages that is there, under that name in the tables."""

    def begin(config: Any, stage: Stage, inputs: Inputs) -> None:
        from dig_ray.evaluation.decode_stage import run

        policy = next(inputs[one] for one in trained_by if one in inputs) / "policy"
        trusted = config.recommender.trust_remote_code
        run(config.evaluation, stage, inputs["catalog"], inputs["semantic_ids"], policy, name, trusted)

    return begin


def recommend_reads(config: Any, name: str) -> bool:
    """The last policy that was trained is the one that recommends."""
    return name not in ("sft", "grpo") or (name == "grpo") == has_grpo(config)


def evaluation(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.evaluation.stage import run

    made_by = ("recommend", "recommend_sft", "multi_interest", "baselines")
    lists = [inputs[name] for name in made_by if name in inputs]
    run(config.evaluation, stage, inputs["catalog"], lists)


def report(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.report.stage import run

    run(config, stage, inputs)


def report_files(config: Any) -> Mapping[str, Path]:
    from dig_ray.report.page import template_files

    return {path.name: path for path in template_files()}
