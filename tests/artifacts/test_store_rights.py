"""A store that several users share: another user's locks and directories are used or named, and never end in a trace."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from dig_ray.artifacts.manifest import Recipe
from dig_ray.artifacts.store import Store

ROOT = Path(__file__).parents[2]
BUILD = """
import sys
from pathlib import Path
from dig_ray.console.cli import guarded
from dig_ray.artifacts.manifest import Recipe
from dig_ray.artifacts.store import Store

def run(stage):
    print("RUNS", flush=True)
    (Path(stage.work) / "part.txt").write_text("x")
    (stage.out / "a.txt").write_text("x")

def work():
    Store(sys.argv[1]).build(Recipe(stage="demo", config={"n": int(sys.argv[2])}), run, force="force" in sys.argv)

sys.exit(guarded(work))
"""
needs_others = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("capsh") is None,
    reason="needs root and capsh, to be somebody who is refused",
)


def build(store: Path, n: int, *more: str, refused: bool = True) -> subprocess.CompletedProcess[str]:
    """Build in a process that, though it is root's, is refused what is not its own."""
    command = [sys.executable, "-c", BUILD, str(store), str(n), *more]
    if refused:
        line = 'exec "$0" "$@"'
        command = ["capsh", "--drop=cap_dac_override,cap_dac_read_search", "--", "-c", line, *command]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


def give_away(path: Path) -> None:
    """To the user nobody, with all that is below."""
    shutil.chown(path, "nobody")
    for inner in path.rglob("*"):
        shutil.chown(inner, "nobody")


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A store with one artifact in which everybody may write and all belongs to nobody."""
    tmp_path.chmod(0o755)
    store = tmp_path / "store"
    done = build(store, 1, refused=False)
    assert done.returncode == 0, done.stderr
    give_away(store)
    for path in [store, *store.rglob("*")]:
        path.chmod(0o777 if path.is_dir() else 0o666)
    return store


def said(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    return line


@needs_others
def test_a_lock_that_can_only_be_read_is_locked_all_the_same(shared: Path) -> None:
    (lock,) = (shared / ".locks").iterdir()
    lock.chmod(0o644)
    done = build(shared, 1, "force")
    assert done.returncode == 0, done.stderr
    assert "RUNS" in done.stdout


@needs_others
@pytest.mark.parametrize(
    ("what", "mode", "more", "runs"),
    [
        (".locks/demo-*.lock", 0o600, ("1", "force"), False),
        (".locks", 0o755, ("2",), False),
        (".staging", 0o755, ("2",), False),
        (".work", 0o755, ("2",), False),
        ("demo", 0o755, ("2",), False),  # where the artifact would go in the end
        ("demo/*/manifest.json", 0o600, ("1",), False),
        ("demo/*", 0o700, ("1",), False),
    ],
)
def test_what_may_not_be_written_is_named_with_its_owner_before_any_work(
    shared: Path, what: str, mode: int, more: tuple[str, ...], runs: bool
) -> None:
    (path,) = shared.glob(what)
    path.chmod(mode)
    done = build(shared, int(more[0]), *more[1:])
    line = said(done)
    assert str(path) in line and "belongs to nobody" in line and f"chmod -R g+rwX {shared}" in line
    assert ("RUNS" in done.stdout) == runs


@needs_others
def test_parts_of_a_colleague_who_was_interrupted_are_named(shared: Path) -> None:
    fingerprint = Recipe(stage="demo", config={"n": 2}).fingerprint
    work = shared / ".work" / f"demo-{fingerprint}"
    work.mkdir()
    (work / "part.txt").write_text("half")
    give_away(work)
    (work / "part.txt").chmod(0o644)
    line = said(build(shared, 2))
    assert f"{work}/part.txt belongs to nobody" in line


@needs_others
def test_a_root_of_somebody_else_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o755)
    give_away(theirs)
    line = said(build(theirs / "store", 1))
    assert f"{theirs} belongs to nobody" in line and "set store=" in line


def test_what_is_made_in_a_group_s_store_is_the_group_s_whatever_the_umask(tmp_path: Path) -> None:
    root = tmp_path / "group"
    root.mkdir()
    root.chmod(0o2770)
    before = os.umask(0o077)
    try:
        store = Store(root)
        store.build(Recipe(stage="demo", config={}), lambda stage: (stage.out / "a.txt").write_text("x"))
    finally:
        os.umask(before)
    made = [root / ".locks", root / ".work", root / ".staging", root / "demo", *(root / "demo").iterdir()]
    assert all(path.stat().st_mode & 0o070 == 0o070 for path in made)
    assert all(not path.stat().st_mode & 0o007 for path in made)
    (lock,) = (root / ".locks").iterdir()
    assert stat.S_IMODE(lock.stat().st_mode) == 0o660


def test_a_store_of_one_s_own_stays_one_s_own(tmp_path: Path) -> None:
    root = tmp_path / "mine"
    root.mkdir()
    root.chmod(0o755)
    Store(root).build(Recipe(stage="demo", config={}), lambda stage: (stage.out / "a.txt").write_text("x"))
    assert not any(path.stat().st_mode & 0o022 for path in [root, *root.rglob("*")])
