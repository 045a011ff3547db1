"""The store: nothing half-published is ever read, nothing is made twice, and damage is named."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dig_ray.artifacts.code_version import code_hash, modules_behind
from dig_ray.artifacts.manifest import Recipe, hash_input_files, hash_json, plain
from dig_ray.artifacts.remote import RemoteLock
from dig_ray.artifacts.store import Store
from dig_ray.artifacts.store_files import lock_owner, safe_relative
from dig_ray.base import Stage
from dig_ray.errors import UserError

ROOT = Path(__file__).parents[2]
RECIPE = Recipe("embedding", {"model": "m", "size": 3}, {"catalog": "0" * 16}, code="c", seed=1)
STAGE, PRINT = RECIPE.stage, RECIPE.fingerprint


def two_files(stage: Stage) -> None:
    (stage.out / "data.txt").write_text("the data")
    (stage.out / "model").mkdir()
    (stage.out / "model" / "weights.bin").write_bytes(bytes(1000))
    stage.stats["rows"] = 7


def never(stage: Stage) -> None:
    raise AssertionError("must not run")


def quiet(line: str) -> None:
    pass


def tree(root: Path) -> set[str]:
    return {
        p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file() and ".locks" not in p.parts
    }


def script(code: str, *args: str, **more: Any) -> subprocess.Popen[str]:
    """A Python process that has Store, Recipe and the stages of this file at hand."""
    head = f"""
import errno, os, signal, sys, time
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
import dig_ray.artifacts.store as store_module
from dig_ray.errors import UserError
from dig_ray.artifacts.manifest import Recipe
from dig_ray.artifacts.store import Store
RECIPE = Recipe("embedding", {{"model": "m", "size": 3}}, {{"catalog": "0" * 16}}, code="c", seed=1)
def two_files(stage):
    (stage.out / "data.txt").write_text("the data")
    (stage.out / "model").mkdir()
    (stage.out / "model" / "weights.bin").write_bytes(bytes(1000))
    stage.stats["rows"] = 7
def main():
"""
    body = "".join(f"    {line}\n" for line in code.strip().splitlines())
    tail = "try:\n    main()\nexcept UserError as error:\n    sys.exit(f'error: {error}')\n"
    command = [sys.executable, "-c", head + body + tail, *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


def test_made_once_then_found(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    artifact, made = store.build(RECIPE, two_files, log=quiet)
    assert made and artifact.path == tmp_path / "runs" / STAGE / PRINT
    assert (artifact.path / "model" / "weights.bin").read_bytes() == bytes(1000)
    assert artifact.stats["rows"] == 7
    again, made = Store(tmp_path / "runs").build(RECIPE, never, log=quiet)
    assert not made and again.manifest == artifact.manifest
    assert not list((tmp_path / "runs" / ".staging").iterdir())
    assert not list((tmp_path / "runs" / ".work").iterdir())


def test_manifest_says_how_it_came_to_be(tmp_path: Path) -> None:
    def run(stage: Stage) -> None:
        two_files(stage)
        stage.stats.update(split_name="leave-last-out", split_hash="ab", mean=float("nan"))

    manifest = Store(tmp_path).build(RECIPE, run, log=quiet)[0].manifest
    assert manifest["recipe"]["config"] == {"model": "m", "size": 3}
    assert manifest["recipe"]["inputs"] == {"catalog": "0" * 16}
    assert (manifest["recipe"]["seed"], manifest["recipe"]["code"]) == (1, "c")
    assert (manifest["split_name"], manifest["split_hash"]) == ("leave-last-out", "ab")
    assert manifest["stats"]["mean"] is None
    assert manifest["files"]["data.txt"]["bytes"] == 8
    assert {"python", "dig_ray", "torch", "ray"} <= set(manifest["versions"])
    assert manifest["seconds"] >= 0 and manifest["created"]


@pytest.mark.parametrize(
    "other",
    [
        Recipe("embedding", {"model": "m", "size": 4}, {"catalog": "0" * 16}, "c", 1),
        Recipe("embedding", {"model": "m", "size": 3}, {"catalog": "1" * 16}, "c", 1),
        Recipe("embedding", {"model": "m", "size": 3}, {"catalog": "0" * 16}, "d", 1),
        Recipe("embedding", {"model": "m", "size": 3}, {"catalog": "0" * 16}, "c", 2),
        Recipe("embedding", {"model": "m", "size": 3}, {"catalog": "0" * 16}, "c", 1, {"x.csv": "ff"}),
        Recipe("catalog", {"model": "m", "size": 3}, {"catalog": "0" * 16}, "c", 1),
    ],
)
def test_whatever_decides_the_result_changes_the_fingerprint(other: Recipe) -> None:
    assert other.fingerprint != RECIPE.fingerprint
    assert Recipe("embedding", {"size": 3, "model": "m"}, {"catalog": "0" * 16}, "c", 1).fingerprint == PRINT


# --- damage ----------------------------------------------------------------------------------------------


def edit(path: Path) -> None:
    path.write_text("THE DATA")


def truncate(path: Path) -> None:
    os.truncate(path, 3)


def swap_for_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/hostname")


@pytest.mark.parametrize(
    ("harm", "word"),
    [
        (edit, "changed"),
        (truncate, "3 bytes where 8"),
        (Path.unlink, "missing"),
        (swap_for_link, "plain file"),
    ],
)
def test_a_damaged_file_is_named_with_a_cure(tmp_path: Path, harm: Any, word: str) -> None:
    store = Store(tmp_path)
    path = store.build(RECIPE, two_files, log=quiet)[0].path
    harm(path / "data.txt")
    with pytest.raises(UserError) as caught:
        store.build(RECIPE, never, log=quiet)
    text = str(caught.value)
    assert "data.txt" in text and word in text and f"delete {path}" in text
    assert store.build(RECIPE, two_files, force=True, log=quiet)[1]
    assert (path / "data.txt").read_text() == "the data"


def test_an_edit_that_keeps_size_and_time_is_found(tmp_path: Path) -> None:
    path = Store(tmp_path).build(RECIPE, two_files, log=quiet)[0].path / "data.txt"
    before = path.stat()
    path.write_text("THE DATA")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(UserError, match="changed after it was published"):
        Store(tmp_path).find(STAGE, PRINT)


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ('"rows": 7', '"rows": 9', "edited"),
        ('"size": 3', '"size": 4', "edited"),
        ('"checksum"', '"chksum"', "damaged"),
        ('"files"', '"fils"', "damaged"),
        ("{", "", "damaged"),
        ('"data.txt"', '"../data.txt"', "damaged"),
    ],
)
def test_an_edited_manifest_is_refused(tmp_path: Path, old: str, new: str, word: str) -> None:
    store = Store(tmp_path)
    path = store.build(RECIPE, two_files, log=quiet)[0].path / "manifest.json"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=word):
        store.find(STAGE, PRINT)


def test_a_manifest_of_another_artifact_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = store.build(RECIPE, two_files, log=quiet)[0].path
    path.rename(path.with_name("f" * 16))
    with pytest.raises(UserError, match="another artifact"):
        store.find(STAGE, "f" * 16)


def test_files_without_a_manifest_are_not_an_artifact(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = store.build(RECIPE, two_files, log=quiet)[0].path
    (path / "manifest.json").unlink()
    assert store.find(STAGE, PRINT) is None
    assert store.build(RECIPE, two_files, log=quiet)[1]


# --- kills, locks, full disks ----------------------------------------------------------------------------

KILL = {
    "in the middle of the data": """
def run(stage):
    (stage.out / "data.txt").write_text("half")
    Path(stage.work, "part").write_text("kept")
    os.kill(os.getpid(), signal.SIGKILL)
Store(sys.argv[1]).build(RECIPE, run)
""",
    "between data and manifest": """
store_module.make_manifest = lambda *a: os.kill(os.getpid(), signal.SIGKILL)
Store(sys.argv[1]).build(RECIPE, two_files)
""",
    "between manifest and rename": """
Store._move_in = lambda *a: os.kill(os.getpid(), signal.SIGKILL)
Store(sys.argv[1]).build(RECIPE, two_files)
""",
}


@pytest.mark.parametrize("when", list(KILL))
def test_killed_then_run_again(tmp_path: Path, when: str) -> None:
    process = script(KILL[when], str(tmp_path))
    assert process.wait(60) == -signal.SIGKILL, process.stderr
    assert any((tmp_path / ".staging").iterdir())
    store = Store(tmp_path)
    assert not any((tmp_path / ".staging").iterdir())  # collected at start
    assert store.find(STAGE, PRINT) is None
    if when == "in the middle of the data":
        assert Path(store.work(STAGE, PRINT), "part").read_text() == "kept"
    assert store.build(RECIPE, two_files, log=quiet)[1]
    other = tmp_path.with_name(tmp_path.name + "-clean")
    Store(other).build(RECIPE, two_files, log=quiet)
    assert {n for n in tree(tmp_path) if n.startswith(STAGE)} == {
        n for n in tree(other) if n.startswith(STAGE)
    }


@pytest.mark.parametrize("instant", range(2))
def test_killed_between_the_renames_of_a_forced_rebuild(tmp_path: Path, instant: int) -> None:
    Store(tmp_path).build(RECIPE, two_files, log=quiet)
    code = f"""
real, count = Path.rename, [0]
def rename(self, target):
    if count[0] == {instant}:
        os.kill(os.getpid(), signal.SIGKILL)
    count[0] += 1
    return real(self, target)
Path.rename = rename
Store(sys.argv[1]).build(RECIPE, two_files, force=True)
"""
    assert script(code, str(tmp_path)).wait(60) == -signal.SIGKILL
    found = Store(tmp_path).find(STAGE, PRINT)
    assert found is not None and (found.path / "data.txt").read_text() == "the data"


def test_two_runs_at_once_on_one_artifact(tmp_path: Path) -> None:
    slow = """
def run(stage):
    two_files(stage)
    print("building", flush=True)
    time.sleep(60)
Store(sys.argv[1]).build(RECIPE, run)
"""
    first = script(slow, str(tmp_path))
    try:
        assert first.stdout is not None and first.stdout.readline() == "building\n"
        second = script("Store(sys.argv[1]).build(RECIPE, two_files)", str(tmp_path))
        _, error = second.communicate(timeout=60)
        assert second.returncode == 1
        assert error.count("\n") == 1 and f"process {first.pid}" in error and "is being built" in error
        assert any((tmp_path / ".staging").iterdir())  # the living one's files were left alone
        other = Recipe("embedding", {"model": "other"})
        assert Store(tmp_path).build(other, two_files, log=quiet)[1]  # another artifact is free
    finally:
        first.kill()
        first.wait()
    assert Store(tmp_path).build(RECIPE, two_files, log=quiet)[1]  # its death freed the lock


@pytest.mark.parametrize("remote", [False, True])
def test_a_held_name_is_waited_for(tmp_path: Path, remote: bool) -> None:
    """Two stages of one comparison may ask the same miner: the second waits and then finds the answers."""
    root = f"file://{tmp_path}/shared" if remote else str(tmp_path)
    holding = """
with Store(sys.argv[1], cache=sys.argv[2]).hold("answers-x"):
    print("held", flush=True)
    sys.stdin.readline()
"""
    first = script(holding, root, str(tmp_path / "cache"), stdin=subprocess.PIPE)
    lines: list[str] = []
    try:
        assert first.stdout is not None and first.stdout.readline() == "held\n"

        def say(line: str) -> None:
            lines.append(line)
            assert first.stdin is not None
            first.stdin.write("done\n")
            first.stdin.flush()

        with Store(root, cache=tmp_path / "cache").hold("answers-x", say):
            assert first.wait(10) == 0
    finally:
        first.kill()
    assert len(lines) == 1 and f"process {first.pid}" in lines[0] and "waiting" in lines[0]


@pytest.mark.parametrize("where", ["while the stage writes", "while publishing"])
def test_full_disk(tmp_path: Path, where: str) -> None:
    old, _ = Store(tmp_path).build(Recipe("catalog", {}), two_files, log=quiet)
    code = {
        "while the stage writes": """
def run(stage):
    (stage.out / "big.bin").write_bytes(bytes(3_000_000))
Store(sys.argv[1]).build(RECIPE, run)
""",
        "while publishing": """
def full(*a, **k):
    raise OSError(errno.ENOSPC, "No space left on device")
store_module.write_json = full
Store(sys.argv[1]).build(RECIPE, two_files)
""",
    }[where]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    process = script(code, str(tmp_path), preexec_fn=limit)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1, error
    assert error.count("\n") == 1 and "no space left while writing embedding" in error
    assert not any((tmp_path / ".staging").iterdir())
    assert not (tmp_path / STAGE / PRINT).exists()
    assert Store(tmp_path).find("catalog", old.fingerprint) is not None


def test_a_failing_stage_publishes_nothing(tmp_path: Path) -> None:
    def run(stage: Stage) -> None:
        (stage.out / "data.txt").write_text("half")
        raise ValueError("bad luck")

    store = Store(tmp_path)
    with pytest.raises(ValueError, match="bad luck"):
        store.build(RECIPE, run, log=quiet)
    assert not tree(tmp_path)
    store.build(RECIPE, two_files, log=quiet)
    with pytest.raises(ValueError, match="bad luck"):
        store.build(RECIPE, run, force=True, log=quiet)
    found = store.find(STAGE, PRINT)
    assert found is not None and (found.path / "data.txt").read_text() == "the data"


def test_a_stage_that_writes_nothing_or_a_link_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(UserError, match="wrote no file"):
        store.build(RECIPE, lambda stage: None, log=quiet)
    with pytest.raises(UserError, match="symbolic link"):
        store.build(RECIPE, lambda stage: (stage.out / "x").symlink_to("/etc/passwd"), log=quiet)


def test_a_root_that_cannot_be_written_fails_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/dig_ray")):
        with pytest.raises(UserError, match="cannot be written to"):
            Store(root)


# --- remote roots ----------------------------------------------------------------------------------------


def test_remote_root(tmp_path: Path) -> None:
    root = f"memory://bucket/{tmp_path.name}"
    store = Store(root, cache=tmp_path / "one")
    assert store.work(STAGE, PRINT).startswith(f"{root}/.work/")
    assert store.build(RECIPE, two_files, log=quiet)[1]
    elsewhere = Store(root, cache=tmp_path / "two")
    artifact, made = elsewhere.build(RECIPE, never, log=quiet)
    assert not made and artifact.path.is_relative_to(tmp_path / "two")
    assert (artifact.path / "model" / "weights.bin").read_bytes() == bytes(1000)
    assert store.remote is not None
    (upload,) = [name for name in store.remote.list(f"{STAGE}/{PRINT}") if name != "manifest.json"]
    store.remote.write(f"{STAGE}/{PRINT}/{upload}/data.txt", b"THE DATA")
    with pytest.raises(UserError, match="data.txt was changed"):
        Store(root, cache=tmp_path / "three").find(STAGE, PRINT)
    store.remote.remove(f"{STAGE}/{PRINT}")
    assert store.find(STAGE, PRINT) is None  # the cache alone counts for nothing
    assert elsewhere.build(RECIPE, two_files, log=quiet)[1]


def test_remote_upload_that_stops_half_way_is_no_artifact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = f"memory://bucket/{tmp_path.name}"
    store = Store(root, cache=tmp_path / "one")
    assert store.remote is not None
    upload = store.remote.upload

    def fails(source: Path, name: str) -> None:
        if name.endswith("weights.bin"):
            raise ConnectionError("gone")
        upload(source, name)

    monkeypatch.setattr(store.remote, "upload", fails)
    with pytest.raises(ConnectionError):
        store.build(RECIPE, two_files, log=quiet)
    assert Store(root, cache=tmp_path / "two").find(STAGE, PRINT) is None
    monkeypatch.undo()
    assert store.build(RECIPE, two_files, log=quiet)[1]


def test_remote_lock(tmp_path: Path) -> None:
    remote = Store(f"memory://bucket/{tmp_path.name}", cache=tmp_path).remote
    assert remote is not None
    with RemoteLock(remote, "a", "a"):
        with pytest.raises(UserError, match="is being built"):
            RemoteLock(remote, "a", "a").__enter__()
        with RemoteLock(remote, "b", "b"):
            pass
    assert not remote.list(".locks")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = [
        lock_owner() | {"pid": gone.pid, "born": "1", "held": True},
        {"host": "elsewhere", "pid": 1, "at": time.time() - 1000, "held": True},
    ]
    for owner in left:
        remote.write(".locks/a~x.json", json.dumps(owner).encode())
        with RemoteLock(remote, "a", "a"):
            pass
        assert not remote.list(".locks")
    alive = {"host": "elsewhere", "pid": 1, "at": time.time(), "held": True}
    remote.write(".locks/a~x.json", json.dumps(alive).encode())
    with pytest.raises(UserError, match="process 1 on elsewhere"):
        RemoteLock(remote, "a", "a").__enter__()


def test_file_uri_is_local_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    assert Store(f"file://{tmp_path}/runs").local == tmp_path / "runs"
    with pytest.raises(UserError, match="cannot be opened"):
        Store("nosuch://bucket/x")


# --- names, secrets, hashes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/../../b", "a\\..\\b", "a\0b", "%2e%2e/x", "", ".", "./x"]
)
def test_names_that_leave_the_root_are_refused(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path)
    for stage, fingerprint in ((name, PRINT), (STAGE, name)):
        with pytest.raises(UserError, match="does not name an artifact"):
            store.find(stage, fingerprint)
    with pytest.raises(ValueError, match="no file name"):
        safe_relative(name)


def test_secrets_stay_out_of_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-1234")
    recipe = Recipe("embedding", {"url": "http://x/?k=sk-canary-1234"})

    def run(stage: Stage) -> None:
        two_files(stage)
        stage.stats["note"] = ["used sk-canary-1234"]

    store = Store(tmp_path)
    artifact, _ = store.build(recipe, run, log=quiet)
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and b"canary" in p.read_bytes()]
    assert artifact.stats["note"] == ["used <redacted>"]
    assert not store.build(recipe, never, log=quiet)[1]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_hash_depends_on_the_value_alone(value: Any) -> None:
    clean = plain(value)
    assert hash_json(clean) == hash_json(json.loads(json.dumps(clean)))


def test_hashes_of_input_files_follow_the_content(tmp_path: Path) -> None:
    path, verdicts = tmp_path / "a.csv", tmp_path / "verdicts.json"
    path.write_text("1")
    first = hash_input_files({"items": path}, verdicts)
    assert hash_input_files({"items": str(path)}, verdicts) == first
    path.write_text("2")
    assert hash_input_files({"items": path}, verdicts) != first
    with pytest.raises(UserError, match="nowhere.csv"):
        hash_input_files({"items": tmp_path / "nowhere.csv"})
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(UserError, match="pipe.csv is a pipe or device"):
        hash_input_files({"items": tmp_path / "pipe.csv"})


def test_code_version_follows_imports_and_not_comments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dig_ray.artifacts.code_version as module

    package = tmp_path / "dig_ray"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "a.py").write_text("def f():\n    from dig_ray.b import g\n    return g\n")
    (package / "b.py").write_text('"""Doc."""\n\ng = 1  # one\n')
    (package / "c.py").write_text("x = 1\n")
    monkeypatch.setattr(module, "_ROOT", package)

    def fresh() -> str:
        module._read.cache_clear()
        return code_hash(["dig_ray.a"])

    first = fresh()
    assert modules_behind(["dig_ray.a"]) == ["dig_ray.a", "dig_ray.b"]
    (package / "b.py").write_text('"""Another\n\ntext."""\ng = 1\n')
    (package / "c.py").write_text("x = 2\n")
    assert fresh() == first
    (package / "b.py").write_text("g = 2\n")
    assert fresh() != first
    module._read.cache_clear()
