"""The embedding's stages: vectors of texts, of pictures, and of both together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dig_ray.base import Inputs, Stage
from dig_ray.stage_spec import Names, StageSpec, always, never, when


def run_embedding(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.embedding.stage import run

    run(
        config.embedding,
        stage,
        inputs["catalog"],
        inputs.get("captions"),
        inputs.get("item_interests"),
        inputs.get("judgements"),
    )


def run_images(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.embedding.image_stage import run

    run(config.image_embedding, stage, inputs["catalog"], inputs.get("pictures"))


def run_fusion(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.embedding.fusion_stage import run

    run(config.fusion, stage, inputs["catalog"], inputs["embedding"], inputs["image_embedding"])


def _brought(part: Any) -> Mapping[str, str | Path]:
    return {} if part.path is None else {"vectors": part.path}


def _image_files(config: Any) -> Mapping[str, str | Path]:
    weights = config.image_embedding.pretrained
    return {**_brought(config.image_embedding), **({"weights": weights} if Path(weights).is_file() else {})}


def _evidence(config: Any) -> Names:
    """What texts are made of; vectors that are brought along are made of nothing of ours."""
    text = config.embedding
    if text.path is not None:
        return ("catalog",)
    mined = when(
        captions="caption" in text.fields, item_interests="interests" in text.fields, judgements=text.curated
    )
    return ("catalog", *mined)


STAGES = (
    StageSpec(
        name="embedding",
        run=run_embedding,
        settings=("embedding",),
        needs=_evidence,
        seeded=never,
        files=lambda config: _brought(config.embedding),
        code=("dig_ray.embedding.stage",),
        ignore=tuple(
            f"embedding.{key}" for key in ("path", "num_actors", "num_cpus", "num_gpus", "rows_per_part")
        ),
    ),
    StageSpec(
        name="image_embedding",
        run=run_images,
        settings=("image_embedding",),
        needs=lambda config: ("catalog", *when(pictures=config.image_embedding.path is None)),
        possible=always,
        seeded=never,
        files=_image_files,
        code=("dig_ray.embedding.image_stage",),
        ignore=tuple(
            f"image_embedding.{key}"
            for key in (
                "path",
                "cache_dir",
                "num_actors",
                "num_cpus",
                "num_gpus",
                "decode_cpus",
                "batch_size",
            )
        ),
    ),
    StageSpec(
        name="fusion",
        run=run_fusion,
        settings=("fusion",),
        needs=("catalog", "embedding", "image_embedding"),
        seeded=lambda config: config.fusion.target == "cooccurrence",
        on_ray=never,
        code=("dig_ray.embedding.fusion_stage",),
    ),
)
