"""A run is never silent for long: where a stage has said nothing for some seconds, it is said that it goes on, and for how long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SILENCE_S = 8.0
"""Seconds without a line after which one is said."""


class Voice:
    """Prints lines, and while something is done and nothing is said, that it goes on.

    Args:
        log: prints one line.
    """

    def __init__(self, log: Callable[[str], None]) -> None:
        self.log = log
        self.last = time.monotonic()

    def say(self, line: str) -> None:
        """Print a line."""
        self.last = time.monotonic()
        self.log(line)

    @contextmanager
    def at_work(self, what: str) -> Iterator[None]:
        """Say of ``what`` now and then that it goes on, while the block runs and says nothing else."""
        began = self.last = time.monotonic()
        over = threading.Event()

        def beat() -> None:
            while not over.wait(0.5):
                now = time.monotonic()
                if now - self.last >= SILENCE_S and not over.is_set():
                    self.say(f"{what}: still at work, {now - began:.0f} s so far")

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(timeout=1)
