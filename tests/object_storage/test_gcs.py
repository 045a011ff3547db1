"""The store on a local Google Cloud Storage, which differs from S3 in its errors, its listings and its uploads."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from dig_ray.artifacts.folders import list_files, read_bytes, write_bytes
from dig_ray.artifacts.store import Store
from dig_ray.base import Stage
from dig_ray.errors import UserError
from tests.object_storage.test_store import FILES, RECIPE, build, never, quiet, worker


def test_published_here_found_elsewhere_and_replaced(gcs: str, tmp_path: Path) -> None:
    _, made = Store(gcs, cache=tmp_path / "one").build(RECIPE, build, log=quiet)
    found, again = Store(gcs, cache=tmp_path / "two").build(RECIPE, never, log=quiet)
    assert made and not again
    assert {name: (found.path / name).read_bytes() for name in FILES} == FILES

    def other(stage: Stage) -> None:
        (stage.out / "data.txt").write_text("new")

    Store(gcs, cache=tmp_path / "one").build(RECIPE, other, force=True, log=quiet)
    found, _ = Store(gcs, cache=tmp_path / "two").build(RECIPE, never, log=quiet)
    assert sorted(found.manifest["files"]) == ["data.txt"]
    assert len([info for info in list_files(gcs, recursive=True).values() if info.is_file]) == 2


def test_killed_before_its_manifest_it_published_nothing(gcs: str, tmp_path: Path) -> None:
    code = """
RemoteLock.check = lambda self: os.kill(os.getpid(), signal.SIGKILL)
Store(root, cache=cache).build(RECIPE, run)
"""
    process = worker(gcs, tmp_path / "one", code)
    assert process.wait(60) == -signal.SIGKILL, process.communicate()[1]
    assert Store(gcs, cache=tmp_path / "two").find(RECIPE.stage, RECIPE.fingerprint) is None
    _, made = Store(gcs, cache=tmp_path / "two").build(RECIPE, build, log=quiet)
    assert made
    left = [info for info in list_files(gcs, recursive=True).values() if info.is_file]
    assert len(left) == len(FILES) + 1  # what the dead one uploaded went, and its lock


def test_made_once_by_two_that_start_together(gcs: str, tmp_path: Path) -> None:
    code = "Store(root, cache=cache).build(RECIPE, run, wait=True)"
    processes = [worker(gcs, tmp_path / str(n), code) for n in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert "".join(out for out, _ in outputs).count("running") == 1


def test_small_objects_are_written_read_and_listed(gcs: str) -> None:
    assert read_bytes(gcs, "none") is None and list_files(gcs) == {}
    names = [f"answers/{n:03}.bin" for n in range(60)]
    for name in names:
        write_bytes(gcs, name, name.encode())
    assert sorted(list_files(f"{gcs}/answers")) == [name.partition("/")[2] for name in names]
    assert read_bytes(gcs, names[7]) == names[7].encode()


def test_a_bucket_that_is_not_there_is_one_sentence(gcs: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gs://nowhere/runs: there is no such bucket"):
        Store("gs://nowhere/runs", cache=tmp_path)
