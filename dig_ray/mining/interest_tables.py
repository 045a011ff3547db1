"""The tables that mining leaves: one row for each miner and subject, the merged interests, and what failed."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from dig_ray.artifacts.artifact_tables import merged_schema
from dig_ray.mining.answers import REASONING, Answer, AnswerError, read_answer
from dig_ray.mining.evidence import Evidence
from dig_ray.mining.merge import Interest, merge
from dig_ray.mining.miner import Asked

if TYPE_CHECKING:
    import pyarrow as pa

NOTHING = "no_evidence: there is no text or picture to mine from"


def interests_schema() -> pa.Schema:
    """``interests.parquet``: what each miner said about each subject, in the order it said it."""
    import pyarrow as pa

    text = pa.string()
    return pa.schema(
        [
            ("subject", text),
            ("subject_id", text),
            ("miner", text),
            ("model", text),
            ("prompt", text),
            ("prompt_version", pa.int32()),
            ("prompt_hash", text),
            ("descriptors", pa.list_(pa.struct([("text", text), ("confidence", pa.float64())]))),
            ("reasoning", pa.struct([(step, text) for step in REASONING])),
            ("status", text),  # ok, failed, or skipped where there was nothing to ask about
            ("error", text),
            ("tokens_in", pa.int64()),
            ("tokens_out", pa.int64()),
            ("cost", pa.float64()),
            ("cut", pa.list_(text)),  # fields of the evidence that were shortened
        ]
    )


def quarantine_schema() -> pa.Schema:
    """``quarantine.parquet``: rows that failed, with the reason and what the model wrote. It is data: never run, render or send it."""
    import pyarrow as pa

    names = ("subject", "subject_id", "miner", "reason", "raw")
    return pa.schema([*((name, pa.string()) for name in names), ("calls", pa.int32())])


@contextmanager
def without_collection() -> Iterator[None]:
    """No garbage collection meanwhile: with many rows alive, looking for cycles among them takes longer than making them."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def read_answers(asked: Asked) -> list[Answer | None]:
    """One answer per evidence, None where there is no valid one."""
    by_key: dict[str, Answer] = {}
    for key, row in asked.answers.items():
        if row["status"] != "ok":
            continue
        try:
            by_key[key] = read_answer(asked.kind, row["raw"], asked.most)
        except AnswerError as error:  # kept by an earlier version that took it
            row.update(status="failed", reason=f"{error.reason}: {error}")
    return [by_key.get(key) for key in asked.keys]


def interest_table(asked: Asked, evidence: Sequence[Evidence], answers: Sequence[Answer | None]) -> pa.Table:
    """Rows of ``interests_schema`` of one miner, one per evidence. Built by column: a hundred thousand rows take a second."""
    import pyarrow as pa

    found = [asked.answers.get(key) if key else None for key in asked.keys]
    state = [
        (row["status"], row["reason"])
        if row is not None
        else ("failed", "not_asked")
        if key
        else ("skipped", NOTHING)
        for key, row in zip(asked.keys, found, strict=True)
    ]
    count = len(found)
    columns: dict[str, Any] = {
        "subject": [one.subject for one in evidence],
        "subject_id": [one.subject_id for one in evidence],
        "miner": [asked.miner.name] * count,
        "model": [asked.miner.answered_by] * count,
        "prompt": [asked.prompt[0]] * count,
        "prompt_version": [asked.prompt[1]] * count,
        "prompt_hash": [asked.prompt[2]] * count,
        "descriptors": _lists(
            [0 if a is None else len(a.confidences) for a in answers],
            text=pa.array(
                [t for a in answers if a is not None and a.confidences for t in a.texts], pa.string()
            ),
            confidence=pa.array([c for a in answers if a is not None for c in a.confidences], pa.float64()),
        ),
        "reasoning": [a.reasoning if a is not None and a.reasoning else None for a in answers],
        "status": [status for status, _ in state],
        "error": [error for _, error in state],
        "tokens_in": [row["tokens_in"] if row else 0 for row in found],
        "tokens_out": [row["tokens_out"] if row else 0 for row in found],
        "cost": [row["cost"] if row else 0.0 for row in found],
        "cut": [one.cut for one in evidence],
    }
    return pa.table(columns, schema=interests_schema())


def _lists(lengths: Sequence[int], **fields: pa.Array) -> pa.Array:
    """A column of lists of structs, from how long each list is and its entries one after another."""
    import pyarrow as pa

    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int32)
    entries = pa.StructArray.from_arrays(list(fields.values()), list(fields))
    return pa.ListArray.from_arrays(offsets, entries)


def quarantine_table(asked: Sequence[Asked], evidence: Sequence[Evidence]) -> pa.Table:
    """Rows of ``quarantine_schema`` of all miners."""
    import pyarrow as pa

    rows = [row for one in asked for row in _quarantine_rows(one, evidence)]
    return pa.Table.from_pylist(rows, quarantine_schema())


def _quarantine_rows(asked: Asked, evidence: Sequence[Evidence]) -> list[dict[str, Any]]:
    failed = {key: row for key, row in asked.answers.items() if row["status"] == "failed"}
    return [
        {
            "subject": one.subject,
            "subject_id": one.subject_id,
            "miner": asked.miner.name,
            "reason": failed[key]["reason"],
            "raw": failed[key]["raw"],
            "calls": failed[key]["calls"],
        }
        for key, one in zip(asked.keys, evidence, strict=True)
        if key in failed
    ]


def merge_answers(
    answers: Sequence[Sequence[Answer | None]],
    threshold: float,
    encode: Callable[[list[str]], dict[str, np.ndarray]] | None,
) -> list[list[Interest]]:
    """Every subject's interests merged over miners.

    Args:
        answers: per miner, one per subject.
        threshold: cosine from which two texts are one interest; above 1, only equal folded forms are.
        encode: texts -> text -> unit vector (d,), float32; None merges by text alone.
    """
    from dig_ray.mining.answers import fold

    if len(answers) == 1 and encode is None:  # an answer says nothing twice
        return [
            []
            if a is None
            else [Interest(t, c, 1, (0,)) for t, c in zip(a.texts, a.confidences, strict=True)]
            for a in answers[0]
        ]
    vectors: dict[str, np.ndarray] = {}
    if encode is not None:
        vectors = encode(
            sorted({fold(text) for of in answers for a in of if a is not None for text in a.texts})
        )

    def rows(texts: list[str]) -> np.ndarray:
        return np.stack([vectors[text] for text in texts])

    merged = []
    for subject in zip(*answers, strict=True):
        mined = [[] if a is None else list(zip(a.texts, a.confidences, strict=True)) for a in subject]
        merged.append(merge(mined, threshold, rows if vectors else None))
    return merged


def merged_table(
    evidence: Sequence[Evidence], merged: Sequence[Sequence[Interest]], miners: Sequence[str]
) -> pa.Table:
    """Rows of ``merged_schema``, one per evidence."""
    import pyarrow as pa

    flat = [interest for interests in merged for interest in interests]
    names = pa.array(miners, pa.string())
    given = pa.array([number for interest in flat for number in interest.miners], pa.int32())
    by_miner = np.concatenate([[0], np.cumsum([len(interest.miners) for interest in flat])]).astype(np.int32)
    columns = {
        "subject": [one.subject for one in evidence],
        "subject_id": [one.subject_id for one in evidence],
        "interests": _lists(
            [len(interests) for interests in merged],
            text=pa.array([interest.text for interest in flat], pa.string()),
            confidence=pa.array([interest.confidence for interest in flat], pa.float64()),
            support=pa.array([interest.support for interest in flat], pa.int32()),
            miners=pa.ListArray.from_arrays(by_miner, names.take(given)),
        ),
    }
    return pa.table(columns, schema=merged_schema())


def agreement(merged: Sequence[Sequence[Interest]], miners: Sequence[str]) -> dict[str, float]:
    """``"a | b"`` -> share of the interests that either gave which both gave, over subjects where both gave some."""
    out: dict[str, float] = {}
    for first in range(len(miners)):
        for second in range(first + 1, len(miners)):
            both = either = 0
            for interests in merged:
                given = [set(interest.miners) for interest in interests]
                if any(first in g for g in given) and any(second in g for g in given):
                    both += sum(first in g and second in g for g in given)
                    either += sum(first in g or second in g for g in given)
            if either:
                out[f"{miners[first]} | {miners[second]}"] = round(both / either, 4)
    return out
