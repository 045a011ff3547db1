"""Descendants of a process are found and ended, and nobody else."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


FAMILY = """
import subprocess, sys, time
from dig_ray.guards.offspring import end, offspring

nested = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
child = subprocess.Popen([sys.executable, "-c", nested])
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
        sys.exit(0)
    time.sleep(0.1)
sys.exit("a descendant is left")
"""


def test_children_of_children_are_found_and_ended() -> None:
    """In a process of its own, which has no other descendants such as a Ray that other tests share."""
    done = subprocess.run([sys.executable, "-c", FAMILY], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
