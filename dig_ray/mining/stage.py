"""The mining stages: pictures to captions, items to interests, training histories to user interests and to clusters of items.

Each asks its miners what is not known yet (``miner``), writes what every miner said, the merged interests and what failed, and is not
published when more failed than the config allows.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dig_ray.artifacts.artifact_tables import write_table
from dig_ray.base import Inputs, Stage
from dig_ray.catalog.dataset import Dataset
from dig_ray.errors import UserError
from dig_ray.mining.answers import MOST_CLUSTERS
from dig_ray.mining.clusters import REPAIRS, Clusters, cluster_evidence, clusters_table, repair
from dig_ray.mining.config import MiningConfig
from dig_ray.mining.copies import copies_line, judge_copies
from dig_ray.mining.evidence import Evidence, item_evidence, user_evidence
from dig_ray.mining.interest_tables import (
    agreement,
    interest_table,
    merge_answers,
    merged_table,
    quarantine_table,
    read_answers,
    without_collection,
)
from dig_ray.mining.item_pictures import Pictures, list_pictures
from dig_ray.mining.miner import Asked, ask, plan
from dig_ray.mining.prompts import ANSWERS_OF, Prompt, checked_prompt, prompt_key
from dig_ray.mining.read_mined import read_captions, read_interests

if TYPE_CHECKING:
    import pyarrow as pa

SHOWN_TO_USERS = 3
"""Interests of an item that stand in a user's evidence at most."""


def captions(config: Any, stage: Stage, inputs: Inputs) -> None:
    """The ``captions`` stage of a run: :func:`run_captions` on its catalogue and, where they are read, its pictures."""
    run_captions(config.mining, stage, inputs["catalog"], inputs.get("pictures"))


def item_interests(config: Any, stage: Stage, inputs: Inputs) -> None:
    """The ``item_interests`` stage of a run: :func:`run_items` on its catalogue and, where there are some, its captions."""
    run_items(config.mining, stage, inputs["catalog"], inputs.get("captions"))


def user_interests(config: Any, stage: Stage, inputs: Inputs) -> None:
    """The ``user_interests`` stage of a run: :func:`run_users` on its catalogue and item interests."""
    run_users(config.mining, stage, inputs["catalog"], inputs.get("item_interests"))


def run_captions(
    config: MiningConfig, stage: Stage, catalog_dir: Path, pictures_dir: Path | None = None
) -> None:
    """Write ``captions.parquet`` (item_id, caption, model, status, error) and ``quarantine.parquet``.

    Args:
        config: the settings of mining.
        stage: where to write.
        catalog_dir: the catalogue's artifact.
        pictures_dir: the pictures' artifact; recorded captions need none.

    Raises:
        UserError: no item has a picture, or too many rows failed; see also ``miner.ask``.
    """
    import pyarrow as pa

    evidence, pictures, notes = caption_inputs(config, catalog_dir, pictures_dir)
    if notes.total():
        stage.log(f"captions: {notes.total():,} items have no picture to describe")
    if pictures is not None and not pictures.marks:
        raise UserError("mining.caption: no item of this catalogue has a picture to describe; remove it")
    asked, answers = _ask(
        config, [config.caption], config.caption_prompt, "caption", evidence, stage, pictures
    )
    (one,), (given,) = asked, answers
    told = interest_table(one, evidence, [None] * len(evidence)).rename_columns({"subject_id": "item_id"})
    captions = pa.array([answer.texts[0] if answer else None for answer in given], pa.string())
    table = told.select(["item_id", "model", "status", "error"]).add_column(1, "caption", captions)
    write_table(stage, "captions", table)
    _write_quarantine(stage, asked, evidence)
    stage.stats.update(rows=len(evidence), captions=len(captions) - captions.null_count, pictures=dict(notes))


def run_items(config: MiningConfig, stage: Stage, catalog_dir: Path, captions_dir: Path | None) -> None:
    """Write the interests of items: ``interests``, ``merged`` and ``quarantine.parquet``.

    Raises:
        UserError: too many rows failed; see also ``miner.ask``.
    """
    items = Dataset.load(catalog_dir).items
    evidence = item_evidence(items, config.evidence_tokens, read_captions(captions_dir))
    _mine(config, list(config.item_miners), config.item_prompt, "items", evidence, stage)


def run_users(config: MiningConfig, stage: Stage, catalog_dir: Path, items_dir: Path | None) -> None:
    """Write the interests of users from their training histories: ``interests``, ``merged`` and ``quarantine.parquet``.

    Raises:
        UserError: too many rows failed; see also ``miner.ask``.
    """
    dataset = Dataset.load(catalog_dir)
    evidence = user_inputs(config, dataset, items_dir)
    _mine(config, list(config.users), config.user_prompt, "users", evidence, stage)


def run_clusters(
    config: MiningConfig,
    stage: Stage,
    subject: str,
    subjects: Mapping[str, Sequence[str]],
    items: pa.Table,
    items_dir: Path | None,
) -> None:
    """Ask an LLM to allocate the items of every subject, and write ``clusters.parquet`` and ``quarantine.parquet``.

    A subject whose answer is refused has no clusters.

    Args:
        config: the settings of mining, with ``clusters`` set.
        stage: where to write.
        subject: what they are, ``user`` or ``crowd``.
        subjects: id -> distinct item ids.
        items: the catalogue's table of items; ``item_id`` and ``title`` are read.
        items_dir: the item interests' artifact, where they are shown.

    Raises:
        UserError: too many rows failed; see also ``miner.ask``.
    """
    evidence, title_of = cluster_inputs(config, subject, subjects, items, items_dir)
    (asked,), (answers,) = _ask(config, [config.clusters], config.cluster_prompt, "clusters", evidence, stage)
    found: list[Clusters | None] = [
        None if answer is None else repair(answer, shown, title_of)
        for answer, shown in zip(answers, subjects.values(), strict=True)
    ]
    told = interest_table(asked, evidence, [None] * len(evidence))
    states = list(zip(told["status"].to_pylist(), told["error"].to_pylist(), strict=True))
    write_table(stage, "clusters", clusters_table(subject, subjects, found, asked.miner.answered_by, states))
    _write_quarantine(stage, [asked], evidence)
    some = [one for one in found if one is not None]
    stage.stats.update(
        rows=len(subjects),
        clusters=sum(len(one.names) for one in some),
        repaired={rule: sum(one.repaired[rule] for one in some) for rule in REPAIRS},
        cost=round(sum(told["cost"].to_pylist()), 6),
    )


def cluster_inputs(
    config: MiningConfig,
    subject: str,
    subjects: Mapping[str, Sequence[str]],
    items: pa.Table,
    items_dir: Path | None,
) -> tuple[list[Evidence], dict[str, str | None]]:
    """Evidence of every subject, arguments as in ``run_clusters``; and item id -> title."""
    ids, titles = (
        items[name].to_pylist() if name in items.column_names else [None] * items.num_rows
        for name in ("item_id", "title")
    )
    title_of = dict(zip(ids, titles, strict=True))
    evidence = cluster_evidence(
        subject, subjects, title_of, config.evidence_tokens, _shown_interests(items_dir)
    )
    return evidence, title_of


def caption_inputs(
    config: MiningConfig, catalog_dir: Path, pictures_dir: Path | None
) -> tuple[list[Evidence], Pictures | None, Counter[str]]:
    """(evidence, pictures, why items have none). A recorded caption needs no picture of ours."""
    if config.caption is not None and config.caption.recorded is not None:
        import pyarrow.parquet as pq

        ids = pq.read_table(Path(catalog_dir) / "items.parquet", columns=["item_id"])["item_id"].to_pylist()
        return [Evidence("item", item, "{}") for item in ids], None, Counter()
    if pictures_dir is None:
        raise ValueError("captions of pictures need the pictures' artifact")
    ids, pictures, notes = list_pictures(pictures_dir, config.image_side)
    # the caption path sees the picture alone: text beside it would be described instead of what the camera saw
    return [Evidence("item", item, "{}") for item in ids], pictures, notes


def user_inputs(config: MiningConfig, dataset: Dataset, items_dir: Path | None) -> list[Evidence]:
    """Evidence of users, from all but the latest ``user_hold_out`` training events, with the interests of items where they were mined."""
    dataset = dataset.without_latest(config.user_hold_out, least=1)
    items = dataset.items
    titles = (
        dict(zip(items["item_id"].to_pylist(), items["title"].to_pylist(), strict=True))
        if "title" in items.column_names
        else {}
    )
    shown = _shown_interests(items_dir)
    return user_evidence(dataset, titles, config.evidence_tokens, config.user_items, shown)


def _shown_interests(items_dir: Path | None) -> dict[str, list[str]]:
    """Item id -> its strongest interests, as they stand in the evidence of those who had it."""
    known = read_interests(items_dir) if items_dir is not None else {}
    return {item: [i["text"] for i in found[:SHOWN_TO_USERS]] for item, found in known.items() if found}


def most_entries(config: MiningConfig, prompt: Prompt) -> int:
    """Interests, or clusters, of one answer at most; it is part of the key that an answer is kept by."""
    return MOST_CLUSTERS if prompt.kind == "clusters" else config.most


def _ask(
    config: MiningConfig,
    miners: Sequence[Any],
    prompt_name: str,
    what: str,
    evidence: Sequence[Evidence],
    stage: Stage,
    pictures: Pictures | None = None,
) -> tuple[list[Asked], list[list[Any]]]:
    prompt = checked_prompt(prompt_name, ANSWERS_OF[what], prompt_key(what))
    begun = time.monotonic()
    asked = [plan(miner, prompt, evidence, pictures, most_entries(config, prompt)) for miner in miners]
    ask(asked, prompt, evidence, stage, pictures)
    seconds = time.monotonic() - begun
    with without_collection():
        answers = [read_answers(one) for one in asked]
        repeated = {}
        for number, one in enumerate(asked):
            answers[number], repeated[one.miner.name] = _without_copies(
                config, one, answers[number], prompt, evidence, stage
            )
    for one in asked:
        check_failures(one, config.max_failed)
    stage.stats.update(
        prompt={"name": prompt.name, "version": prompt.version, "hash": prompt.hash},
        miners={
            one.miner.name: one.figures()
            | {"now": one.asked_now.as_dict(), "copies": dict(repeated[one.miner.name])}
            for one in asked
        },
        seconds_asking=round(seconds, 2),
        nothing_to_ask=asked[0].keys.count(""),
        cut=sum(bool(one.cut) for one in evidence),
    )
    if stage.stats["cut"]:
        stage.log(
            f"{stage.stats['cut']:,} of {len(evidence):,} evidences were cut at {config.evidence_tokens} tokens"
        )
    return asked, answers


def _without_copies(
    config: MiningConfig,
    asked: Asked,
    answers: list[Any],
    prompt: Prompt,
    evidence: Sequence[Evidence],
    stage: Stage,
) -> tuple[list[Any], Counter[str]]:
    """A miner's answers under ``config.copies``, and how many texts are copies; phrases that a text was searched for are none."""
    counts: Counter[str] = Counter()
    if not asked.miner.llm:
        return answers, counts
    valid = sum(answer is not None for answer in answers)
    kept, refused = judge_copies(asked.kind, answers, prompt.system, evidence, config.copies, counts)
    for number, reason in refused.items():
        asked.answers[asked.keys[number]].update(status="failed", reason=reason)
    if line := copies_line(asked.miner.name, counts, valid, config.copies):
        stage.log(line)
    return kept, counts


def check_failures(asked: Asked, allowed: float) -> None:
    """Refuse to go on when more of a miner's rows failed than allowed.

    Raises:
        UserError: they did; its sentence names the most frequent reasons.
    """
    totals = asked.totals()
    if totals.failed > allowed * totals.rows:
        often = ", ".join(f"{reason} {count:,}" for reason, count in totals.reasons.most_common(3))
        example = next(row["reason"] for row in asked.answers.values() if row["status"] == "failed")
        raise UserError(
            f"miner {asked.miner.name}: {totals.failed:,} of {totals.rows:,} rows failed ({often}; such as {example[:120]!r}), more than "
            f"mining.max_failed={allowed:g}; correct the miner, or raise it to publish what there is"
        )


def _mine(
    config: MiningConfig,
    miners: Sequence[Any],
    prompt_name: str,
    what: str,
    evidence: Sequence[Evidence],
    stage: Stage,
) -> None:
    import pyarrow as pa

    asked, answers = _ask(config, miners, prompt_name, what, evidence, stage)
    encode = None
    if len(miners) > 1 and config.merge.threshold <= 1:
        from dig_ray.mining.text_vectors import encode_on_ray

        def encode(texts: list[str]) -> Any:
            return encode_on_ray(texts, config.merge.encoder, "mining.merge.encoder", stage.log)

    names = [miner.name for miner in miners]
    with without_collection():
        merged = merge_answers(answers, config.merge.threshold, encode)
        tables = [interest_table(one, evidence, given) for one, given in zip(asked, answers, strict=True)]
        write_table(stage, "interests", pa.concat_tables(tables))
        write_table(stage, "merged", merged_table(evidence, merged, names))
    _write_quarantine(stage, asked, evidence)
    stage.stats.update(
        rows=len(evidence),
        interests=sum(map(len, merged)),
        subjects_with_interests=sum(bool(found) for found in merged),
        agreement=agreement(merged, names),
    )


def _write_quarantine(stage: Stage, asked: Sequence[Asked], evidence: Sequence[Evidence]) -> None:
    table = quarantine_table(asked, evidence)
    write_table(stage, "quarantine", table)
    if table.num_rows:
        stage.log(f"{table.num_rows:,} rows failed; quarantine.parquet has each with its reason")
