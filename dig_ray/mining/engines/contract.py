"""What every engine takes and gives."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from dig_ray.mining.answers import LONGEST_ANSWER, Answer, AnswerError, Kind, read_answer


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


def judge_answer(kind: Kind, raw: str) -> tuple[Answer | None, str]:
    """(the answer, ""), or (None, the reason why it is refused)."""
    try:
        return read_answer(kind, raw), ""
    except AnswerError as error:
        return None, f"{error.reason}: {error}"
