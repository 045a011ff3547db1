"""A whole run whose store is on S3: answers, parts and Ray Train's checkpoints too."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.object_storage.conftest import S3, SECRET

ROOT = Path(__file__).parents[2]
TINY = [
    "catalog.demo={n_items: 60, n_users: 120, n_intents: 6}",
    "semantic_ids.codebook_size=8",
    "recommender.decoder={hidden_size: 16, num_layers: 1, num_heads: 2, ffn_size: 32}",
    "sft={epochs: 3, valid_users: 50, threads_per_worker: 1}",
    "baselines.run=[]",
]


@pytest.mark.slow
def test_a_run_on_s3_is_found_from_another_machine(s3: S3, tmp_path: Path) -> None:
    command = [sys.executable, "jobs/pipeline.py", "demo", *TINY, f"store={s3.root}", "--until", "sft"]
    said = []
    for machine in ("one", "two"):
        begun = time.monotonic()
        env = os.environ | {"XDG_CACHE_HOME": str(tmp_path / machine)}
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, check=False)
        assert done.returncode == 0, done.stderr
        said.append((done.stdout, time.monotonic() - begun))
    assert "5 stages, 5 run" in said[0][0]
    assert "5 stages, 0 run" in said[1][0]
    assert said[1][1] < 30
    assert not [key for key in s3.objects() if key.startswith((".work/", ".locks/"))]
    read = [p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()]
    assert not [content for content in read if SECRET.encode() in content]
