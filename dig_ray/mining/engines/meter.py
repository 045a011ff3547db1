"""What is going on while rows are asked: one place that counts, workers that report to it, a line for people, metrics for the dashboard."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any

from dig_ray.mining.engines.contract import Result, reason_word
from dig_ray.on_ray.telemetry import count, word

REPORT_SECONDS = 0.5


@dataclass
class Totals:
    """Sums over answers.

    Attributes:
        ok: rows with a valid answer.
        failed: rows without one.
        calls: requests sent, those tried again included.
        tokens_in: tokens that were sent, as the engine counts them.
        tokens_out: tokens that were answered, likewise.
        cost: US dollars.
        reasons: first word of a failure -> rows.
        estimated: responses whose tokens are our estimate, since the endpoint did not say them.
        tried_again: first word of a failure that was tried again -> times; known of this run only.
    """

    ok: int = 0
    failed: int = 0
    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)
    estimated: int = 0
    tried_again: Counter[str] = field(default_factory=Counter)

    @property
    def rows(self) -> int:
        return self.ok + self.failed

    def add(self, row: Any) -> None:
        """Count one answer: a ``Result``, or a row of the answer log."""
        fields_of = row if isinstance(row, dict) else vars(row)
        if fields_of["status"] == "ok":
            self.ok += 1
        else:
            self.failed += 1
            self.reasons[reason_word(fields_of["reason"])] += 1
        for name in ("calls", "tokens_in", "tokens_out", "cost"):
            setattr(self, name, getattr(self, name) + fields_of[name])
        self.estimated += fields_of.get("estimated") or 0

    def plus(self, other: Totals) -> Totals:
        """The sum of both."""
        return Totals(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def as_dict(self) -> dict[str, Any]:
        """For a manifest."""
        return {
            "ok": self.ok,
            "failed": self.failed,
            "calls": self.calls,
            "tokens_in": self.tokens_in,
            "tokens_out": self.tokens_out,
            "cost": round(self.cost, 6),
            "reasons": dict(sorted(self.reasons.items())),
            "estimated": self.estimated,
        }


class MiningBoard:
    """The actor that counts rows per miner and money per endpoint. ``ray.remote(num_cpus=0)`` makes it one."""

    def __init__(self) -> None:
        self.totals: dict[str, Totals] = {}
        self.paid: dict[str, float] = {}
        self.lines: list[str] = []

    def add(self, miner: str, totals: Totals) -> None:
        self.totals[miner] = self.totals.get(miner, Totals()).plus(totals)

    def read(self) -> dict[str, Totals]:
        return self.totals

    def say(self, line: str) -> None:
        """Keep a line for the driver to print; processes of one miner that learn the same say it once."""
        if line not in self.lines:
            self.lines.append(line)

    def said(self) -> list[str]:
        return self.lines

    def pay(self, endpoint: str, dollars: float) -> float:
        """Count a payment; US dollars of all payments to this endpoint."""
        self.paid[endpoint] = self.paid.get(endpoint, 0.0) + dollars
        return self.paid[endpoint]


class Meter:
    """Reports one worker's answers to the board, now and then, and to the dashboard."""

    def __init__(self, board: Any, miner: str, stage: str) -> None:
        self.board, self.miner, self.stage = board, miner, stage
        self._new = Totals()
        self._sent = time.monotonic()

    def add(self, result: Result) -> None:
        """Count one answer."""
        self._new.add(result)
        if time.monotonic() - self._sent >= REPORT_SECONDS:
            self.flush()

    def trouble(self, word: str) -> None:
        """Count a failure that is tried again."""
        self._new.tried_again[word] += 1
        if time.monotonic() - self._sent >= REPORT_SECONDS:
            self.flush()

    def say(self, line: str) -> None:
        """Have the driver print a line."""
        if self.board is not None:
            self.board.say.remote(f"{self.miner}: {line}")

    def flush(self) -> None:
        """Report what was counted since the last time."""
        new, self._new, self._sent = self._new, Totals(), time.monotonic()
        if not new.rows and not new.tried_again:
            return
        if self.board is not None:
            self.board.add.remote(self.miner, new)
        tags = {"stage": self.stage, "miner": self.miner}
        for status, rows in (("ok", new.ok), ("failed", new.failed)):
            count("dig_mining_rows", rows, status=status, **tags)
        for reason, rows in new.reasons.items():
            count("dig_mining_failures", rows, reason=word(reason), **tags)
        for direction, tokens in (("in", new.tokens_in), ("out", new.tokens_out)):
            count("dig_mining_tokens", tokens, direction=direction, **tags)
        count("dig_mining_calls", new.calls, **tags)
        count("dig_mining_spend_usd", new.cost, **tags)


def progress_line(miner: str, todo: int, totals: Totals, elapsed: float, quiet: float = 0.0) -> str:
    """``"gpt: 1,204/12,101 rows, 35 rows/s, 2,100 tokens/s, 0.4% failed, $0.31, about 5 min left"``.

    Args:
        miner: its name.
        todo: rows that it is asked about.
        totals: so far.
        elapsed: seconds since it began.
        quiet: seconds without a new answer, where the line before this one said the same.
    """
    again = ", ".join(f"{word} {times:,}" for word, times in totals.tried_again.most_common(2))
    tail = [f"tried again: {again}"] if again else []
    if not totals.rows and todo:
        return ", ".join([f"{miner}: no answer to {todo:,} rows yet after {elapsed:.0f} s", *tail])
    rate = totals.rows / max(elapsed, 1e-6)
    parts = [f"{miner}: {totals.rows:,}/{todo:,} rows"]
    parts.append(f"{rate:,.0f} rows/s" if rate >= 10 else f"{rate:.2g} rows/s")
    tokens = totals.tokens_in + totals.tokens_out
    if tokens:
        parts.append(f"{tokens / max(elapsed, 1e-6):,.0f} tokens/s")
    if totals.failed:
        share = 100 * totals.failed / totals.rows
        parts.append(f"{share:.0f}% failed" if share >= 10 else f"{share:.2g}% failed")
    if totals.cost:
        parts.append(f"${totals.cost:,.2f}")
    if quiet:
        parts.append(f"no new answer for {quiet:.0f} s")
    elif 0 < totals.rows < todo:
        left = (todo - totals.rows) / rate
        parts.append(f"about {left / 60:.0f} min left" if left >= 120 else f"about {left:.0f} s left")
    return ", ".join([*parts, *tail])
