"""A bench says what it missed, on paper and in its exit code."""

from __future__ import annotations

import json
import subprocess
import sys

from benchmarks.common import conclude, family_cpu_seconds, family_memory

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


def test_what_a_child_takes_is_counted_while_it_runs_and_after_it_ended() -> None:
    memory, seconds = family_memory(), family_cpu_seconds()
    code = "import time\nblock = bytearray(b'x') * (200 << 20)\nwhile time.process_time() < 1: pass\nprint(flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        child.stdout.readline()
        assert family_memory() - memory > 190 << 20
        running = family_cpu_seconds() - seconds
        child.communicate(b"\n")
    assert 0.9 < running < 5
    assert 0.9 < family_cpu_seconds() - seconds < 5
