"""Mining's stages: captions, interests of items and users, and a judge's labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dig_ray.mining.config import input_files
from dig_ray.stage_spec import Names, StageSpec, always, never, when


def engines(field: str) -> Callable[[Any], Names]:
    """Where the code of the engines starts that the miners of one field of ``mining`` ask: another engine's edit asks nobody again."""
    return lambda config: tuple(dict.fromkeys(type(one).__module__ for one in config.mining.miners(field)))


def mined(
    name: str,
    run: str,
    field: str,
    settings: Names,
    needs: Names | Callable[[Any], Names],
    seeded: Callable[[Any], bool] = never,
) -> StageSpec:
    """A stage that asks the miners of one field of ``mining``.

    Args:
        name: the stage's name.
        run: ``module:function`` of what runs it, called with (config, stage, inputs).
        field: the field of ``mining`` that names the miners; it counts, and the stage is asked for where it names some.
        settings: further fields of ``mining`` that count.
        needs: stages that have to run before it, whose artifacts it reads; a function takes the run's config.
        seeded: whether the run's seed changes its result.
    """
    return StageSpec(
        name=name,
        run=run,
        settings=tuple(f"mining.{key}" for key in (field, *settings)),
        needs=needs,
        asked=lambda config: bool(getattr(config.mining, field)),
        possible=lambda config: bool(config.mining.miners(field)),
        seeded=seeded,
        files=lambda config: input_files(config.mining, field),
        code=engines(field),
    )


def _caption_needs(config: Any) -> Names:
    caption = config.mining.caption  # a recorded caption needs no picture of ours
    return ("catalog", *when(pictures=caption is not None and caption.recorded is None))


def _with_captions(*names: str) -> Callable[[Any], Names]:
    return lambda config: (*names, *when(captions=config.mining.caption is not None))


STAGES = (
    mined(
        "captions",
        "dig_ray.mining.stage:captions",
        "caption",
        ("caption_prompt", "image_side", "copies"),
        _caption_needs,
    ),
    mined(
        "item_interests",
        "dig_ray.mining.stage:item_interests",
        "items",
        ("item_prompt", "evidence_tokens", "most", "copies", "merge"),
        _with_captions("catalog"),
    ),
    mined(
        "judgements",
        "dig_ray.mining.judging:judgements",
        "judge",
        ("judge_prompt", "evidence_tokens", "rldi"),
        _with_captions("catalog", "item_interests"),
        seeded=always,
    ),
    mined(
        "user_interests",
        "dig_ray.mining.stage:user_interests",
        "users",
        ("user_prompt", "evidence_tokens", "user_items", "user_hold_out", "most", "copies", "merge"),
        ("catalog", "item_interests"),
    ),
)
