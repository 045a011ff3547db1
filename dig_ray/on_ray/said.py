"""What a training run says while nothing else does: within ten seconds, what is going on and for how long."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

GOES_ON = "the same command goes on from the last checkpoint"
"""In sentences of runs that may do better another time, so that a sweep does not hold it against their settings."""
SECONDS = 7.0  # lines come through a queue, which is looked at every second


class Said:
    """Prints lines, and where none came for a while, what is going on.

    Args:
        log: prints one line.
        name: the stage's name, which lines begin with.
        now: what is going on at the beginning.
        seconds: after so many seconds without a line it is said what is going on.
    """

    def __init__(self, log: Callable[[str], None], name: str, now: str, seconds: float = SECONDS) -> None:
        self.log, self.name, self.seconds = log, name, seconds
        self.now = now
        self.since = self.last = time.monotonic()

    def line(self, text: str) -> None:
        """Print a line."""
        self.last = time.monotonic()
        self.log(text)

    def begin(self, now: str) -> None:
        """Something else is going on from now on."""
        self.now, self.since = now, time.monotonic()

    def tick(self) -> None:
        """Say what is going on, if nothing was said for long; to be called now and then."""
        at = time.monotonic()
        if at - self.last >= self.seconds:
            self.line(f"{self.name}: {self.now}, for {at - self.since:.0f} s now")


def doing(say: Callable[[Any], None], now: str) -> None:
    """In a worker: tell the driver what is going on, through ``teller`` of the lines' queue; printed only if it takes long."""
    say({"now": now})
