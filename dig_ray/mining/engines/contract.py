"""What every engine takes and gives.

An engine is a module with one function ``run(job, requests)``: it answers every request of the table and writes each answer into the
job's answer log before it returns. What it raises ends the miner, not the others; rows answered before are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from dig_ray.mining.answers import LONGEST_ANSWER, Answer, AnswerError, Kind, read_answer
from dig_ray.mining.config import EngineConfig

if TYPE_CHECKING:
    import pyarrow as pa

AGAIN = ("status_", "timeout", "connection", "deadline", "half_body", "error_body", "engine")
"""Reasons that say nothing about the answer: the next run asks such a row again."""


@dataclass(frozen=True)
class Request:
    """One thing to be asked.

    Attributes:
        key: see ``answer_log.answer_key``.
        subject_id: of the item or user; for messages and recorded answers, never sent.
        kind: of answer.
        system: the instructions.
        evidence: the JSON object it is about.
        image: a picture's bytes and its media type.
    """

    key: str
    subject_id: str
    kind: Kind
    system: str
    evidence: str
    image: tuple[bytes, str] | None = None


@cache
def request_schema() -> pa.Schema:
    """Columns of a table of requests; ``image`` is null where there is none. What all rows share stands in the ``Job``."""
    import pyarrow as pa

    return pa.schema(
        [
            ("key", pa.string()),
            ("subject_id", pa.string()),
            ("evidence", pa.string()),
            ("image", pa.binary()),
            ("media", pa.string()),
        ]
    )


@dataclass(frozen=True)
class Job:
    """One miner's work.

    Attributes:
        miner: the engine's settings.
        kind: of answer.
        system: the instructions.
        most: entries that an answer may have at most.
        log: folder of the answer log.
        marks: folder for the marks of rows in flight.
        board: the actor that counts, or None.
        spent: US dollars that were spent before under the same limit.
        secret: the endpoint's key as the driver's environment has it, for workers whose environment has none; in no text of this object.
    """

    miner: Any
    kind: Kind
    system: str
    most: int
    log: str
    marks: str
    board: Any = None
    spent: float = 0.0
    secret: str | None = field(default=None, repr=False)

    def request(self, row: dict[str, Any]) -> Request:
        """A row of the table as a request."""
        image = None if row.get("image") is None else (row["image"], row["media"])
        return Request(row["key"], row["subject_id"], self.kind, self.system, row["evidence"], image)


@dataclass
class Result:
    """What came of it; the columns of ``answer_log.schema``.

    ``status`` is ``ok`` only for an answer that reads whole.
    """

    key: str
    status: str = "failed"
    reason: str = ""
    raw: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    calls: int = 0
    cost: float = 0.0
    seconds: float = 0.0

    def row(self) -> dict[str, Any]:
        raw = self.raw.encode("utf-8", "replace").decode()[:LONGEST_ANSWER]
        return asdict(self) | {"raw": raw, "reason": self.reason[:300]}


class SpendLimit(Exception):
    """No more money may be spent; what was answered so far is kept."""


def worth_asking(row: Mapping[str, Any] | None) -> bool:
    """Whether a question is to be asked: it has no row in the log, or only the way to its answer failed."""
    return row is None or (row["status"] == "failed" and str(row["reason"]).startswith(AGAIN))


def judge_answer(kind: Kind, raw: str) -> tuple[Answer | None, str]:
    """(the answer, ""), or (None, the reason why it is refused)."""
    try:
        return read_answer(kind, raw), ""
    except AnswerError as error:
        return None, f"{error.reason}: {error}"


def identity(miner: EngineConfig) -> dict[str, Any]:
    """What of a miner's settings decides its answers: the model and how it samples, not where it runs or what it costs."""
    settings = miner.model_dump(mode="json")
    decides = {
        "openai": ("engine", "model", "sampling", "extra_body"),
        "vllm": ("engine", "model", "revision", "sampling"),
        "replay": ("engine", "id_column", "answer_column", "form"),
        "keyphrase": ("engine", "encoder", "phrases", "longest", "candidates", "diversity"),
    }[settings["engine"]]
    return {name: settings[name] for name in decides}
