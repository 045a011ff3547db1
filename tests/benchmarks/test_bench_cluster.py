"""The benches of Ray's part, small: every row comes back, every node works, and the figures are those of the rows that were asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.common import family_memory

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def figures(*command: str) -> dict[str, Any]:
    """Of a bench that ran through; at these sizes its targets say nothing."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode in (0, 1) and "Traceback" not in done.stderr, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])["figures"]
    return found


def test_the_stage_runs_on_one_node_and_on_three() -> None:
    before = family_memory()
    found = figures("benchmarks/bench_cluster.py", "--nodes", "1", "3", "--rows", "5120")
    for nodes in (1, 3):
        assert found[f"{nodes}_nodes_cluster"]["nodes"] == nodes
        assert found[f"{nodes}_nodes_4n"]["rows"] == 4 * found[f"{nodes}_nodes_n"]["rows"] == 20_480
        assert found[f"{nodes}_nodes_4n"]["driver_cpu_ms_per_1000_rows"] > 1
    # one node, as slow as three were
    assert found["as_slow_4n"]["seconds"] >= 0.7 * found["3_nodes_4n"]["seconds"]
    assert found["as_slow_4n"]["driver_cpu_ms_per_1000_rows"] > 1
    assert found["1_nodes_cluster"]["nodes_that_worked"] == 1
    assert found["3_nodes_cluster"]["nodes_that_worked"] >= 2
    assert family_memory() < before + (100 << 20)  # no node is left behind


def test_what_ray_data_adds_is_measured_for_every_stage_that_runs_on_it() -> None:
    found = figures("benchmarks/bench_ray_data.py", "--scale", "0.01")
    for stage in ("embedding", "image_embedding", "mining", "decoding"):
        assert found[stage]["rows"] >= 2_048
        assert found[f"{stage}_ms_per_row"] < 50
