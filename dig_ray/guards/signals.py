"""How a run ends that is asked to: SIGTERM as ^C, with one sentence and exit code 130, whatever it is doing.

The first signal raises ``KeyboardInterrupt`` in the main thread, so that locks are freed, what is half-written is removed and Ray goes
down; what was done stays, and the same command goes on. A second one, a moment later, ends the process at once. Ray puts handlers of its
own in place when it starts (its core prints a stack of C++ at SIGTERM), so whoever starts it calls ``keep`` afterwards.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

INTERRUPTED = 130
"""Exit code, for both signals: 128 + SIGINT."""
SAME_SECONDS = 1.0
"""Signals so close are one: ``timeout`` and terminals send theirs to a process and to its group."""
_ASKED = (signal.SIGTERM, signal.SIGINT)
_first: tuple[signal.Signals, float] | None = None
_active = False


def _handle(number: int, frame: FrameType | None) -> None:
    global _first
    now = time.monotonic()
    if _first is None:
        _first = signal.Signals(number), now
        raise KeyboardInterrupt
    if now - _first[1] > SAME_SECONDS:
        with suppress(OSError):
            os.write(2, b"ended at once; run the same command again to go on from here\n")
        os._exit(INTERRUPTED)


def active() -> bool:
    """Whether a job's handlers are in place."""
    return _active


def note_exit() -> None:
    """That another handler than ours, Ray's while it starts, has taken a SIGTERM and made the process exit."""
    global _first
    if _first is None and _active:
        _first = signal.SIGTERM, time.monotonic()
    keep()


def asked_by() -> str:
    """Name of the signal that asked to end, such as ``SIGTERM``; "" where none did."""
    return "" if _first is None else _first[0].name


@contextmanager
def ending_well() -> Iterator[None]:
    """Take both signals for the time of the block; in another thread than the main one, where none arrive, nothing happens."""
    global _first, _active
    if threading.current_thread() is not threading.main_thread() or _active:
        yield
        return
    before = {one: signal.getsignal(one) for one in _ASKED}
    _first, _active = None, True
    keep()
    try:
        yield
    finally:
        _active = False
        for one, handler in before.items():
            signal.signal(one, handler if handler is not None else signal.SIG_DFL)


def keep() -> None:
    """Put the handlers back that others replaced; nothing where no job runs or this is not the main thread."""
    if _active and threading.current_thread() is threading.main_thread():
        for one in _ASKED:
            signal.signal(one, _handle)
