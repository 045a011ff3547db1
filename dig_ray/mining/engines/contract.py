"""What every engine takes and gives.

An engine is a module with settings derived from ``settings.EngineConfig`` and one function ``run(job, requests)``: it answers every request
of the table and writes each answer into the job's answer log before it returns. What it raises ends the miner, not the others; rows
answered before are kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from dig_ray.mining.answer_log import UNREACHED
from dig_ray.mining.answers import LONGEST_ANSWER, MOST, Answer, AnswerError, Kind, fold, read_answer

if TYPE_CHECKING:
    import pyarrow as pa

_THOUGHT = re.compile(r"</?(?:think|thinking|reasoning|thought)>|\[/?THINK\]|<\|channel\|>|◁/?think▷", re.I)
ECHO = 10
"""Words in a row that no answer shares with its instructions by chance."""


@dataclass(frozen=True)
class Request:
    """One thing to be asked.

    Attributes:
        key: 32 hex digits of all that decides the answer, from ``answer_log.AnswerKeys``.
        subject_id: id of the item or user; for messages and recorded answers, never sent.
        kind: what the answer has to be.
        system: the instructions.
        evidence: the JSON object it is about.
        image: a picture's bytes and its media type, such as ``image/jpeg``; None for a question about text.
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


class Secret:
    """A text that no log, message or metadata shows: whatever prints, formats or exports it gets stars."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text."""
        return self._text

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__


@dataclass(frozen=True)
class Job:
    """One miner's work.

    Attributes:
        miner: the engine's settings.
        kind: what the answer has to be.
        system: the instructions.
        most: entries that an answer may have at most.
        log: folder of the answer log.
        marks: folder for the marks of rows in flight.
        board: the actor that counts, or None.
        pace: part of the endpoint's rate and places in flight that is this miner's, where several miners ask the same model of it.
        spent: US dollars that were spent at the endpoint before this run.
        payments: folder where what is spent is written down.
        secret: the endpoint's key as the driver's environment has it, for workers whose environment has none.
        stage: name of the stage that asks, for the dashboard.
        known: whether the model has answered some rows well before.
        second: whether all these rows have failed before; where the model is known to answer, that says nothing about it.
    """

    miner: Any
    kind: Kind
    system: str
    most: int
    log: str
    marks: str
    board: Any = None
    pace: float = 1.0
    spent: float = 0.0
    payments: str = ""
    secret: Secret | None = None
    stage: str = "mining"
    known: bool = False
    second: bool = False

    def request(self, row: dict[str, Any]) -> Request:
        """A row of the table as a request."""
        image = None if row.get("image") is None else (row["image"], row["media"])
        return Request(row["key"], row["subject_id"], self.kind, self.system, row["evidence"], image)


@dataclass
class Result:
    """What came of it; the columns of ``answer_log.schema``.

    ``status`` is ``ok`` only for an answer that reads whole; ``estimated`` are responses whose tokens are our estimate.
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
    estimated: int = 0

    def row(self) -> dict[str, Any]:
        raw = self.raw.encode("utf-8", "replace").decode()[:LONGEST_ANSWER]
        return vars(self) | {"raw": raw, "reason": self.reason[:300]}


class SpendLimit(Exception):
    """No more money may be spent; what was answered so far is kept."""


def worth_asking(row: Mapping[str, Any] | None) -> bool:
    """Whether a question is to be asked: it has no row in the log, or only the way to its answer failed."""
    return row is None or (row["status"] == "failed" and str(row["reason"]).startswith(UNREACHED))


def judge_answer(kind: Kind, raw: str, most: int = MOST, system: str = "") -> tuple[Answer | None, str]:
    """(the answer, ""), or (None, the reason why it is refused).

    Args:
        kind: what the answer has to be.
        raw: what the model wrote.
        most: entries that it may have.
        system: the instructions; an answer that repeats ``ECHO`` words of them in a row was talked into it.
    """
    try:
        answer = read_answer(kind, raw, most)
    except AnswerError as error:
        if _THOUGHT.search(raw):
            return (
                None,
                "thinking: the model's thoughts stand in the answer, which is not taken apart by guessing",
            )
        return None, f"{error.reason}: {error}"
    except (ArithmeticError, RecursionError, UnicodeError, MemoryError) as error:
        return None, f"not_json: the answer cannot be read ({type(error).__name__})"
    if system and (echo := _echo((*answer.texts, *answer.reasoning.values()), system)):
        return None, f"echo: the answer repeats the instructions, {echo!r}"
    return answer, ""


def _echo(texts: Iterable[str], system: str) -> str:
    """The first ``ECHO`` words in a row that stand in the instructions too; "" where there are none."""
    for text in texts:
        words = fold(text).split()
        for start in range(len(words) - ECHO + 1):
            run = " ".join(words[start : start + ECHO])
            if f" {run} " in _folded(system):
                return run
    return ""


@lru_cache
def _folded(system: str) -> str:
    return f" {fold(system)} "


def reason_word(reason: str) -> str:
    """The part of a reason that tables and metrics count: what stands before the colon or a bracket."""
    return reason.split(":", 1)[0].split(" (", 1)[0][:40] or "unknown"
