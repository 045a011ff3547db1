"""A real S3 server in a process of its own, and a bucket for each test."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SECRET = "secret-canary-of-the-store"
NAMES = itertools.count()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def serve(command: list[str], port: int, log: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a server and wait until it takes connections."""
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=os.environ | env)
    for _ in range(300):
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return process
        if process.poll() is not None:
            break
        time.sleep(0.1)
    process.kill()
    raise RuntimeError(log.read_text())


@dataclass
class S3:
    """A server, and one bucket of it.

    Attributes:
        port: of the server, on 127.0.0.1.
        root: URI of a store in the bucket.
    """

    port: int
    bucket: str

    @property
    def root(self) -> str:
        return f"s3://{self.bucket}/runs"

    def objects(self) -> list[str]:
        """Names of all objects of the bucket, without the root's."""
        from pyarrow.fs import FileSelector, FileSystem

        system, base = FileSystem.from_uri(self.root)
        found = system.get_file_info(FileSelector(base, recursive=True, allow_not_found=True))
        return sorted(info.path.removeprefix(f"{base}/") for info in found if info.is_file)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    pytest.importorskip("moto", reason="the local S3 server is in the test extra: pip install -e '.[test]'")
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = serve(command, port, tmp_path_factory.mktemp("s3") / "log", {})
    yield port
    process.kill()
    process.wait()


@pytest.fixture(scope="session")
def gcs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    port = free_port()
    command = [sys.executable, "-m", "gcp_storage_emulator", "start", "-H", "127.0.0.1", "--in-memory", "-q"]
    folder = tmp_path_factory.mktemp("gcs")
    process = serve([*command, "--port", str(port)], port, folder / "log", {})
    yield port
    process.kill()
    process.wait()


@pytest.fixture
def gcs(gcs_server: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """URI of a store in a new bucket of Google's kind."""
    url = f"http://127.0.0.1:{gcs_server}"
    monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", url)
    bucket = f"bucket-{next(NAMES)}"
    body = json.dumps({"name": bucket}).encode()
    kind = {"Content-Type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(f"{url}/storage/v1/b?project=p", body, kind)).close()
    return f"gs://{bucket}/runs"


@pytest.fixture
def s3(s3_server: int, monkeypatch: pytest.MonkeyPatch) -> S3:
    """A new bucket; address and keys are in the environment, as a user sets them."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3_server}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "access-canary")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    bucket = f"bucket-{next(NAMES)}"
    url = f"http://127.0.0.1:{s3_server}/{bucket}"
    urllib.request.urlopen(urllib.request.Request(url, method="PUT")).close()
    return S3(s3_server, bucket)
