"""Processes that this one has started, and theirs (Linux): who is cut off while Ray starts takes all of them down."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def offspring() -> list[tuple[int, str]]:
    """(process, start time in ticks) of all descendants of this process; [] where the system does not tell."""
    children: dict[int, list[tuple[int, str]]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            fields = stat.read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append((int(stat.parent.name), fields[19]))
    found, todo = [], [os.getpid()]
    while todo:
        for child in children.get(todo.pop(), []):
            found.append(child)
            todo.append(child[0])
    return found


def end(processes: Iterable[tuple[int, str]]) -> None:
    """Send SIGTERM to those that are still there; a later process of the same number is left alone."""
    for number, started in processes:
        with suppress(OSError, IndexError):
            if Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[19] == started:
                os.kill(number, signal.SIGTERM)
