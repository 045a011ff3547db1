"""What a run of its own listens on: 127.0.0.1, and with the dashboard a token is asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
import json, sys, urllib.request
from dig_ray.on_ray.session import RayConfig, RaySession

def work(config):
    import ray.train, torch
    torch.distributed.all_reduce(torch.ones(1))
    ray.train.report({"listening": 1})
    if ray.train.get_context().get_world_rank() == 0:
        print("LISTENING", json.dumps(listening(top())), flush=True)
    torch.distributed.barrier()

def top():
    import psutil
    process = psutil.Process()
    while "stands_alone" not in " ".join(process.cmdline()):
        process = process.parent()
    return process

def listening(process):
    import psutil
    found = []
    for one in [process, *process.children(recursive=True)]:
        try:
            found += [(one.name(), *c.laddr) for c in one.net_connections() if c.status == psutil.CONN_LISTEN]
        except psutil.Error:
            continue
    return found

if __name__ == "__main__":
    with RaySession(RayConfig(dashboard=True, linger=0, worker_logs=True)) as session:
        session.start()
        import ray, ray.train
        from ray.train.torch import TorchTrainer
        from dig_ray.on_ray.loopback import LoopbackTorchConfig
        url = "http://" + ray._private.worker._global_node.address_info["webui_url"]
        print("DASHBOARD", url, flush=True)
        TorchTrainer(
            work,
            scaling_config=ray.train.ScalingConfig(num_workers=2),
            run_config=ray.train.RunConfig(storage_path=sys.argv[1]),
            torch_config=LoopbackTorchConfig(backend="gloo"),
        ).fit()
        print("LISTENING", json.dumps(listening(top())), flush=True)
        sys.stdout.flush()
        sys.stdin.read()
"""


@pytest.mark.slow
def test_nothing_listens_beyond_this_machine_and_the_dashboard_wants_a_token(tmp_path: Path) -> None:
    script = tmp_path / "stands_alone.py"
    script.write_text(SCRIPT)
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "storage")],
        env=env | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None and process.stdin is not None
    sockets: list[list] = []
    said = url = ""
    for line in process.stdout:
        said += line
        if "DASHBOARD http" in line:
            url = line.split()[1]
        if "LISTENING" in line:
            sockets.append(json.loads(line[line.index("[[") :]))
        if len(sockets) == 2:
            break
    assert len(sockets) == 2, said
    every = [one for part in sockets for one in part]
    assert {name for name, *_ in every} >= {"raylet", "gcs_server"}
    assert any("TrainWorker" in name for name, *_ in every)
    outside = [one for one in every if one[1] not in ("127.0.0.1", "::1", "::ffff:127.0.0.1")]
    assert not outside
    for path in ("/api/jobs/", "/nodes", "/api/version"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{url}{path}", timeout=30)
        assert refused.value.code == 401
    process.stdin.close()
    process.wait(timeout=60)
