"""The store on a real S3 server: nothing half-published is read, nothing is made twice, and trouble is one sentence."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dig_ray.artifacts import folders, remote
from dig_ray.artifacts.manifest import Recipe
from dig_ray.artifacts.parts import read_part, write_part
from dig_ray.artifacts.remote import RemoteLock
from dig_ray.artifacts.store import Store
from dig_ray.base import Stage
from dig_ray.errors import UserError
from dig_ray.mining.answer_log import AnswerLog, write_rows
from tests.object_storage.conftest import S3, SECRET
from tests.object_storage.faulty_proxy import FaultyProxy

ROOT = Path(__file__).parents[2]
RECIPE = Recipe("embedding", {"model": "m"}, {"catalog": "0" * 16}, code="c", seed=1)
STAGE, PRINT = RECIPE.stage, RECIPE.fingerprint
FILES = {f"part-{n}.bin": bytes([n]) * 200_000 for n in range(6)}

WORKER = f"""
import os, signal, sys, time
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from dig_ray.errors import UserError
from dig_ray.artifacts.manifest import Recipe
from dig_ray.artifacts.remote import Remote, RemoteLock
from dig_ray.artifacts.store import Store
RECIPE = Recipe("embedding", {{"model": "m"}}, {{"catalog": "0" * 16}}, code="c", seed=1)
root, cache = sys.argv[1:3]
def run(stage):
    print("running", os.getpid(), flush=True)
    for n in range(6):
        (stage.out / f"part-{{n}}.bin").write_bytes(bytes([n]) * 200_000)
    time.sleep(float(os.environ.get("WORK_S", "0")))
try:
"""


def worker(root: str, cache: Path, code: str, **env: str) -> subprocess.Popen[str]:
    body = "".join(f"    {line}\n" for line in code.strip().splitlines())
    end = "except UserError as error:\n    sys.exit(f'error: {error}')\n"
    command = [sys.executable, "-c", WORKER + body + end, root, str(cache)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | env
    )


def build(stage: Stage) -> None:
    for name, content in FILES.items():
        (stage.out / name).write_bytes(content)


def never(stage: Stage) -> None:
    raise AssertionError("must not run")


def quiet(line: str) -> None:
    pass


@pytest.fixture
def proxy(s3: S3, monkeypatch: pytest.MonkeyPatch):
    """The same store behind a proxy that can misbehave."""
    one = FaultyProxy(s3.port)
    monkeypatch.setenv("AWS_ENDPOINT_URL", one.url)
    yield one
    one.end()


def test_published_here_and_found_elsewhere(s3: S3, tmp_path: Path) -> None:
    artifact, made = Store(s3.root, cache=tmp_path / "one").build(RECIPE, build, log=quiet)
    assert made and artifact.location == f"{s3.root}/{STAGE}/{PRINT}"
    found = Store(s3.root, cache=tmp_path / "two").find(STAGE, PRINT)
    assert found is not None and found.path.is_relative_to(tmp_path / "two")
    assert {name: (found.path / name).read_bytes() for name in FILES} == FILES
    assert found.manifest == artifact.manifest
    assert len(s3.objects()) == len(FILES) + 1  # no lock, no work, no probe is left


def test_keys_of_the_store_reach_no_object(s3: S3, tmp_path: Path) -> None:
    def run(stage: Stage) -> None:
        build(stage)
        stage.stats["note"] = f"used {SECRET}"

    Store(s3.root, cache=tmp_path / "one").build(RECIPE, run, log=quiet)
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and b"canary" in p.read_bytes()]
    for uri in (f"s3://key:{SECRET}@{s3.bucket}/runs", f"s3://{s3.bucket}/runs?endpoint_override=x"):
        with pytest.raises(UserError, match="AWS_ENDPOINT_URL") as caught:
            Store(uri, cache=tmp_path / "two")
        assert SECRET not in str(caught.value)


def test_a_forced_rebuild_replaces_the_old_one_at_once(s3: S3, tmp_path: Path) -> None:
    first = Store(s3.root, cache=tmp_path / "one")
    first.build(RECIPE, build, log=quiet)

    def other(stage: Stage) -> None:
        (stage.out / "data.txt").write_text("new")
        assert Store(s3.root, cache=tmp_path / "two").find(STAGE, PRINT) is not None  # the old one

    first.build(RECIPE, other, force=True, log=quiet)
    found = Store(s3.root, cache=tmp_path / "two").find(STAGE, PRINT)
    assert found is not None and sorted(found.manifest["files"]) == ["data.txt"]
    assert len(s3.objects()) == 2


# --- kills -------------------------------------------------------------------------------------------------

KILLS = {
    "in the middle of the uploads": """
count, upload = [0], Remote.upload
def counted(self, source, name):
    count[0] += 1
    if count[0] == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    upload(self, source, name)
Remote.upload = counted
Store(root, cache=cache).build(RECIPE, run)
""",
    "just before the manifest": """
RemoteLock.check = lambda self: os.kill(os.getpid(), signal.SIGKILL)
Store(root, cache=cache).build(RECIPE, run)
""",
    "just after the manifest": """
Store._move_in = lambda *a: os.kill(os.getpid(), signal.SIGKILL)
Store(root, cache=cache).build(RECIPE, run)
""",
}


@pytest.mark.parametrize("when", list(KILLS))
def test_killed_while_it_publishes(s3: S3, tmp_path: Path, when: str) -> None:
    process = worker(s3.root, tmp_path / "one", KILLS[when])
    assert process.wait(60) == -signal.SIGKILL, process.communicate()[1]
    found = Store(s3.root, cache=tmp_path / "two").find(STAGE, PRINT)
    assert (found is not None) == (when == "just after the manifest")
    artifact, made = Store(s3.root, cache=tmp_path / "one").build(RECIPE, build, log=quiet)
    assert made == (found is None)
    assert {name: (artifact.path / name).read_bytes() for name in FILES} == FILES
    if made:  # what the dead one had uploaded went, and its lock
        assert len(s3.objects()) == len(FILES) + 1


def test_killed_at_any_moment_while_others_look(s3: S3, tmp_path: Path) -> None:
    """A reader beside builders that die at random sees nothing, or all of it."""
    looks: list[bool] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            found = Store(s3.root, cache=tmp_path / f"reader-{len(looks)}").find(STAGE, PRINT)
            if found is not None:
                assert {name: (found.path / name).read_bytes() for name in FILES} == FILES
            looks.append(found is not None)

    reader = threading.Thread(target=look)
    reader.start()
    code = """
print("at it", flush=True)
for _ in range(100):
    Store(root, cache=cache).build(RECIPE, run, force=True, log=str)
"""
    try:
        for moment in (0.1, 0.35, 0.6):
            process = worker(s3.root, tmp_path / "one", code)
            assert process.stdout is not None and process.stdout.readline() == "at it\n"
            time.sleep(moment)
            process.kill()
            process.wait()
    finally:
        done.set()
        reader.join()
    Store(s3.root, cache=tmp_path / "one").build(RECIPE, build, log=quiet)
    assert looks


# --- several at once ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 4])
def test_made_once_by_builders_on_several_machines(s3: S3, tmp_path: Path, count: int) -> None:
    code = "print('made', Store(root, cache=cache).build(RECIPE, run, wait=True, log=str)[1])"
    processes = [worker(s3.root, tmp_path / str(n), code, WORK_S="1") for n in range(count)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * count, outputs
    said = "".join(out for out, _ in outputs)
    assert said.count("running") == 1 and said.count("made True") == 1
    assert said.count("made False") == count - 1
    assert len(s3.objects()) == len(FILES) + 1


def test_who_does_not_wait_is_told_who_builds(s3: S3, tmp_path: Path) -> None:
    code = "Store(root, cache=cache).build(RECIPE, run)"
    first = worker(s3.root, tmp_path / "one", code, WORK_S="60")
    try:
        assert first.stdout is not None and first.stdout.readline().startswith("running")
        second = worker(s3.root, tmp_path / "two", code)
        _, error = second.communicate(timeout=60)
        assert second.returncode == 1 and error.count("\n") == 1
        assert f"process {first.pid}" in error and "is being built" in error
    finally:
        first.kill()
        first.wait()
    assert Store(s3.root, cache=tmp_path / "two").build(RECIPE, build, log=quiet)[1]  # a dead one's lock


def test_a_lock_is_never_held_twice(s3: S3, tmp_path: Path) -> None:
    code = """
remote, held = Remote(root), 0
for _ in range(200):
    try:
        with RemoteLock(remote, "x", "x"):
            assert remote.read("inside") is None, "two at once"
            remote.write("inside", cache.encode())
            time.sleep(0.02)
            assert remote.read("inside") == cache.encode(), "two at once"
            remote.remove("inside")
            held += 1
    except UserError as error:
        assert "is being built" in str(error)
        time.sleep(0.01)
    if held == 8:
        break
print(held)
"""
    processes = [worker(s3.root, tmp_path / str(n), code) for n in range(4)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, outputs
    assert sum(int(out) for out, _ in outputs) >= 8, outputs


def test_a_lock_of_a_dead_machine_is_taken_over_by_the_stores_clock(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(s3.root, cache=tmp_path)
    assert store.remote is not None
    # a machine whose clock is an hour behind is alive as long as it refreshes its ticket
    owner = {"host": "elsewhere", "pid": 1, "at": time.time() - 3600, "held": True}
    store.remote.write(".locks/x~0.json", json.dumps(owner).encode())
    with pytest.raises(UserError, match="process 1 on elsewhere"):
        RemoteLock(store.remote, "x", "x").__enter__()
    monkeypatch.setattr(remote, "LOCK_EXPIRES_S", 1.0)
    time.sleep(2.1)
    with RemoteLock(store.remote, "x", "x"):
        pass


def test_even_without_a_lock_readers_see_no_mix(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two builders whose lock failed publish at once, different bytes: one of the two is found, whole."""
    code = """
RemoteLock.__enter__ = lambda self: self
RemoteLock.check = RemoteLock._remove = lambda self: None
def run(stage):
    for n in range(30):
        (stage.out / f"{n}.txt").write_text(cache)
        time.sleep(0.001)
store = Store(root, cache=cache)
keep = store.remote.remove
store.remote.remove = lambda name: keep(name) if name.startswith(".") else None
for _ in range(4):
    store.build(RECIPE, run, force=True, log=str)
"""
    processes = [worker(s3.root, tmp_path / name, code) for name in ("one", "two")]
    n = 0
    while any(process.poll() is None for process in processes):
        n += 1
        found = Store(s3.root, cache=tmp_path / f"reader-{n}").find(STAGE, PRINT)
        if found is not None:
            assert len({(found.path / name).read_text() for name in found.manifest["files"]}) == 1
    assert [process.returncode for process in processes] == [0, 0], processes[0].communicate()
    assert Store(s3.root, cache=tmp_path / "last").find(STAGE, PRINT) is not None


def test_an_object_that_is_replaced_while_it_is_read_is_read_whole(s3: S3) -> None:
    """Never the beginning of a longer one, of the size of the one before."""
    done = threading.Event()

    def write() -> None:
        for n in itertools.count():
            folders.write_bytes(s3.root, "small", f"<{n}{'.' * (n % 7)}>".encode())
            if done.wait(0.02):
                break

    folders.write_bytes(s3.root, "small", b"<>")
    writer = threading.Thread(target=write)
    writer.start()
    try:
        found = [folders.read_bytes(s3.root, "small") for _ in range(40)]
    finally:
        done.set()
        writer.join()
    assert all(content is not None and content.endswith(b">") for content in found)


def test_who_stood_still_and_lost_the_lock_does_not_publish(s3: S3, tmp_path: Path) -> None:
    store = Store(s3.root, cache=tmp_path)

    def run(stage: Stage) -> None:
        build(stage)
        assert store.remote is not None
        for name in store.remote.list(".locks"):
            store.remote.remove(f".locks/{name}")

    with pytest.raises(UserError, match="another one took over"):
        store.build(RECIPE, run, log=quiet)
    assert store.find(STAGE, PRINT) is None


# --- trouble -----------------------------------------------------------------------------------------------


def test_stumbles_are_asked_again(s3: S3, proxy: FaultyProxy, tmp_path: Path) -> None:
    proxy.faults = [[r"^PUT .*part-", 3, 503], [r"^PUT", 3, 500], [r"^GET", 4, 503], [r"^HEAD", 2, 500]]
    Store(s3.root, cache=tmp_path / "one").build(RECIPE, build, log=quiet)
    assert Store(s3.root, cache=tmp_path / "two").find(STAGE, PRINT) is not None
    assert all(fault[1] == 0 for fault in proxy.faults)


def test_a_store_that_is_down_for_some_seconds(s3: S3, proxy: FaultyProxy, tmp_path: Path) -> None:
    store = Store(s3.root, cache=tmp_path / "one")

    def run(stage: Stage) -> None:
        build(stage)
        proxy.stop()
        threading.Timer(8.0, proxy.start).start()

    assert store.build(RECIPE, run, log=quiet)[1]
    assert Store(s3.root, cache=tmp_path / "two").find(STAGE, PRINT) is not None


def test_a_store_that_is_gone_for_good(
    s3: S3, proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "PATIENCE_S", 1.0)
    store = Store(s3.root, cache=tmp_path / "one")

    def run(stage: Stage) -> None:
        build(stage)
        proxy.stop()

    with pytest.raises(UserError, match="does not answer .*AWS_ENDPOINT_URL.* run the same command again"):
        store.build(RECIPE, run, log=quiet)
    assert not list((tmp_path / "one" / ".staging").iterdir())
    with pytest.raises(UserError, match=f"store {s3.root} does not answer"):
        Store(s3.root, cache=tmp_path / "one")


@pytest.mark.parametrize("trouble", ["no bucket", "refused"])
def test_what_a_job_says_of_a_store_it_cannot_use(
    s3: S3, proxy: FaultyProxy, tmp_path: Path, trouble: str
) -> None:
    proxy.faults = [["", 10**9, 403]] if trouble == "refused" else []
    root = "s3://no-such-bucket/runs" if trouble == "no bucket" else s3.root
    command = [sys.executable, "jobs/catalog.py", "demo", f"store={root}"]
    env = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert root in done.stderr and SECRET not in done.stderr
    assert ("create it" if trouble == "no bucket" else "AWS_ACCESS_KEY_ID") in done.stderr


def test_a_damaged_transfer_is_made_again(s3: S3, proxy: FaultyProxy, tmp_path: Path) -> None:
    Store(s3.root, cache=tmp_path / "one").build(RECIPE, build, log=quiet)
    proxy.faults = [[r"^GET .*part-3", 1, "corrupt"]]
    found = Store(s3.root, cache=tmp_path / "two").find(STAGE, PRINT)
    assert proxy.faults[0][1] == 0
    assert found is not None and (found.path / "part-3.bin").read_bytes() == FILES["part-3.bin"]


@pytest.mark.parametrize("harm", ["changed", "missing"])
def test_damage_in_the_store_is_named_with_a_cure(s3: S3, tmp_path: Path, harm: str) -> None:
    store = Store(s3.root, cache=tmp_path / "one")
    store.build(RECIPE, build, log=quiet)
    (key,) = [key for key in s3.objects() if key.endswith("part-3.bin")]
    assert store.remote is not None
    if harm == "changed":
        store.remote.write(key, b"other bytes")
    else:
        store.remote.remove(key)
    with pytest.raises(UserError) as caught:
        Store(s3.root, cache=tmp_path / "two").find(STAGE, PRINT)
    text = str(caught.value)
    assert "part-3.bin" in text and harm in text and f"delete {s3.root}/{STAGE}/{PRINT}" in text
    assert not list((tmp_path / "two" / ".staging").iterdir())
    store.remote.remove(f"{STAGE}/{PRINT}")  # the cure
    assert Store(s3.root, cache=tmp_path / "two").build(RECIPE, build, log=quiet)[1]


def test_a_damaged_cache_is_fetched_again(s3: S3, tmp_path: Path) -> None:
    store = Store(s3.root, cache=tmp_path)
    path = store.build(RECIPE, build, log=quiet)[0].path
    (path / "part-3.bin").write_bytes(b"harmed")
    found = store.find(STAGE, PRINT)
    assert found is not None and (path / "part-3.bin").read_bytes() == FILES["part-3.bin"]


# --- parts and answers -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_many_parts_are_listed_read_and_removed(s3: S3, tmp_path: Path) -> None:
    import pyarrow as pa

    store = Store(s3.root, cache=tmp_path)

    def run(stage: Stage) -> None:
        build(stage)
        for n in range(1_100):
            write_part(stage.work, f"{n:05}.parquet", pa.table({"n": [n]}))
        assert len(folders.list_files(stage.work)) == 1_100
        last = read_part(stage.work, "01099.parquet", 1)
        assert last is not None and last["n"].to_pylist() == [1099]
        assert read_part(stage.work, "01100.parquet", 1) is None

    assert store.build(RECIPE, run, log=quiet)[1]
    assert len(s3.objects()) == len(FILES) + 1


def answer(key: str) -> dict[str, object]:
    figures = {"tokens_in": 1, "tokens_out": 1, "calls": 1, "cost": 0.1, "seconds": 0.1}
    return {"key": key, "status": "ok", "reason": "", "raw": "{}"} | figures


def test_paid_answers_are_not_asked_again_because_the_store_stumbled(s3: S3, proxy: FaultyProxy) -> None:
    log = AnswerLog(f"{s3.root}/.kept/answers")
    log.check_writable()
    for n in range(3):
        write_rows(log.folder, [answer(f"k{n}")])
    proxy.faults = [[r"^(GET|HEAD) .*answers-", 40, 503]]
    assert sorted(log.read()["key"].to_pylist()) == ["k0", "k1", "k2"]


def test_a_journal_writes_through_an_outage(s3: S3, proxy: FaultyProxy) -> None:
    log = AnswerLog(f"{s3.root}/.kept/answers")
    with log.writer() as journal:
        journal.append(answer("a"))
        proxy.stop()
        threading.Timer(4.0, proxy.start).start()
    assert log.read()["key"].to_pylist() == ["a"]
