"""What rooms ask of each other: settings that are right each by itself and cannot be had together.

Each check is a function of the whole config that yields a sentence for each thing that is wrong. They are asked in the order of
``CHECKS``, and a later one may rely on what an earlier one has not found wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dig_ray.config.run_config import RunConfig


def first_fault(config: RunConfig) -> str | None:
    """The first sentence that a check has to say; None where all parts of the tree go together."""
    return next((fault for check in CHECKS for fault in check(config)), None)


def lists_reach_the_longest_cut_off(config: RunConfig) -> Iterator[str]:
    """Who hands lists to the evaluation makes them as long as its longest cut-off."""
    longest = max(config.evaluation.ks)
    for key, room in (
        ("baselines", config.baselines if config.baselines.run else None),
        ("multi_interest", config.multi_interest),
    ):
        if room is not None and room.top_k < longest:
            yield (
                f"{key}.top_k={room.top_k} gives lists shorter than the longest cut-off of "
                f"evaluation.ks, {longest}; set {key}.top_k={longest} or more"
            )


def the_retriever_that_is_read_is_trained(config: RunConfig) -> Iterator[str]:
    """Whoever reads the multi-interest retriever's vectors or interests has one in the run."""
    for key, wanted in (
        ("semantic_ids.vectors", config.semantic_ids.vectors),
        ("recommender.user_interests", config.recommender.user_interests),
    ):
        if wanted == "multi_interest" and config.multi_interest is None:
            yield (
                f"{key}=multi_interest reads a model that this run does not train; set multi_interest, or leave {key} at its default"
            )


def embedded_fields_are_mined(config: RunConfig) -> Iterator[str]:
    """The mined fields that item texts are made of have a miner."""
    for field, key, miners in (
        ("caption", "mining.caption", config.mining.caption),
        ("interests", "mining.items", config.mining.item_miners),
    ):
        if field in config.embedding.fields and not miners:
            yield f"embedding.fields names {field}, which nobody mines; set {key}, or leave {field} out"


def curated_interests_are_judged(config: RunConfig) -> Iterator[str]:
    """Item texts made of the good interests alone need a judge that says which are."""
    if config.embedding.curated and config.mining.judge is None:
        yield "embedding.interests=positive and embedding.min_quality need a judge's labels; set mining.judge"


def held_out_prompts_are_held_out(config: RunConfig) -> Iterator[str]:
    """Prompts that GRPO takes from events that SFT does not see need such events."""
    if config.grpo is not None and config.grpo.prompts == "held_out" and not config.sft.hold_out:
        yield "grpo.prompts=held_out needs events that SFT does not see; set sft.hold_out=1, or grpo.prompts to all or last"


def fused_vectors_are_read(config: RunConfig) -> Iterator[str]:
    """What fusion makes is what Semantic IDs are made of."""
    if config.fusion is not None and config.semantic_ids.method == "file":
        yield "semantic_ids.method=file reads no vectors, so fusion has no use; drop one of them"
    if config.fusion is not None and config.semantic_ids.vectors != "items":
        yield f"semantic_ids.vectors={config.semantic_ids.vectors} does not read what fusion makes; drop one of them"


def interests_of_tasks_are_mined(config: RunConfig) -> Iterator[str]:
    """The policy's tasks that read mined interests have a miner."""
    for mined, key, miners in (
        ("item_interests", "mining.items", config.mining.item_miners),
        ("user_interests", "mining.users", config.mining.users),
    ):
        if mined == "user_interests" and config.recommender.user_interests != "mined":
            continue
        task = config.recommender.reads(mined)
        if task and not miners:
            yield (
                f"recommender.tasks names {task}, whose interests nobody mines; set {key}, or leave the task out"
            )


def interests_do_not_know_what_is_predicted(config: RunConfig) -> Iterator[str]:
    """What a policy reads of a user may not know the event that it is to predict."""
    task, need = config.recommender.reads("user_interests"), 1 + config.sft.hold_out
    if task is None:
        return
    if config.recommender.user_interests == "mined":
        key, left_out = "mining.user_hold_out", config.mining.user_hold_out
    else:
        assert config.multi_interest is not None
        key, left_out = "multi_interest.hold_out", config.multi_interest.hold_out
    if left_out < need:
        yield (
            f"recommender.tasks: {task} predicts each user's latest event that SFT sees, and {key}={left_out} lets the interests "
            f"know it; set {key}={need}"
        )


def rewards_have_what_they_read(config: RunConfig) -> Iterator[str]:
    """GRPO's rewards by quality need a judge, and those by interests need miners of users and of items."""
    grpo = config.grpo
    if grpo is None:
        return
    for one in grpo.evidence:
        if lacking := one.lacking(config):
            yield lacking


def interactions_that_are_read_are_there(config: RunConfig) -> Iterator[str]:
    """On a catalogue that nobody has used yet, nothing that is asked for reads what people did."""
    for key, asked in (
        ("semantic_ids.collaborative.weight", config.semantic_ids.collaborative.weight > 0),
        ("mining.users", bool(config.mining.users)),
    ):
        if asked and not config.catalog.has_interactions:
            yield (
                f"{key} reads what people did, and this catalogue has no interactions; leave {key} at its default, or give "
                "catalog.interactions.path"
            )


def workers_have_gpus(config: RunConfig) -> Iterator[str]:
    """A room that trains on GPUs asks for no more than the local Ray is told to have."""
    for room, workers in (
        ("sft", config.sft),
        ("grpo", config.grpo),
        ("multi_interest", config.multi_interest),
    ):
        gpus = workers.num_workers if workers is not None and workers.use_gpu else 0
        if config.ray.num_gpus is not None and config.ray.num_gpus < gpus:
            yield (
                f"{room}.use_gpu with {room}.num_workers={gpus} would wait for ever on ray.num_gpus={config.ray.num_gpus}; "
                f"raise ray.num_gpus or set {room}.use_gpu=false"
            )


CHECKS: tuple[Callable[[RunConfig], Iterator[str]], ...] = (
    lists_reach_the_longest_cut_off,
    the_retriever_that_is_read_is_trained,
    embedded_fields_are_mined,
    curated_interests_are_judged,
    held_out_prompts_are_held_out,
    fused_vectors_are_read,
    interests_of_tasks_are_mined,
    interests_do_not_know_what_is_predicted,
    rewards_have_what_they_read,
    interactions_that_are_read_are_there,
    workers_have_gpus,
)
