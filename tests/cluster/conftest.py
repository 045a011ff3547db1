"""A Ray cluster with its dashboard and a token, started as a user starts one: `ray start --head`."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class RunningCluster:
    """Where it is, and the environment of who may use it."""

    url: str
    env: dict[str, str]

    def run(self, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
        """A command of the project, run by who has the token."""
        return subprocess.run(
            [sys.executable, *command],
            cwd=ROOT,
            env=self.env | env,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )


@pytest.fixture(scope="module")
def running_cluster() -> Iterator[RunningCluster]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    env |= {"PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a-token-for-tests-only"}
    port, where = free_port(), tempfile.mkdtemp(prefix="ray")
    ports = [f"--dashboard-port={port}", "--dashboard-agent-listen-port=0", "--port=0"]
    command = ["ray", "start", "--head", "--block", "--num-cpus=4", "--node-ip-address=127.0.0.1"]
    head = subprocess.Popen(
        [*command, *ports, f"--temp-dir={where}", "--disable-usage-stats"],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert head.stdout is not None
    for line in head.stdout:
        if "--address=" in line or "RAY_ADDRESS" in line:
            break
    drained = threading.Thread(target=head.stdout.read, daemon=True)
    drained.start()
    yield RunningCluster(f"http://127.0.0.1:{port}", env)
    head.terminate()
    head.wait(timeout=60)
    shutil.rmtree(where, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
