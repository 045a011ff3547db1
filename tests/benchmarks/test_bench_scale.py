"""The bench of scale on a catalogue of 20,000 items: the whole chain of stages in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_twenty_thousand_items_go_through_all_stages(tmp_path) -> None:
    command = [sys.executable, "benchmarks/bench_scale.py", "--items", "20000", "--interactions", "100000"]
    done = subprocess.run(
        [*command, "--users", "64", "--folder", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])["figures"]
    assert figures["catalog"]["interactions"] == 100_000
    assert (
        figures["catalog"]["test_cases"] == figures["catalog"]["users"] == figures["documents"]["documents"]
    )
    assert figures["decoding"]["users"] == 64 and figures["invalid_items"] == 0
    steps = ("catalog", "embedding", "semantic_ids", "prefix_table", "documents", "decoding")
    assert all(figures[step]["peak_gib"] > 0.05 and figures[step]["cpu_seconds"] > 0.1 for step in steps)
    assert (tmp_path / "semantic_ids" / "semantic_ids.parquet").is_file()


def test_sizes_that_make_no_catalogue_are_refused(tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/bench_scale.py", "--items", "5"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "--items must be at least 100" in done.stderr
