"""A whole node is killed while a stage runs on it: the run ends by itself, and its artifact is that of an undisturbed run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow
SETTINGS = [
    "catalog.demo={n_items: 120, n_users: 400, n_intents: 8}",
    "mining.items=[]",
    "semantic_ids.codebook_size=8",
    "recommender.decoder={hidden_size: 32, num_layers: 2, num_heads: 2, ffn_size: 64}",
    "sft={epochs: 8, valid_users: 100, threads_per_worker: 1, max_failures: 3, patience: 99}",
    "grpo={max_prompts: 640, prompts_per_step: 8, num_generations: 8, eval_every_steps: 8, valid_users: 60, "
    "threads_per_worker: 1, patience: 99, max_failures: 3}",
    "evaluation={n_bootstrap: 20, unconstrained: false, batch_size: 4}",
    "embedding={rows_per_part: 4, batch_size: 4}",
    "baselines.run=[]",
]


def command(
    store: Path, *settings: str, job: str = "jobs/pipeline.py", until: str = "evaluation"
) -> list[str]:
    more = ["--until", until] if job == "jobs/pipeline.py" else []
    return [sys.executable, job, "demo", *SETTINGS, f"store={store}", *settings, *more]


def environment() -> dict[str, str]:
    kept = ("RAY_AUTH_MODE", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")  # as the tests' own cluster has them
    return {key: value for key, value in os.environ.items() if not key.startswith("RAY_") or key in kept}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A copy: an edit during these minutes would rightly change fingerprints."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("dig_ray", "jobs"):
        shutil.copytree(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def calm(project, tmp_path_factory) -> Path:
    """The store of a run that nothing disturbed."""
    store = tmp_path_factory.mktemp("calm")
    done = subprocess.run(
        command(store),
        cwd=project,
        env=environment() | {"PYTHONPATH": str(project)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return store


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head without work and two nodes with four processors each, on this machine."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    made.at_work = [made.add_node(num_cpus=4), made.add_node(num_cpus=4)]  # type: ignore[attr-defined]
    made.wait_for_nodes()
    yield made
    made.shutdown()


def working(node: Any, words: tuple[str, ...]) -> bool:
    """Whether a process of this name runs on a node."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    names = []
    for process in raylet.children(recursive=True):
        try:
            names.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return any(word in name for name in names for word in words)


MEASURED = ("step", "loss", "eval_ndcg@10", "eval_hr@10", "reward", "kl")


def files_of(store: Path, stage: str) -> list[Any]:
    return [json.loads(path.read_text())["files"] for path in sorted((store / stage).glob("*/manifest.json"))]


def curves_of(store: Path, stage: str) -> list[dict[str, float]]:
    """What was measured at every step."""
    (path,) = (store / stage).glob("*/curves.json")
    return [{k: v for k, v in one.items() if k in MEASURED} for one in json.loads(path.read_text())]


def strike(
    cluster: Any, process: subprocess.Popen[str], begun: Callable[[], bool], words: tuple[str, ...]
) -> None:
    """Kill the node on which the work is, once it has begun; another one joins."""
    deadline = time.monotonic() + 300
    struck = None
    while struck is None:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        if begun():
            struck = next((node for node in cluster.at_work if working(node, words)), None)
        time.sleep(0.05)
    cluster.remove_node(struck, allow_graceful=False)
    cluster.add_node(num_cpus=4)


def begin(project: Path, cluster: Any, words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*words, f"ray.address={cluster.address}"],
        cwd=project,
        env=environment() | {"PYTHONPATH": str(project)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize(
    ("stage", "begun", "words"),
    [
        ("embedding", ".work/embedding-*/*", ("MapWorker", "Map")),
        ("sft", ".work/sft-*/*/checkpoint_*/checkpoint/trainer_state.json", ("TrainWorker",)),
        ("grpo", ".work/grpo-*/*/checkpoint_*/checkpoint/trainer_state.json", ("TrainWorker",)),
        ("recommend", ".work/recommend-*/*", ("MapWorker", "Map")),
    ],
)
def test_a_stage_outlives_its_node(project, calm, cluster, tmp_path, stage, begun, words) -> None:
    store = tmp_path / "store"
    shutil.copytree(calm, store)
    order = [path.name for path in calm.iterdir()]
    later = {"embedding": [], "sft": ["grpo"], "grpo": [], "recommend": []}[stage]
    for name in (stage, *later, "recommend", "evaluation", ".work", ".verified"):
        if name in order:
            shutil.rmtree(store / name, ignore_errors=True)
    process = begin(project, cluster, command(store, until=stage))
    strike(cluster, process, lambda: any(store.glob(begun)), words)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    if stage in ("sft", "grpo"):  # the last bits of a sum are the processor's
        assert curves_of(store, stage) == [pytest.approx(one, abs=1e-3) for one in curves_of(calm, stage)]
    else:
        assert files_of(store, stage) == files_of(calm, stage)


def test_a_sweep_outlives_a_node(project, calm, cluster, tmp_path) -> None:
    store = tmp_path / "store"
    shutil.copytree(calm, store)
    for name in ("sft", "grpo", "recommend", "evaluation"):
        shutil.rmtree(store / name, ignore_errors=True)
    more = ["sft.learning_rate=choice(0.001, 0.002, 0.003)", "include_base=false", "--search", "grid"]
    words = command(store, *more, job="jobs/sweep.py")
    process = begin(project, cluster, words)
    strike(
        cluster,
        process,
        lambda: any(store.glob(".work/sft-*/*/checkpoint_*/checkpoint/trainer_state.json")),
        ("TrainWorker",),
    )
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    report = json.loads(next((store / "sweep").glob("*/sweep.json")).read_text())
    assert len(report["trials"]) == 3 and all(row["complete"] for row in report["trials"])
    default = [row for row in report["trials"] if row["point"]["sft.learning_rate"] == 0.002]
    known = json.loads(next((calm / "sft").glob("*/manifest.json")).read_text())["stats"]
    assert default[0]["figures"]["eval_ndcg@10"] == pytest.approx(known["valid_ndcg_at_10"], abs=1e-3)
