"""What a run of any size takes, stage by stage, on paper: bytes, FLOPs, GPU-hours, core-hours and money, from unit costs.

Unit costs of cores and bytes were measured (docs/SCALE.md says by which bench); what a GPU gives and what it costs are assumptions, and are
settings. FLOPs of a model are 2 x parameters x tokens, 6 x in training; time is FLOPs over (peak x utilisation).
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from dig_ray.base import Config
from dig_ray.errors import UserError


class ScaleConfig(Config):
    """What is computed for whom, with which models, at which prices.

    Attributes:
        items, users: how many items the catalogue has, and how many users have a history and get lists.
        events_per_user: mean length of a history, in events.
        captioned: share of items, from 0 to 1, whose picture a VLM describes.
        caption_parameters, caption_tokens_in, caption_tokens_out: parameters of the VLM, and tokens per picture; a picture itself is
            counted in the tokens that go in.
        mining_parameters, mining_tokens_in, mining_tokens_out: parameters of one miner's LLM, and its tokens per item.
        miners: how many miners answer for each item.
        text_parameters, text_tokens, dimensions: parameters of the text encoder, tokens per item, and width of its vectors.
        levels, codebook: levels of the Semantic IDs, and codes at each level.
        policy_parameters, epochs: parameters of the policy, and epochs of its training.
        latest: how many of a history's latest items the policy reads.
        beam: width of the beam in decoding.
        gpu_flops, utilisation: peak of a GPU in FLOP/s, and the share of it that is reached.
        gpu_hour, core_hour: price of an hour of a GPU and of a core, in US dollars.
        catalog_us_per_event, catalog_us_per_item: CPU microseconds on one core that the catalogue takes.
        sid_us_per_item, trie_us_per_item: CPU microseconds on one core for the Semantic IDs, at 64 dimensions, and for the prefix table.
        ray_us_per_text, ray_us_per_answer, ray_us_per_user: CPU microseconds that Ray Data adds, per row of embedding, mining, decoding.
        item_bytes, event_bytes: bytes of the catalogue's artifact for an item without what is mined, and for an event.
        answer_bytes: bytes of a mined answer as it is kept.
        trie_bytes_per_item: bytes of the prefix table in memory.
    """

    items: float = Field(1e6, ge=1)
    users: float = Field(1e6, ge=0)
    events_per_user: float = Field(10, gt=0)
    captioned: float = Field(1.0, ge=0, le=1)
    caption_parameters: float = Field(7e9, gt=0)
    caption_tokens_in: float = Field(700, ge=0)
    caption_tokens_out: float = Field(100, ge=0)
    mining_parameters: float = Field(7e9, gt=0)
    mining_tokens_in: float = Field(500, ge=0)
    mining_tokens_out: float = Field(150, ge=0)
    miners: int = Field(1, ge=0)
    text_parameters: float = Field(22e6, gt=0)
    text_tokens: float = Field(128, gt=0)
    dimensions: int = Field(384, ge=1)
    levels: int = Field(4, ge=1)
    codebook: int = Field(256, ge=2)
    policy_parameters: float = Field(100e6, gt=0)
    epochs: float = Field(3, ge=0)
    latest: int = Field(20, ge=1)
    beam: int = Field(20, ge=1)
    gpu_flops: float = Field(989e12, gt=0)
    utilisation: float = Field(0.4, gt=0, le=1)
    gpu_hour: float = Field(2.5, ge=0)
    core_hour: float = Field(0.04, ge=0)
    catalog_us_per_event: float = Field(2.0, ge=0)
    catalog_us_per_item: float = Field(7.2, ge=0)
    sid_us_per_item: float = Field(33.0, ge=0)
    trie_us_per_item: float = Field(0.85, ge=0)
    ray_us_per_text: float = Field(26.0, ge=0)
    ray_us_per_answer: float = Field(500.0, ge=0)
    ray_us_per_user: float = Field(72.0, ge=0)
    item_bytes: float = Field(300, ge=0)
    event_bytes: float = Field(16, ge=0)
    answer_bytes: float = Field(600, ge=0)
    trie_bytes_per_item: float = Field(24, ge=0)


class StageCost(Config):
    """What one stage of a run takes: bytes in and out of the store, FLOPs, hours, and the US dollars of GPUs and cores together."""

    bytes_in: float
    bytes_out: float
    flops: float
    gpu_hours: float
    core_hours: float
    money: float


def costs(config: ScaleConfig) -> dict[str, StageCost]:
    """What each stage takes, by its name, in the order of a run."""
    c = config
    events = c.users * c.events_per_user
    sid_tokens = c.levels + 1  # a suffix or what stands for none
    catalogue = c.items * c.item_bytes
    captions = c.items * c.captioned
    answers = c.items * c.miners
    vectors = 4.0 * c.dimensions * c.items
    history = min(c.events_per_user, c.latest)

    def stage(bytes_in: float, bytes_out: float, flops: float, core_us: float, on_gpu: bool) -> StageCost:
        gpu = flops / (c.gpu_flops * c.utilisation) / 3600 if on_gpu else 0.0
        cores = core_us / 1e6 / 3600
        return StageCost(
            bytes_in=bytes_in,
            bytes_out=bytes_out,
            flops=flops,
            gpu_hours=gpu,
            core_hours=cores,
            money=gpu * c.gpu_hour + cores * c.core_hour,
        )

    def read(parameters: float, tokens: float) -> float:
        return 2.0 * parameters * tokens

    caption = read(c.caption_parameters, c.caption_tokens_in + c.caption_tokens_out)
    mined = read(c.mining_parameters, c.mining_tokens_in + c.mining_tokens_out)
    decoded = read(c.policy_parameters, history * sid_tokens + c.beam * c.levels)
    log = events * c.event_bytes
    return {
        "catalog": stage(
            log + catalogue,
            log + catalogue,
            0.0,
            events * c.catalog_us_per_event + c.items * c.catalog_us_per_item,
            False,
        ),
        "caption": stage(
            captions * 20_000,
            captions * c.answer_bytes,
            captions * caption,
            captions * c.ray_us_per_answer,
            True,
        ),
        "mining": stage(
            catalogue * c.miners,
            answers * c.answer_bytes,
            answers * mined,
            answers * c.ray_us_per_answer,
            True,
        ),
        "embedding": stage(
            catalogue + answers * c.answer_bytes,
            vectors,
            c.items * read(c.text_parameters, c.text_tokens),
            c.items * c.ray_us_per_text,
            True,
        ),
        "semantic_ids": stage(
            vectors,
            c.items * (4.0 * c.levels + 12),
            2.0 * c.items * c.dimensions * c.levels * c.codebook,
            c.items * c.sid_us_per_item * c.dimensions / 64,
            False,
        ),
        "prefix_table": stage(
            c.items * (4.0 * c.levels + 12),
            c.items * c.trie_bytes_per_item,
            0.0,
            c.items * c.trie_us_per_item,
            False,
        ),
        "sft": stage(
            log,
            4.0 * c.policy_parameters,
            3 * read(c.policy_parameters, events * sid_tokens * c.epochs),
            0.0,
            True,
        ),
        "decoding": stage(log, c.users * c.beam * 12.0, c.users * decoded, c.users * c.ray_us_per_user, True),
    }


def parse(arguments: list[str]) -> ScaleConfig:
    """``items=1e6 gpu_hour=2.5`` as a config.

    Raises:
        UserError: no ``key=value``, a key that does not exist, or a value out of range.
    """
    values: dict[str, str | int] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or key not in ScaleConfig.model_fields:
            raise UserError(f"{argument}: give key=value with a key of {', '.join(ScaleConfig.model_fields)}")
        values[key] = value
    try:
        whole = {key for key, field in ScaleConfig.model_fields.items() if field.annotation is int}
        return ScaleConfig.model_validate({k: int(float(v)) if k in whole else v for k, v in values.items()})
    except ValueError as error:
        reason = str(error).splitlines()
        raise UserError(
            f"{' '.join(arguments)}: {' '.join(line.strip() for line in reason[1:3]) or reason[0]}"
        ) from None


def table(found: Mapping[str, StageCost]) -> list[str]:
    """Lines for the terminal: a head, one row for each stage of :func:`costs`, and their sum."""
    head = ("stage", "in", "out", "FLOPs", "GPU-hours", "core-hours", "US$")
    lines = ["{:<13} {:>9} {:>9} {:>9} {:>11} {:>11} {:>12}".format(*head)]
    for name, one in found.items():
        lines.append(
            f"{name:<13} {_bytes(one.bytes_in):>9} {_bytes(one.bytes_out):>9} {one.flops:>9.1e} {one.gpu_hours:>11,.2f} "
            f"{one.core_hours:>11,.2f} {one.money:>12,.2f}"
        )
    total = [
        sum(getattr(one, key) for one in found.values())
        for key in ("flops", "gpu_hours", "core_hours", "money")
    ]
    lines.append(f"{'all':<33} {total[0]:>9.1e} {total[1]:>11,.2f} {total[2]:>11,.2f} {total[3]:>12,.2f}")
    return lines


def _bytes(value: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} PB"
