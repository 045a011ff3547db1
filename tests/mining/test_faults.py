"""Machines, drivers and disks that fail while rows are asked: every id once, nothing paid for twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

ANSWER = '{{"descriptors": [{{"descriptor": "use of {}", "confidence": 0.5}}]}}'

MINE = """
import sys
from dig_ray.console.cli import guarded
from dig_ray.config import load_config
from dig_ray.pipeline import run_pipeline

sys.exit(guarded(lambda: run_pipeline(load_config(sys.argv[1]), only="item_interests")))
"""


def reply(evidence: str, number: int) -> str:
    return ANSWER.format(json.loads(evidence)["title"])


@pytest.fixture
def write_config(tmp_path):
    """``write_config(url, rows, store=...)``: a YAML file of a run over ``rows`` items."""

    def write(url: str, rows: int, store: str | None = None, ray: str = "", **miner) -> Path:
        lines = [f"i{n},tent number {n}" for n in range(rows)]
        (tmp_path / "items.csv").write_text("item_id,title\n" + "\n".join(lines) + "\n")
        users = range(min(60, rows // 4))
        events = [f"u{user},i{(user * 7 + step) % rows},{step}" for user in users for step in range(6)]
        (tmp_path / "events.csv").write_text("user_id,item_id,timestamp\n" + "\n".join(events) + "\n")
        settings = {
            "engine": "openai",
            "name": "gpt",
            "model": "m",
            "base_url": url,
            "api_key_env": None,
            **miner,
        }
        config = {
            "store": store or str(tmp_path / "store"),
            "catalog": {
                "source": "table",
                "items": {"path": str(tmp_path / "items.csv")},
                "interactions": {"path": str(tmp_path / "events.csv")},
            },
            "mining": {"items": [settings]},
        }
        if ray:
            config["ray"] = {"address": ray}
        file = tmp_path / f"{len(list(tmp_path.glob('*.yaml')))}.yaml"
        file.write_text(json.dumps(config))  # JSON is YAML
        return file

    return write


def start(file: Path, **extra: str) -> subprocess.Popen[str]:
    kept = ("RAY_AUTH_MODE", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")  # as the tests' own cluster has them
    own = {k: v for k, v in os.environ.items() if not k.startswith("RAY_") or k in kept}
    return subprocess.Popen(
        [sys.executable, "-c", MINE, str(file)],
        env=own | extra,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def finish(file: Path) -> str:
    process = start(file)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def mined(folder: Path) -> dict[str, str]:
    (merged,) = folder.glob("item_interests/*/merged.parquet")
    rows = pq.read_table(merged).to_pylist()
    found = {row["subject_id"]: row["interests"][0]["text"] for row in rows}
    assert len(found) == len(rows)
    return found


def wait_for_calls(server, calls: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while sum(server.calls.values()) < calls:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def workers_of(driver: int) -> list[int]:
    """Pids of the actors that ask, below one process (a driver, or a node's raylet)."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_text()
            parents, pid = set(), int(entry.name)
            while pid > 1:
                pid = int((Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
                parents.add(pid)
        except (OSError, IndexError, ValueError):
            continue
        if "Mine(" in words and driver in parents:
            found.append(int(entry.name))
    return found


def test_killed_actor_killed_driver_and_one_rerun_pay_for_nothing_twice(
    serve, tmp_path, write_config
) -> None:
    rows = 1600
    server = serve(reply, latency=0.02)
    file = write_config(server.url, rows, max_in_flight=4)
    first = start(file)
    wait_for_calls(server, 200, first)
    actors = workers_of(first.pid)
    assert actors, "no actor found to kill"
    for pid in actors:
        os.kill(pid, signal.SIGKILL)
    wait_for_calls(server, 700, first)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    time.sleep(1)  # its actor may answer a little longer than it lives
    finish(file)
    assert mined(tmp_path / "store") == {f"i{n}": f"use of tent number {n}" for n in range(rows)}
    assert sum(server.calls.values()) / rows <= 1.01
    assert "found" in finish(file)


@pytest.mark.slow
def test_a_node_that_dies_takes_no_answer_along(serve, tmp_path, write_config) -> None:
    """A cluster of three nodes on this machine; the one that asks is killed, and the run ends by itself."""
    from ray.cluster_utils import Cluster

    rows = 600
    server = serve(reply, latency=0.02)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        workers = [cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)]
        cluster.wait_for_nodes()
        file = write_config(server.url, rows, ray=cluster.address, max_in_flight=4)
        process = start(file)
        wait_for_calls(server, 100, process)
        asking = [node for node in workers if workers_of(node.all_processes["raylet"][0].process.pid)]
        assert len(asking) == 1
        cluster.remove_node(asking[0], allow_graceful=False)
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
    finally:
        cluster.shutdown()
    assert mined(tmp_path / "store") == {f"i{n}": f"use of tent number {n}" for n in range(rows)}
    assert sum(server.calls.values()) <= rows + 4  # what was in flight when it died


@pytest.mark.slow
def test_twenty_killed_drivers_and_the_bytes_of_an_undisturbed_run(serve, tmp_path, write_config) -> None:
    rows, in_flight = 1500, 4
    calm = serve(reply)
    finish(write_config(calm.url, rows, store=str(tmp_path / "calm"), max_in_flight=in_flight))
    server = serve(reply, latency=0.05)
    file = write_config(server.url, rows, max_in_flight=in_flight)
    rng = random.Random(3)
    for _ in range(20):
        process = start(file)
        time.sleep(rng.uniform(0.5, 14))
        os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None
        process.communicate()
    time.sleep(1)
    finish(file)
    assert mined(tmp_path / "store") == mined(tmp_path / "calm")
    for name in ("merged.parquet",):
        (one,) = (tmp_path / "store" / "item_interests").glob(f"*/{name}")
        (two,) = (tmp_path / "calm" / "item_interests").glob(f"*/{name}")
        assert one.read_bytes() == two.read_bytes()
    assert sum(server.calls.values()) <= rows + 20 * in_flight


@pytest.mark.slow
def test_a_store_behind_a_uri_keeps_and_finds_answers(serve, tmp_path, write_config) -> None:
    rows = 800
    server = serve(reply, latency=0.05)
    file = write_config(server.url, rows, store=f"file://{tmp_path / 'remote'}", max_in_flight=4)
    process = start(file)
    wait_for_calls(server, 320, process)  # at most 80 a second
    process.send_signal(signal.SIGKILL)
    process.communicate()
    time.sleep(3)
    output = finish(file)
    assert "were there" in output
    assert mined(tmp_path / "remote") == {f"i{n}": f"use of tent number {n}" for n in range(rows)}
    assert (
        sum(server.calls.values()) <= rows + 240
    )  # what was not yet in a part, and what came until its actor ended


def test_a_store_that_cannot_be_written_is_said_before_a_call(serve, tmp_path, write_config) -> None:
    server = serve(reply)
    store = tmp_path / "store"
    (store / ".kept").parent.mkdir(parents=True)
    (store / ".kept").write_text("a file where a directory is wanted")
    process = start(write_config(server.url, 20))
    output, _ = process.communicate(timeout=400)
    assert process.returncode != 0 and "answers cannot be kept there" in output
    assert "Traceback" not in output and not server.calls


@pytest.mark.slow
def test_what_is_mined_is_on_the_dashboard(serve, tmp_path, write_config) -> None:
    """The metrics endpoint of a real Ray head says what the run did."""
    import urllib.request

    import ray

    server = serve(lambda e, n: "no JSON" if e.endswith('9"}') else reply(e, n), latency=0.3)
    often = {"metrics_report_interval_ms": 500}
    context = ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, _system_config=often
    )
    try:
        address = context.address_info["address"]
        price = {"input": 10.0, "output": 10.0}
        file = write_config(server.url, 200, ray=address, max_in_flight=4, price=price)
        process = start(file, RAY_AUTH_MODE="token")
        node = ray.nodes()[0]
        url = f"http://127.0.0.1:{node['MetricsExportPort']}"
        seen: dict[str, float] = {}
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310 - loopback
                lines = [line for line in response.read().decode().splitlines() if "dig_mining_" in line]
            now: dict[str, float] = {}
            for line in lines:
                if not line.startswith("#") and 'miner="gpt"' in line:
                    name = line.split("dig_mining_")[1].split("{")[0].removesuffix("_total")
                    now[name] = now.get(name, 0) + float(line.rsplit(" ", 1)[1])
            seen = now or seen  # a process takes its counters along when it ends
            time.sleep(0.2)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
    finally:
        ray.shutdown()
    assert 100 <= seen["rows"] <= 200 and 8 <= seen["failures"] <= 20
    assert seen["calls"] == pytest.approx(seen["rows"] + seen["failures"], abs=2)
    assert seen["tokens"] == pytest.approx(110 * seen["calls"], rel=0.05)
    assert seen["spend_usd"] == pytest.approx(110e-5 * seen["calls"], rel=0.05)
