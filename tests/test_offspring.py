"""Descendants of a process are found and ended, and nobody else."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from dig_ray.offspring import end, offspring

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_children_of_children_are_found_and_ended() -> None:
    nested = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    child = subprocess.Popen([sys.executable, "-c", nested])
    try:
        for _ in range(100):
            found = offspring()
            if len(found) >= 2:
                break
            time.sleep(0.1)
        assert child.pid in [number for number, _ in found] and len(found) >= 2
        end([(child.pid, "0")])  # an older process had that number
        assert child.poll() is None
        end(found)
        assert child.wait(timeout=10) != 0
        for _ in range(50):
            if not {number for number, _ in offspring()} & {number for number, _ in found}:
                return
            time.sleep(0.1)
        raise AssertionError("a descendant is left")
    finally:
        child.kill()
        child.wait()
