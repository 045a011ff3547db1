"""The catalogue's stages: the tables themselves, and the pictures of its items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dig_ray.catalog.config import input_files, picture_files
from dig_ray.catalog.readers import READERS
from dig_ray.stage_spec import StageSpec, always, never, when


def drops_items(config: Any) -> bool:
    """Whether items without a picture leave the catalogue, which then has to open them."""
    return bool(config.catalog.images.missing == "drop")


def _files(config: Any) -> Mapping[str, str]:
    return input_files(config.catalog)


def _picture_files(config: Any) -> Mapping[str, str]:
    return picture_files(config.catalog)


STAGES = (
    StageSpec(
        name="catalog",
        run="dig_ray.catalog.stage:run",
        settings=lambda config: ("catalog", *when(**{"-catalog.images": not drops_items(config)})),
        asked=always,
        seeded=lambda config: config.catalog.source == "demo" and config.catalog.demo.seed is None,
        on_ray=drops_items,
        files=_files,
        code=lambda config: (READERS[config.catalog.source].module,),
    ),
    StageSpec(
        name="pictures",
        run="dig_ray.catalog.pictures.picture_stage:run",
        settings=("catalog.images",),
        needs=("catalog",),
        possible=always,
        seeded=never,
        files=_picture_files,
    ),
)
