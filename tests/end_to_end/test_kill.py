"""kill -9 in the middle of embedding and of SFT; the same command again ends as an uninterrupted run does."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.end_to_end.small import SMALL

ROOT = Path(__file__).parents[2]


def start(config: Path, store: Path) -> subprocess.Popen[str]:
    project = config.parent
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return subprocess.Popen(
        [sys.executable, "jobs/pipeline.py", str(config), f"store={store}", "--until", "evaluation"],
        cwd=project, env=env | {"PYTHONPATH": str(project)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return output


def kill_when(process: subprocess.Popen[str], store: Path, pattern: str) -> None:
    """SIGKILL as soon as something in the store's working directories matches."""
    while process.poll() is None:
        if any((store / ".work").glob(pattern)):
            process.send_signal(signal.SIGKILL)
            process.communicate()
            return
        time.sleep(0.01)
    raise AssertionError(f"it ended before it could be killed:\n{process.communicate()[0]}")


@pytest.mark.slow
def test_killed_twice_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    for name in ("dig_ray", "jobs"):  # an edit during these minutes would rightly change fingerprints
        shutil.copytree(ROOT / name, tmp_path / name)
    config = tmp_path / "small.yaml"
    config.write_text(SMALL)
    killed, clean = tmp_path / "killed", tmp_path / "clean"
    kill_when(start(config, killed), killed, "embedding-*/*.parquet")
    assert not list(killed.glob("embedding/*/manifest.json"))
    kill_when(start(config, killed), killed, "sft-*/*/checkpoint_*/**/model.safetensors")
    assert list(killed.glob("embedding/*/manifest.json")) and not list(killed.glob("sft/*/manifest.json"))
    output = finish(start(config, killed))
    assert "embedding" in output and "found" in output
    finish(start(config, clean))
    for name in (
        "embeddings.parquet",
        "semantic_ids.parquet",
        "recommendations_policy_seen.parquet",
        "metrics.json",
    ):
        (left,), (right,) = (list(store.glob(f"*/*/{name}")) for store in (killed, clean))
        assert left.read_bytes() == right.read_bytes(), name
    assert not any((killed / ".work").iterdir()) and not any((killed / ".staging").iterdir())
