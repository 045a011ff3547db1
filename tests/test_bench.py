"""A bench says what it missed, on paper and in its exit code."""

from __future__ import annotations

import json

from dig_ray.bench import conclude

TARGETS = {"speedup": (">=", 5.0), "difference": ("<=", 1e-5)}


def last_line(capsys) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_targets_that_are_met_exit_0(capsys) -> None:
    assert conclude("x", {"speedup": 5.0, "difference": 0.0, "seconds": {"ours": 1.0}}, TARGETS) == 0
    said = last_line(capsys)
    assert said["ok"] and said["missed"] == [] and said["figures"]["seconds"] == {"ours": 1.0}


def test_a_missed_target_exits_1(capsys) -> None:
    assert conclude("x", {"speedup": 4.99, "difference": 0.0}, TARGETS) == 1
    assert last_line(capsys)["missed"] == ["speedup"]


def test_not_measured_and_not_a_number_are_missed(capsys) -> None:
    assert conclude("x", {"difference": float("nan")}, TARGETS) == 1
    assert set(last_line(capsys)["missed"]) == {"speedup", "difference"}
