"""Which baselines stand in the results table, and their settings. Item-KNN's defaults were chosen on Beauty's validation;
SASRec's are plain ones, and the settings that Beauty's validation chose for it stand in that config."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dig_ray.base import Config
from dig_ray.numerics.schedule import ScheduleConfig

BaselineName = Literal["popularity", "repeat_last", "item_knn", "sasrec"]


class PopularityConfig(Config):
    """Most frequent training items; ``half_life`` (in events from a user's last training event) favours late ones."""

    half_life: float | None = Field(None, gt=0)


class ItemKnnConfig(Config):
    """Item-to-item co-occurrence within users' sequences; see ``item_knn.py`` for what each setting does."""

    window: int = Field(50, ge=1)
    distance_power: float = Field(0.5, ge=0)
    backward: float = Field(0.25, ge=0, le=1)
    source_power: float = Field(0.25, ge=0, le=1)
    target_power: float = Field(0.12, ge=0, le=1)
    damping: float = Field(5.0, ge=0)
    decay: float = Field(0.5, gt=0, le=1)
    history: int = Field(50, ge=1)
    neighbours: int | None = Field(None, ge=1)


class SASRecConfig(ScheduleConfig):
    """SASRec with the softmax over the whole catalogue; sizes fit two CPU cores."""

    width: int = Field(128, ge=4)
    layers: int = Field(2, ge=1)
    heads: int = Field(2, ge=1)
    hidden: int = Field(256, ge=4)
    dropout: float = Field(0.3, ge=0, lt=1)
    embedding_dropout: float = Field(0.3, ge=0, lt=1)
    max_length: int = Field(50, ge=1)
    original_blocks: bool = False
    temperature: float | None = Field(None, gt=0)
    batch_tokens: int = Field(1024, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    num_cpus: int | None = Field(None, ge=1)


class BaselinesConfig(Config):
    """The baselines that are run, how long their lists are, and their settings."""

    run: tuple[BaselineName, ...] = ("popularity", "repeat_last", "item_knn", "sasrec")
    top_k: int = Field(20, ge=1)
    popularity: PopularityConfig = PopularityConfig()
    item_knn: ItemKnnConfig = ItemKnnConfig()
    sasrec: SASRecConfig = SASRecConfig()
