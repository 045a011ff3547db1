"""No silence: while something works and says nothing, it is said that it goes on; and only then."""

from __future__ import annotations

import time

import pytest

from dig_ray.guards import heartbeat
from dig_ray.guards.heartbeat import Voice


def test_silence_is_broken_and_speech_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "SILENCE_S", 0.6)
    lines: list[str] = []
    voice = Voice(lines.append)
    with voice.at_work("sft"):
        for number in range(4):
            voice.say(f"epoch {number}")
            time.sleep(0.3)
        assert lines == [f"epoch {number}" for number in range(4)]
        time.sleep(1.6)
    beats = lines[4:]
    assert beats and all(
        line.startswith("sft: still at work, ") and line.endswith(" s so far") for line in beats
    )
    time.sleep(1.2)
    assert lines[4:] == beats  # nobody speaks of what is over


def test_it_ends_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "SILENCE_S", 0.2)
    lines: list[str] = []
    with pytest.raises(KeyboardInterrupt), Voice(lines.append).at_work("x"):
        raise KeyboardInterrupt
    time.sleep(1.0)
    assert not lines
