"""A whole run whose store is on S3: answers, parts and Ray Train's checkpoints too."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dig_ray.artifacts.store import Store
from tests.object_storage.conftest import S3, SECRET
from tests.object_storage.faulty_proxy import FaultyProxy

ROOT = Path(__file__).parents[2]
TINY = [
    "catalog.demo={n_items: 60, n_users: 120, n_intents: 6}",
    "semantic_ids.codebook_size=8",
    "recommender.decoder={hidden_size: 16, num_layers: 1, num_heads: 2, ffn_size: 32}",
    "sft={epochs: 3, valid_users: 50, threads_per_worker: 1}",
    "baselines.run=[]",
]
LONG = "sft={epochs: 30, patience: 30, valid_users: 50, threads_per_worker: 1}"


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


def pipeline(*words: str, cache: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-u", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | {"XDG_CACHE_HOME": str(cache)}, **pipes)


def until(process: subprocess.Popen[str], text: str) -> str:
    """What a job prints up to the first line with a text."""
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if text in line:
            return said
    raise AssertionError(said + (process.stderr.read() if process.stderr else ""))


@pytest.fixture(scope="module")
def on_a_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, undisturbed."""
    store = tmp_path_factory.mktemp("disk")
    words = ["jobs/pipeline.py", "demo", *TINY, LONG, f"store={store}", "--until", "sft"]
    assert pipeline(*words, cache=store / "cache").wait(300) == 0
    return store


@pytest.mark.slow
def test_killed_with_all_its_workers_it_goes_on(s3: S3, tmp_path: Path, on_a_disk: Path) -> None:
    words = ["jobs/pipeline.py", "demo", *TINY, LONG, f"store={s3.root}", "--until", "sft"]
    first = pipeline(*words, cache=tmp_path / "one")
    until(first, "epoch 5")
    first.kill()
    first.wait()
    second = pipeline(*words, cache=tmp_path / "two")  # on another machine, whose cache is empty
    said, error = second.communicate(timeout=300)
    assert second.returncode == 0, error
    assert "5 stages, 1 run" in said and "sft: going on after step" in said, said
    assert same_policy(s3, tmp_path, on_a_disk)


@pytest.mark.slow
def test_a_store_that_is_down_while_it_trains(
    s3: S3, tmp_path: Path, on_a_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For 20 seconds, and then for good: it goes on, or ends in one sentence and the same command goes on."""
    proxy = FaultyProxy(s3.port)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    words = ["jobs/pipeline.py", "demo", *TINY, LONG, f"store={s3.root}", "--until", "sft"]
    first = pipeline(*words, cache=tmp_path / "one")
    until(first, "epoch 5")
    proxy.stop()
    said, error = first.communicate(timeout=400)
    assert first.returncode == 1 and "Traceback" not in error, error
    assert error.count("error: ") == 1 and "does not answer" in error
    proxy.start()
    second = pipeline(*words, cache=tmp_path / "one")
    until(second, "epoch 15")
    proxy.stop()
    time.sleep(20)
    proxy.start()
    said, error = second.communicate(timeout=400)
    if second.returncode:
        assert error.count("error: ") == 1 and "Traceback" not in error, error
        second = pipeline(*words, cache=tmp_path / "one")
        said, error = second.communicate(timeout=400)
    assert second.returncode == 0, error
    assert same_policy(s3, tmp_path, on_a_disk)
    proxy.end()


@pytest.mark.slow
def test_a_sweep_on_s3_killed_goes_on_from_another_machine(s3: S3, tmp_path: Path) -> None:
    words = ["jobs/sweep.py", "demo", *TINY, f"store={s3.root}", "target=semantic_ids", "--search", "grid"]
    words += ["semantic_ids.levels=choice(1, 2, 3)", "semantic_ids.method=rqvae", "max_concurrent=1"]
    words += ["semantic_ids.rqvae={hidden: [32], latent: 8, epochs: 300, batch_size: 64}"]

    def published() -> set[str]:
        return {
            key for key in s3.objects() if key.startswith("semantic_ids/") and key.endswith("manifest.json")
        }

    first = pipeline(*words, cache=tmp_path / "one")
    until(first, "1 of 3 trials done")
    first.kill()
    first.wait()
    before = published()
    second = pipeline(*words, cache=tmp_path / "two")
    said, error = second.communicate(timeout=400)
    assert second.returncode == 0, error
    assert "going on with the trials of an earlier try" in said, said
    assert len(before) >= 1 and len(published()) == 3
    third = pipeline(*words, cache=tmp_path / "two")
    said, error = third.communicate(timeout=100)
    assert third.returncode == 0 and "found" in said, said + error
    assert not [key for key in s3.objects() if key.startswith((".work/", ".locks/"))]


def same_policy(s3: S3, tmp_path: Path, disk: Path) -> bool:
    """Whether the run on S3 published what the run on a disk did: the same weights, bit for bit."""
    weights = "policy/model.safetensors"
    found = Store(s3.root, cache=tmp_path / "reader")
    key = next(key for key in s3.objects() if key.startswith("sft/") and key.endswith("manifest.json"))
    policy = found.find("sft", key.split("/")[1])
    assert policy is not None
    return (policy.path / weights).read_bytes() == next(disk.glob(f"sft/*/{weights}")).read_bytes()
