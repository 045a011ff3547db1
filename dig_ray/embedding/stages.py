"""The embedding's stages: vectors of texts, of pictures, and of both together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dig_ray.stage_spec import Names, StageSpec, always, never, when


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
        run="dig_ray.embedding.stage:run",
        settings=("embedding",),
        needs=_evidence,
        seeded=never,
        files=lambda config: _brought(config.embedding),
    ),
    StageSpec(
        name="image_embedding",
        run="dig_ray.embedding.image_stage:run",
        settings=("image_embedding",),
        needs=lambda config: ("catalog", *when(pictures=config.image_embedding.path is None)),
        possible=always,
        seeded=never,
        files=_image_files,
    ),
    StageSpec(
        name="fusion",
        run="dig_ray.embedding.fusion_stage:run",
        settings=("fusion",),
        needs=("catalog", "embedding", "image_embedding"),
        seeded=lambda config: config.fusion.target == "cooccurrence",
        on_ray=never,
    ),
)
