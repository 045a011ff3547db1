"""The same command through ``ray job submit`` on a running cluster: it joins that cluster and publishes the same."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# in a process of its own: a cluster with a dashboard, and a job submitted to it from a copy of the project
DRIVER = """
import sys, time
import ray
from ray.job_submission import JobSubmissionClient

root, command = sys.argv[1], sys.argv[2]
context = ray.init(address="local", num_cpus=4, include_dashboard=True, dashboard_host="127.0.0.1", log_to_driver=False)
client = JobSubmissionClient("http://" + context.dashboard_url)
for attempt in range(20):  # just after the start there may be no agent yet
    try:
        job = client.submit_job(
            entrypoint=f"{sys.executable} {command}",
            runtime_env={"working_dir": root, "excludes": ["shared", "runs", ".git", "tests"]},
        )
        break
    except RuntimeError:
        time.sleep(1)
while not (status := client.get_job_status(job)).is_terminal():
    time.sleep(0.5)
print(client.get_job_logs(job))
print("STATUS", status.value, ray.cluster_resources()["CPU"])
ray.shutdown()
"""


def make_config(folder: Path) -> Path:
    users = [f"u{u}" for u in range(30) for _ in range(6)]
    items = [f"i{(u * 3 + n) % 20}" for u in range(30) for n in range(6)]
    rows = "".join(f"{u},{i},{n}\n" for n, (u, i) in enumerate(zip(users, items, strict=True)))
    (folder / "events.csv").write_text("user_id,item_id,timestamp\n" + rows)
    (folder / "items.csv").write_text("item_id,title\n" + "".join(f"i{i},thing {i}\n" for i in range(20)))
    config = folder / "small.yaml"
    config.write_text(
        f"catalog:\n  source: table\n  items: {{path: {folder}/items.csv}}\n"
        f"  interactions: {{path: {folder}/events.csv}}\n"
        "baselines: {run: [popularity]}\n"
    )
    return config


def submitted(command: str) -> list[str]:
    return [sys.executable, "-c", DRIVER, str(ROOT), command]


def run(command: list[str]) -> str:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=clean | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_through_ray_job_submit(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    commands = {
        "here": [sys.executable, "jobs/baselines.py", str(config), f"store={tmp_path}/here"],
        "there": submitted(f"jobs/baselines.py {config} store={tmp_path}/there"),
    }
    output = {name: run(command) for name, command in commands.items()}
    assert "on its own Ray" in output["here"]
    assert "STATUS SUCCEEDED" in output["there"], output["there"]
    assert "on Ray at " in output["there"] and ": 4 CPUs" in output["there"]
    tables = [
        {(p.parts[-3], p.name): p.read_bytes() for p in (tmp_path / name).glob("*/*/*.parquet")}
        for name in commands
    ]
    assert tables[0] == tables[1] and tables[0]


@pytest.mark.slow
def test_a_sweep_through_ray_job_submit(tmp_path: Path) -> None:
    settings = [
        "catalog.demo={n_items: 60, n_users: 120, n_intents: 6}",
        "semantic_ids.codebook_size=8",
        "recommender.decoder={hidden_size: 16, num_layers: 1, num_heads: 2, ffn_size: 32}",
        "sft={epochs: 2, valid_users: 50, threads_per_worker: 1}",
        "sft.learning_rate=choice(0.001, 0.003)",
        "include_base=false",
        f"store={tmp_path}/there",
    ]
    said = run(submitted(f"jobs/sweep.py demo --search grid {shlex.join(settings)}"))
    assert "STATUS SUCCEEDED" in said, said
    assert "on Ray at " in said and "2 trials: 2 complete" in said
    assert "\r" not in said and "2 of 2 trials done" in said  # a log is no terminal
    assert len(list((tmp_path / "there" / "sft").glob("*/manifest.json"))) == 2
    assert len(list((tmp_path / "there" / "embedding").glob("*/manifest.json"))) == 1
    assert list((tmp_path / "there" / "sweep").glob("*/chosen.yaml"))
