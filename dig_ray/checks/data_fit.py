"""What settings cannot, or hardly, go with the data: known right after the catalogue, from the figures in its manifest alone.

Faults would stop a later stage after minutes or hours, and are raised together; warnings are about what works and is hardly meant, such
as a warm-up that training never leaves. Steps of SFT are an estimate ("about"): Semantic IDs that two items share are a token longer.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from dig_ray.numerics.schedule import warm_up_line

LEARNERS = ("sft", "grpo", "multi_interest")
DECODERS = ("recommend", "recommend_sft", "multi_interest", "baselines", "evaluation")
TEXTLESS = {"title", "brand", "categories", "description"}
"""Fields of an embedding that only the items file gives."""
WORDS_OF_TEXT = 16
"""Tokens of a title or an interest text, about."""


@dataclass
class Fit:
    """What was found.

    Attributes:
        faults: sentences about what cannot work.
        warnings: sentences about what is hardly meant.
    """

    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def look(config: Any, stats: Mapping[str, Any], todo: Collection[str]) -> Fit:
    """Everything about these settings that does not go with a catalogue.

    Args:
        config: the run's config.
        stats: the figures in the catalogue's manifest.
        todo: names of the stages that are not published yet.
    """
    fit = Fit()
    _splits(stats, todo, fit)
    if "embedding" in todo:
        _texts(config, stats, fit)
    if "semantic_ids" in todo and config.semantic_ids.method != "file":
        _codebooks(config.semantic_ids, stats["items"], fit)
    if stats["interactions"] and set(DECODERS) & set(todo):
        _lists(config, stats, todo, fit)
    if stats["train_events"]:
        if "sft" in todo:
            _sft(config, stats, fit)
        if "grpo" in todo and config.grpo is not None:
            _grpo(config, stats, fit)
        _schedules(config, stats, todo, fit)
    return fit


def _splits(stats: Mapping[str, Any], todo: Collection[str], fit: Fit) -> None:
    learners = [name for name in (*LEARNERS, "user_interests") if name in todo]
    if learners and not stats["train_events"]:
        fit.faults.append(
            f"the training split has no interaction for {learners[0]} to learn from; check catalog.split and the catalogue's filters"
        )
    for name, stages, use in (
        ("valid", LEARNERS, "nothing can pick the best model"),
        ("test", DECODERS, "nothing can be evaluated"),
    ):
        if not stats[f"{name}_cases"] and set(stages) & set(todo):
            alone = stats[f"{name}_events_without_history"]
            without = f" (its {alone:,} interactions have no history before them)" if alone else ""
            fit.faults.append(
                f"the {'validation' if name == 'valid' else name} split has no case{without}, so {use}; check catalog.split, "
                "catalog.ratios and catalog.min_user_events"
            )


def _texts(config: Any, stats: Mapping[str, Any], fit: Fit) -> None:
    if config.embedding.path is not None or not set(config.embedding.fields) <= TEXTLESS:
        return
    if stats["items_without_text"] < stats["items"]:
        return
    sentence = (
        f"none of {stats['items']:,} items has any text, so all vectors of the embedding are equal; name the columns that hold it in "
        "catalog.items.columns, or bring vectors along (embedding.path)"
    )
    other = config.semantic_ids.collaborative.weight > 0 or config.fusion is not None
    (fit.warnings if other else fit.faults).append(sentence)


def _codebooks(settings: Any, items: int, fit: Fit) -> None:
    sizes = settings.sizes
    largest = max(sizes)
    if largest > items:
        fit.faults.append(
            f"semantic_ids.codebook_size asks for {largest:,} codes at level {sizes.index(largest) + 1}, and the catalogue has {items:,} "
            f"items to find them in; set semantic_ids.codebook_size to at most {items:,}"
        )
    elif math.prod(sizes) < items:
        fit.warnings.append(
            f"semantic_ids.codebook_size and levels make {math.prod(sizes):,} combinations of codes for {items:,} items, so at least "
            f"{items - math.prod(sizes):,} share theirs and are told apart by the collision suffix alone; raise one of them"
        )


def _lists(config: Any, stats: Mapping[str, Any], todo: Collection[str], fit: Fit) -> None:
    items, longest = stats["items"], max(config.evaluation.ks)
    left = items - stats.get("case_items_max", 0)
    counted = "lists that are cut short are scored with what they hold and counted (short_lists)"
    if items < longest:
        fit.warnings.append(
            f"evaluation.ks goes up to {longest}, and the catalogue has {items:,} items; {counted}, set evaluation.ks to cut-offs below "
            f"{items + 1} for full ones"
        )
    elif left < longest:
        fit.warnings.append(
            f"evaluation.ks goes up to {longest}, and to the user with the longest history {left:,} of {items:,} items are left when seen "
            f"ones are left out; {counted}, set evaluation.ks to cut-offs up to {max(left, 1)} for full ones"
        )
    if {"recommend", "recommend_sft"} & set(todo) and config.evaluation.beam > items:
        fit.warnings.append(
            f"evaluation.beam={config.evaluation.beam} is wider than the catalogue of {items:,} items; {items:,} beams find them all"
        )


def kept_lengths(stats: Mapping[str, Any], hold_out: int) -> list[tuple[int, int]]:
    """(training events that SFT sees, users) from the histogram ``train_lengths``; the first two events of a user always stay."""
    lengths = enumerate(stats["train_lengths"])
    return [(max(min(n, 2), n - hold_out), users) for n, users in lengths if n and users]


def sft_rows(config: Any, stats: Mapping[str, Any]) -> int:
    """Packed rows of an epoch of SFT, about."""
    levels, most = config.semantic_ids.levels, config.recommender.max_history
    half = max(1, most // 2)
    tokens = 0.0
    for task, weight in config.recommender.tasks.items():
        if weight <= 0:
            continue
        if task == "next_sid":
            for n, users in kept_lengths(stats, config.sft.hold_out):
                windows = 1 + max(0, math.ceil((n - most) / half))
                read = n if windows == 1 else n + (windows - 1) * (most - half)
                tokens += weight * users * (windows + read * levels)
        else:
            documents = (
                stats["users"] if task.startswith("user") else stats["items"] - stats["items_without_text"]
            )
            tokens += weight * documents * (levels + 2 + WORDS_OF_TEXT)
    return max(1, math.ceil(tokens / config.sft.row_length))


def _sft(config: Any, stats: Mapping[str, Any], fit: Fit) -> None:
    sft = config.sft
    rows = sft_rows(config, stats)
    if rows < sft.rows_per_step:
        fit.warnings.append(
            f"sft.rows_per_step={sft.rows_per_step} is more than the about {rows:,} rows that all training events fill: an epoch is one "
            "step, most of it padding; lower it"
        )
    _warm_up("sft", sft, math.ceil(rows / sft.rows_per_step) * sft.epochs, fit, about=True)
    if sft.hold_out:
        spared = sum(users for n, users in enumerate(stats["train_lengths"]) if 0 < n <= 2)
        every = sum(stats["train_lengths"][1:])
        if spared == every:
            fit.warnings.append(
                f"sft.hold_out={sft.hold_out} holds nothing out: no user has more than two training events, and two always stay"
            )


def grpo_prompts(config: Any, stats: Mapping[str, Any]) -> int:
    """Prompts of RL before ``max_prompts``."""
    lengths = [(n, users) for n, users in enumerate(stats["train_lengths"]) if n and users]
    beyond = stats["train_events"] - sum(
        n * users for n, users in lengths
    )  # the histogram's last bar is "or more"
    if config.grpo.prompts == "last":
        return sum(users for n, users in lengths if n >= 2)
    if config.grpo.prompts == "held_out":
        return sum(users * (n - max(min(n, 2), n - config.sft.hold_out)) for n, users in lengths)
    return sum(users * (n - 1) for n, users in lengths) + beyond


def _grpo(config: Any, stats: Mapping[str, Any], fit: Fit) -> None:
    grpo, items = config.grpo, stats["items"]
    if grpo.num_generations > items:
        fit.faults.append(
            f"grpo.num_generations={grpo.num_generations} is more than the {items:,} items of the catalogue to roll out; lower it"
        )
    prompts = grpo_prompts(config, stats)
    if not prompts:
        fit.faults.append(
            f"grpo.prompts={grpo.prompts} finds no prompt: no user has enough training events (two, and with held_out three); check "
            "catalog.split, or set grpo.prompts=all"
        )
        return
    asked = min(prompts, grpo.max_prompts or prompts)
    if asked < grpo.prompts_per_step:
        cause = (
            f"grpo.max_prompts={grpo.max_prompts}"
            if asked < prompts
            else f"the training split, which gives {prompts:,}"
        )
        fit.faults.append(
            f"grpo.prompts_per_step={grpo.prompts_per_step} is more than all prompts of {cause}; lower it to at most {asked:,}"
        )
        return
    steps = asked // grpo.prompts_per_step * grpo.num_iterations * grpo.epochs
    _warm_up("grpo", grpo, steps, fit)


def _schedules(config: Any, stats: Mapping[str, Any], todo: Collection[str], fit: Fit) -> None:
    """Models that are trained from nothing by epochs: a step reads so many targets."""
    targets = stats["train_events"] - sum(stats["train_lengths"][1:])
    found = []
    for name in config.baselines.run if "baselines" in todo else ():
        settings: Any = getattr(config.baselines, name, None)
        if hasattr(settings, "warmup_steps"):  # of those that are trained
            found.append((f"baselines.{name}", settings, settings.batch_tokens))
    if "multi_interest" in todo and config.multi_interest is not None:
        found.append(("multi_interest", config.multi_interest, config.multi_interest.batch_targets))
    for key, schedule, batch in found:
        _warm_up(key, schedule, max(1, math.ceil(targets / batch)) * schedule.max_epochs, fit)


def _warm_up(key: str, settings: Any, steps: int, fit: Fit, about: bool = False) -> None:
    line = warm_up_line(key, settings.warmup_steps, steps, about)
    if line is not None:
        fit.warnings.append(line)
