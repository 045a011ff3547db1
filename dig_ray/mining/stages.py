"""Mining's stages: captions, interests of items and users, and a judge's labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dig_ray.base import Inputs, Stage
from dig_ray.mining.config import MEMORY_AND_SPEED, input_files
from dig_ray.stage_spec import Names, StageSpec, always, never, when

ENGINES = tuple(
    f"dig_ray.mining.engines.{name}" for name in ("keyphrase", "openai", "replay", "similarity", "vllm")
)
"""Modules that are imported by an engine's name."""
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
OPERATIONAL = tuple(
    f"mining.{field}.{key}"
    for field in ("caption", "items", "users", "judge", "clusters")
    for key in HOW_MINERS_RUN
)


def run_captions(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.mining.stage import run_captions

    run_captions(config.mining, stage, inputs["catalog"], inputs.get("pictures"))


def run_items(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.mining.stage import run_items

    run_items(config.mining, stage, inputs["catalog"], inputs.get("captions"))


def run_judgements(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.mining.judging import run

    run(config.mining, stage, inputs["catalog"], inputs["item_interests"], inputs.get("captions"))


def run_users(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.mining.stage import run_users

    run_users(config.mining, stage, inputs["catalog"], inputs.get("item_interests"))


def mined(
    name: str,
    run: Callable[[Any, Stage, Inputs], None],
    miners: str,
    settings: Names,
    needs: Names | Callable[[Any], Names],
    code: str = "dig_ray.mining.stage",
    seeded: Callable[[Any], bool] = never,
) -> StageSpec:
    """A stage that asks the miners of one field of ``mining``, and whose result that field and ``settings`` of mining decide."""

    def has_miners(config: Any) -> bool:
        return bool(config.mining.item_miners if miners == "items" else getattr(config.mining, miners))

    def files(config: Any) -> Mapping[str, str | Path]:
        return input_files(config.mining, miners)

    return StageSpec(
        name=name,
        run=run,
        settings=tuple(f"mining.{key}" for key in (miners, *settings)),
        needs=needs,
        asked=lambda config: bool(getattr(config.mining, miners)),
        possible=has_miners,
        seeded=seeded,
        files=files,
        code=(code, *ENGINES),
        ignore=OPERATIONAL,
    )


def _caption_needs(config: Any) -> Names:
    caption = config.mining.caption  # a recorded caption needs no picture of ours
    return ("catalog", *when(pictures=caption is not None and caption.engine != "replay"))


def _with_captions(*names: str) -> Callable[[Any], Names]:
    return lambda config: (*names, *when(captions=config.mining.caption is not None))


STAGES = (
    mined("captions", run_captions, "caption", ("caption_prompt", "image_side", "copies"), _caption_needs),
    mined(
        "item_interests",
        run_items,
        "items",
        ("item_prompt", "evidence_tokens", "most", "copies", "merge"),
        _with_captions("catalog"),
    ),
    mined(
        "judgements",
        run_judgements,
        "judge",
        ("judge_prompt", "evidence_tokens", "rldi"),
        _with_captions("catalog", "item_interests"),
        code="dig_ray.mining.judging",
        seeded=always,
    ),
    mined(
        "user_interests",
        run_users,
        "users",
        ("user_prompt", "evidence_tokens", "user_items", "user_hold_out", "most", "copies", "merge"),
        ("catalog", "item_interests"),
    ),
)
