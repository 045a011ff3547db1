"""Lines that say how far a long stage is."""

from __future__ import annotations

import time

from dig_ray.base import Stage
from dig_ray.on_ray.telemetry import count

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """One line now and then, and a counter for the dashboard: rows done, rows per second, time left.

    Args:
        stage: whose log it is.
        what: the rows' name, such as ``texts``.
        total: rows in all.
        before: rows of them that an earlier run has left.
        work: what is left to do in any unit, where rows differ; the time left goes by it. The rows by default.
    """

    def __init__(self, stage: Stage, what: str, total: int, before: int = 0, work: int | None = None) -> None:
        self.stage, self.what, self.total, self.before = stage, what, total, before
        self.work = work
        self.started = self.last = time.monotonic()
        self.rows = self.work_done = 0

    def done(self, rows: int, work: int | None = None) -> None:
        """So many more rows are there; ``work`` in the unit of the whole."""
        self.rows += rows
        count("dig_stage_progress_rows", rows, stage=self.stage.name)
        self.work_done += rows if work is None else work
        now = time.monotonic()
        there = self.before + self.rows
        finished = there == self.total
        if now - self.last < SECONDS_BETWEEN_LINES and not finished:
            return
        self.last = now
        elapsed = max(now - self.started, 1e-6)
        work_total = self.total - self.before if self.work is None else self.work
        left = elapsed * (work_total - self.work_done) / max(self.work_done, 1)
        self.stage.log(
            f"{self.stage.name}: {there:,}/{self.total:,} {self.what}, {self.rows / elapsed:.0f} {self.what}/s"
            + ("" if finished else f", about {left:.0f} s left")
        )
