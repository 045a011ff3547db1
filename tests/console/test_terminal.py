"""What a person sees on a terminal, and what a file gets."""

from __future__ import annotations

import io
import os
import pty

from dig_ray.console.terminal import Terminal


def test_on_a_terminal_one_line_is_written_over(monkeypatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "20")
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as stream:
        terminal = Terminal(stream)
        assert terminal.live
        terminal.now("1 of 9 trials done, and more than fits")
        terminal.now("2 of 9 trials done")
        terminal.say("a line that stays")
        terminal.clear()
        seen = _read_until(leader, b"\n")
    os.close(leader)
    erase = "\x1b[K"
    assert seen == (f"\r1 of 9 trials done,{erase}\r2 of 9 trials done{erase}\r{erase}a line that stays\r\n")


def _read_until(leader: int, end: bytes) -> str:
    """What a pseudo-terminal shows up to ``end``: one read gives only what has already come through."""
    seen = b""
    while not seen.endswith(end):
        seen += os.read(leader, 4096)
    return seen.decode()


def test_a_file_gets_lines_alone() -> None:
    stream = io.StringIO()
    terminal = Terminal(stream)
    terminal.now("2 of 9 trials done")
    terminal.say("a line")
    assert not terminal.live and stream.getvalue() == "a line\n"
