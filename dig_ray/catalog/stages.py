"""The catalogue's stages: the tables themselves, and the pictures of its items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dig_ray.base import Inputs, Stage
from dig_ray.stage_spec import StageSpec, always, never, when

WHERE_PICTURES_LIE = tuple(  # and how fast they come
    f"catalog.images.{key}" for key in ("root", "archive", "timeout", "in_flight")
)


def drops_items(config: Any) -> bool:
    """Whether items without a picture leave the catalogue, which then has to open them."""
    return config.catalog.images.missing == "drop"


def run_catalog(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.catalog.stage import run

    run(config.catalog, stage)


def run_pictures(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.catalog.pictures import run

    run(config.catalog, stage, inputs["catalog"])


def _files(config: Any) -> Mapping[str, str]:
    from dig_ray.catalog.config import input_files

    return input_files(config.catalog)


def _picture_files(config: Any) -> Mapping[str, str]:
    from dig_ray.catalog.config import picture_files

    return picture_files(config.catalog)


STAGES = (
    StageSpec(
        name="catalog",
        run=run_catalog,
        settings=lambda config: ("catalog", *when(**{"-catalog.images": not drops_items(config)})),
        asked=always,
        seeded=lambda config: config.catalog.source == "demo" and config.catalog.demo.seed is None,
        on_ray=drops_items,
        files=_files,
        code=("dig_ray.catalog.stage",),
        ignore=(
            "catalog.items.path",
            "catalog.interactions.path",
            "catalog.download.directory",
            *WHERE_PICTURES_LIE,
        ),
    ),
    StageSpec(
        name="pictures",
        run=run_pictures,
        settings=("catalog.images",),
        needs=("catalog",),
        possible=always,
        seeded=never,
        files=_picture_files,
        code=("dig_ray.catalog.pictures",),
        ignore=WHERE_PICTURES_LIE,
    ),
)
