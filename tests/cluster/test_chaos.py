"""Calls between processes that get lost, an object store far too small, a stranger's cluster, and secrets near everything."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.end_to_end.test_ray_job import make_config

ROOT = Path(__file__).parents[2]
CANARY = "sk-canary-0123456789"
SMALL = [
    "catalog.demo={n_items: 60, n_users: 120, n_intents: 6}",
    "semantic_ids.codebook_size=8",
    "recommender.decoder={hidden_size: 16, num_layers: 1, num_heads: 2, ffn_size: 32}",
    "sft={epochs: 3, valid_users: 50, threads_per_worker: 1}",
    "evaluation={n_bootstrap: 20, unconstrained: false}",
    "baselines.run=[]",
    "grpo=null",
]


def run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env=clean | {"PYTHONPATH": str(ROOT)} | env,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )


INTERESTS = {"interests.parquet", "merged.parquet"}
VARIES = {
    "curves.json",
    *INTERESTS,
}  # seconds; cosines, whose last digit follows which texts stood in a batch


def files_of(store: Path) -> dict[str, dict]:
    """Stage -> file -> its checksum, of the files that are the same in every run."""
    found = {}
    for path in store.glob("*/*/manifest.json"):
        files = json.loads(path.read_text())["files"]
        found[path.parts[-3]] = {name: listed for name, listed in files.items() if name not in VARIES}
    return found


def interests_of(store: Path) -> dict[str, list]:
    """File -> who found what with which confidence, one row after the other."""
    found = {}
    for path in store.glob("item_interests/*/*.parquet"):
        if path.name in INTERESTS:
            rows = pq.read_table(path).to_pylist()
            entries = [(row["subject_id"], row.get("descriptors") or row.get("interests")) for row in rows]
            found[path.name] = [(who, [e["text"] for e in them or ()]) for who, them in entries]
            found[f"{path.name}, confidences"] = [e["confidence"] for _, them in entries for e in them or ()]
    return found


@pytest.fixture(scope="module")
def calm(tmp_path_factory) -> Path:
    store = tmp_path_factory.mktemp("calm")
    done = run("jobs/pipeline.py", "demo", *SMALL, f"store={store}", "--until", "evaluation")
    assert done.returncode == 0, done.stdout + done.stderr
    return store


@pytest.mark.slow
@pytest.mark.parametrize(
    ("until", "most", "percent"),
    [("semantic_ids", 100, 25), ("evaluation", 4, 10)],  # training's own calls inside Ray Train bear less
)
def test_lost_calls_between_processes_change_nothing(calm, tmp_path, until, most, percent) -> None:
    """Of the first pushes of a task some are lost, and of their answers, in every process."""
    lost = {
        "num_failures": most,
        "req_failure_prob": percent,
        "resp_failure_prob": percent,
        "in_flight_failure_prob": 0,
    }
    chaos = json.dumps({"CoreWorkerService.grpc_client.PushTask": lost})
    store = tmp_path / "store"
    words = ("jobs/pipeline.py", "demo", *SMALL, f"store={store}", "--until", until)
    done = run(*words, RAY_testing_rpc_failure=chaos)
    assert done.returncode == 0, done.stdout + done.stderr
    found = files_of(store)
    assert found == {stage: files for stage, files in files_of(calm).items() if stage in found}
    mined, undisturbed = interests_of(store), interests_of(calm)
    assert len(mined) == 4 and mined.keys() == undisturbed.keys()
    for name, entries in mined.items():
        if name.endswith("confidences"):
            assert entries == pytest.approx(undisturbed[name], abs=2e-4)
        else:
            assert entries == undisturbed[name]


CRAMPED = """
import sys
from dig_ray.on_ray.session import RayConfig, set_environment

set_environment(RayConfig())
import ray

ray.init(address="local", num_cpus=4, object_store_memory=80 * 1024**2, include_dashboard=False, log_to_driver=False)
from pathlib import Path
from dig_ray.config import load_config
from dig_ray.pipeline import run_pipeline

run_pipeline(load_config(sys.argv[1], sys.argv[2:], Path("jobs/configs")), until="embedding")
"""


@pytest.mark.slow
def test_an_object_store_smaller_than_the_data_slows_a_run_and_no_more(tmp_path) -> None:
    """40,000 items of 4 kB, 160 MB, through 80 MB."""
    text = "kettle" * 670  # one word: 160 MB of sentences would be minutes of tokenizing
    items = tmp_path / "items.jsonl"
    with items.open("w") as out:
        for n in range(40_000):
            out.write(json.dumps({"item_id": f"i{n}", "title": f"kettle {n}", "description": text}) + "\n")
    config = tmp_path / "big.yaml"
    config.write_text(
        f"catalog:\n  source: table\n  items: {{path: {items}}}\n"
        "embedding: {max_seq_length: 8, batch_size: 512, rows_per_part: 4096}\n"
    )
    done = run("-c", CRAMPED, str(config), f"store={tmp_path / 'store'}")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    manifest = json.loads(next((tmp_path / "store" / "embedding").glob("*/manifest.json")).read_text())
    assert manifest["stats"]["rows"] == 40_000


@pytest.mark.slow
def test_a_strangers_cluster_is_left_alone(running_cluster, tmp_path) -> None:
    """Ray on this machine that somebody else has started, and that `ray.init()` would join."""
    config = make_config(tmp_path)
    done = run("jobs/baselines.py", str(config), f"store={tmp_path / 'store'}")
    assert done.returncode == 0, done.stderr
    assert "on its own Ray: 8 CPUs" in done.stdout  # the stranger's has 4


@pytest.mark.slow
def test_a_secret_reaches_no_file_no_line_and_no_log_of_ray(tmp_path) -> None:
    """A whole run with secrets in its environment, then one that fails in the middle."""
    temporary = Path(tempfile.mkdtemp(prefix="ray"))
    secrets = {
        "OPENAI_API_KEY": CANARY,
        "HF_TOKEN": f"hf_{CANARY}",
        "AWS_SECRET_ACCESS_KEY": f"aws{CANARY}",
        "RAY_TMPDIR": str(temporary),
    }
    settings = [*SMALL, f"store={tmp_path / 'store'}"]
    whole = run("jobs/pipeline.py", "demo", *settings, **secrets)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    miner = (
        "mining.items=[{engine: openai, name: m, model: m, base_url: 'http://127.0.0.1:9/v1', max_tries: 1}]"
    )
    failing = run(
        "jobs/mine.py",
        "demo",
        *settings,
        miner,
        f"store={tmp_path / 'failing'}",
        "mining.max_failed=0",
        **secrets,
    )
    assert failing.returncode == 1 and "Traceback" not in failing.stderr
    said = whole.stdout + whole.stderr + failing.stdout + failing.stderr
    assert CANARY not in said
    found = [
        path
        for folder in (tmp_path, temporary)
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and CANARY.encode() in path.read_bytes()
    ]
    assert list(temporary.rglob("*.log")) and not found
    shutil.rmtree(temporary, ignore_errors=True)
