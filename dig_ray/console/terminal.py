"""Lines for people, and on a terminal one last line that is written over."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TextIO

from dig_ray.guards.redaction import hide


class Terminal:
    """Prints lines as they are; ``now`` only shows where somebody is looking.

    Args:
        stream: where to; standard output by default.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = sys.stdout if stream is None else stream
        self.live = self.stream.isatty() and os.environ.get("TERM") != "dumb"
        self._shown = False

    def say(self, line: str) -> None:
        """Print a line to stay."""
        self.clear()
        print(hide(line), file=self.stream, flush=True)

    def now(self, line: str) -> None:
        """Show a line in place of the last one, cut to the terminal's width."""
        if self.live:
            width = shutil.get_terminal_size().columns
            print(f"\r{line[: width - 1]}\033[K", end="", file=self.stream, flush=True)
            self._shown = True

    def clear(self) -> None:
        """Take the last ``now`` away."""
        if self._shown:
            print("\r\033[K", end="", file=self.stream, flush=True)
            self._shown = False
