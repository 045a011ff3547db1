"""The tables that mining leaves: one row for each miner and subject, the merged interests, and what failed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dig_ray.base import Stage
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


def merged_schema() -> pa.Schema:
    """``merged.parquet``: each subject's distinct interests, strongest first; for one miner, in its order."""
    import pyarrow as pa

    interest = pa.struct(
        [
            ("text", pa.string()),
            ("confidence", pa.float64()),
            ("support", pa.int32()),
            ("miners", pa.list_(pa.string())),
        ]
    )
    return pa.schema(
        [("subject", pa.string()), ("subject_id", pa.string()), ("interests", pa.list_(interest))]
    )


def quarantine_schema() -> pa.Schema:
    """``quarantine.parquet``: rows that failed, with the reason and what the model wrote. It is data: never run, render or send it."""
    import pyarrow as pa

    names = ("subject", "subject_id", "miner", "reason", "raw")
    return pa.schema([*((name, pa.string()) for name in names), ("calls", pa.int32())])


def model_name(miner: Any) -> str:
    """What answered, as reports name it."""
    if miner.engine == "keyphrase":
        return f"no LLM (keyphrases, {miner.encoder})"
    return getattr(miner, "model", None) or f"recorded ({Path(miner.path).name})"


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


def interest_rows(
    asked: Asked, evidence: Sequence[Evidence], answers: Sequence[Answer | None]
) -> list[dict[str, Any]]:
    """Rows of ``interests_schema`` of one miner."""
    shared = {
        "miner": asked.miner.name,
        "model": model_name(asked.miner),
        "prompt": asked.prompt[0],
        "prompt_version": asked.prompt[1],
        "prompt_hash": asked.prompt[2],
    }
    rows = []
    for key, one, answer in zip(asked.keys, evidence, answers, strict=True):
        row = asked.answers.get(key)
        status, error = (
            ("skipped", NOTHING)
            if not key
            else ("failed", "not_asked")
            if row is None
            else (
                row["status"],
                row["reason"],
            )
        )
        rows.append(
            shared
            | {
                "subject": one.subject,
                "subject_id": one.subject_id,
                "descriptors": []
                if answer is None
                else [
                    {"text": text, "confidence": confidence}
                    for text, confidence in zip(answer.texts, answer.confidences, strict=True)
                ],
                "reasoning": None if answer is None or not answer.reasoning else answer.reasoning,
                "status": status,
                "error": error,
                "tokens_in": row["tokens_in"] if row else 0,
                "tokens_out": row["tokens_out"] if row else 0,
                "cost": row["cost"] if row else 0.0,
                "cut": list(one.cut),
            }
        )
    return rows


def quarantine_rows(asked: Asked, evidence: Sequence[Evidence]) -> list[dict[str, Any]]:
    """Rows of ``quarantine_schema`` of one miner."""
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
        threshold: see :func:`dig_ray.mining.merge.merge`.
        encode: texts -> unit vectors; None merges by text alone.
    """
    from dig_ray.mining.answers import fold

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


def merged_rows(
    evidence: Sequence[Evidence], merged: Sequence[Sequence[Interest]], miners: Sequence[str]
) -> list[dict[str, Any]]:
    """Rows of ``merged_schema``."""
    return [
        {
            "subject": one.subject,
            "subject_id": one.subject_id,
            "interests": [
                {
                    "text": interest.text,
                    "confidence": interest.confidence,
                    "support": interest.support,
                    "miners": [miners[number] for number in interest.miners],
                }
                for interest in interests
            ],
        }
        for one, interests in zip(evidence, merged, strict=True)
    ]


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


def write_table(stage: Stage, name: str, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> None:
    """``rows`` as ``NAME.parquet`` of a stage's artifact."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows, schema), stage.out / f"{name}.parquet", compression="zstd")
