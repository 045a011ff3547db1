"""A storage that is full or refuses what is written ends a sweep with one sentence and publishes nothing."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dig_ray.errors import UserError
from dig_ray.experiments.sweeps.storage import written_to

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "no space left; free some or set store="),
        (PermissionError(errno.EACCES, "Permission denied", "/disk/a"), "/disk/a cannot be written to"),
        (OSError(errno.EROFS, "Read-only file system", "/disk/a"), "/disk/a cannot be written to .Read-only"),
    ],
)
def test_what_the_system_says_is_one_sentence(error, sentence, tmp_path) -> None:
    with pytest.raises(UserError, match=sentence), written_to(str(tmp_path)):
        try:
            raise error
        except OSError as inner:
            raise RuntimeError("what Tune makes of it") from inner


def test_what_is_no_fault_of_the_storage_keeps_its_trace(tmp_path) -> None:
    with pytest.raises(ZeroDivisionError), written_to(str(tmp_path)):
        raise ZeroDivisionError
    with pytest.raises(UserError, match="as it was"), written_to(str(tmp_path)):
        raise UserError("as it was")


def test_a_place_that_cannot_be_written_to_is_refused_at_once() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "jobs/sweep_tokenizer.py",
            "demo",
            "semantic_ids.levels=choice(2, 3)",
            "store=/proc/none",
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "/proc/none cannot be written to" in done.stderr and "set store=" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("size", ["100k", "300k"])
def test_a_full_disk_ends_a_sweep_with_a_sentence_and_room_lets_it_go_on(size, tmp_path) -> None:
    inside = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o size={size} tmpfs {tmp_path}"
    if not shutil.which("unshare") or subprocess.run([*inside, mount], check=False).returncode:
        pytest.skip("this system lets nobody mount a small disk")
    job = (
        f"{sys.executable} jobs/sweep_tokenizer.py demo 'catalog.demo={{n_items: 60, n_users: 120, n_intents: 6}}' "
        "semantic_ids.codebook_size=8 'semantic_ids.levels=choice(2, 3)' --search grid "
        "'semantic_ids.rqvae={hidden: [32], latent: 8, epochs: 9, batch_size: 64}' semantic_ids.method=rqvae "
        f"store={tmp_path}/store"
    )
    script = f"{mount}; {job}; echo first $?; mount -o remount,size=50m {tmp_path}; {job}; echo second $?"
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run(
        [*inside, script], capture_output=True, text=True, check=False, cwd=ROOT, env=env, timeout=600
    )
    assert "first 1" in done.stdout and "second 0" in done.stdout, done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "no space left" in errors[0]
    assert "2 trials: 2 complete" in done.stdout
