"""SIGTERM and ^C at every stage: one sentence, exit code 130, Ray down, nothing half-written, and the same command goes on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.end_to_end.small import SMALL

ROOT = Path(__file__).parents[2]
HARMLESS = re.compile(r"WARNING .*Progress bars disabled")


def start(job: str, arguments: Sequence[str], folder: Path) -> subprocess.Popen[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return subprocess.Popen(
        [sys.executable, "-u", str(ROOT / "jobs" / f"{job}.py"), *arguments],
        cwd=folder, env=env | {"PYTHONPATH": str(ROOT)}, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def ask(
    process: subprocess.Popen[str], number: signal.Signals, line: str, later: float
) -> tuple[list[str], list[str]]:
    """Send a signal so many seconds after a line that matches; what was printed, and what stands in standard error."""
    assert process.stdout is not None and process.stderr is not None
    errors: list[str] = []
    reader = threading.Thread(target=lambda: errors.extend(process.stderr or ()), daemon=True)
    reader.start()
    printed = []
    asked = False
    for text in process.stdout:
        printed.append(text)
        if not asked and re.search(line, text):
            asked = True
            time.sleep(later)
            process.send_signal(number)
    process.wait(timeout=60)
    reader.join(timeout=10)
    assert asked, "".join(printed + errors)
    return printed, [text for text in errors if text.strip() and not HARMLESS.search(text)]


def check_end(process: subprocess.Popen[str], errors: Sequence[str], store: Path) -> None:
    assert process.returncode == 130, "".join(errors)
    assert len(errors) == 1 and errors[0].startswith("interrupted"), "".join(errors)
    assert "run the same command again" in errors[0]
    assert not any((store / ".staging").iterdir())
    for _ in range(40):  # a Ray that was starting is taken down by its reaper, after a second of grace
        found = subprocess.run(
            ["pgrep", "-s", str(process.pid)], capture_output=True, text=True
        ).stdout.split()
        if not found:
            return
        time.sleep(0.5)
    raise AssertionError(f"processes of the run's session are left: {found}")


def test_sigterm_in_the_catalogue_and_a_second_one_at_once(tmp_path: Path) -> None:
    big = ["demo", f"store={tmp_path / 'store'}", "catalog.demo.n_users=400000", "catalog.demo.n_items=20000"]
    process = start("catalog", big, tmp_path)
    _, errors = ask(process, signal.SIGTERM, r"\[1/1\] catalog", 0.3)
    check_end(process, errors, tmp_path / "store")
    assert errors[0].startswith("interrupted by SIGTERM;")


def test_a_second_signal_does_not_wait_for_the_first(tmp_path: Path) -> None:
    stubborn = (
        "import sys, time\n"
        "from dig_ray.console.cli import guarded\n"
        "def work():\n"
        "    try:\n"
        "        print('begun', flush=True); time.sleep(60)\n"
        "    finally:\n"
        "        print('tidying up', flush=True); time.sleep(60)\n"
        "sys.exit(guarded(work))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", stubborn], env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == "begun\n"
    process.terminate()
    assert process.stdout.readline() == "tidying up\n"
    process.terminate()  # at once: `timeout` and terminals send a signal twice, which is one
    time.sleep(0.5)
    assert process.poll() is None
    time.sleep(0.8)
    process.terminate()
    assert process.wait(timeout=10) == 130
    assert process.stderr.read() == "ended at once; run the same command again to go on from here\n"


@pytest.fixture
def sids(tmp_path: Path) -> Path:
    """Semantic IDs for the small demo world, so that nothing has to be embedded."""
    from dig_ray.config import load_config
    from dig_ray.pipeline import run_pipeline
    from dig_ray.semantic_ids.sid_catalog import SidCatalog

    (tmp_path / "small.yaml").write_text(SMALL)
    config = load_config(tmp_path / "small.yaml", [f"store={tmp_path / 'store'}"], tmp_path)
    done = run_pipeline(config, only="catalog", log=lambda line: None)["catalog"]
    import pyarrow.parquet as pq

    items = pq.read_table(done.path / "items.parquet", columns=["item_id"]).column(0).to_pylist()
    codes = np.stack(np.divmod(np.arange(len(items)), 8), axis=1)
    SidCatalog.from_codes(items, codes, (8, 8)).save(tmp_path / "sids.parquet")
    return tmp_path / "sids.parquet"


def test_sigterm_in_sft_is_one_sentence(tmp_path: Path, sids: Path) -> None:
    settings = [
        "small.yaml",
        f"store={tmp_path / 'store'}",
        f"semantic_ids={{method: file, path: {sids}}}",
        "sft.epochs=500",
        "sft.patience=500",
    ]
    process = start("sft", settings, tmp_path)
    _, errors = ask(process, signal.SIGTERM, r"sft: epoch", 0.2)
    check_end(process, errors, tmp_path / "store")
    assert list((tmp_path / "store" / ".work").glob("sft-*/*/checkpoint_*")), "its checkpoint stays"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_every_stage_ends_so_and_the_same_command_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "small.yaml").write_text(SMALL)
    store = tmp_path / "store"
    settings = ["small.yaml", f"store={store}", "--until", "evaluation"]
    for line, later in (
        (r"\] catalog .*\.\.\.", 0.05),
        (r"\] embedding .*\.\.\.", 1.0),  # while Ray starts
        (r"\] embedding .*\.\.\.", 6.5),
        (r"\] sft .*\.\.\.", 2.0),
        (r"sft: epoch [1-5]", 0.1),
        (r"\] recommend .*\.\.\.", 3.0),
    ):
        process = start("pipeline", settings, tmp_path)
        _, errors = ask(process, number, line, later)
        check_end(process, errors, store)
    process = start("pipeline", settings, tmp_path)
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "7 stages" in printed and "embedding" in printed
    assert not any((store / ".work").iterdir()) and not any((store / ".staging").iterdir())
