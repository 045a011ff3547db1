"""What is said of workers that fail, and when a run ends instead of beginning again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray.exceptions

from dig_ray.errors import UserError
from dig_ray.training.failures import SayFailures, failure_of, read_failures, read_sentence
from dig_ray.training.said import Said
from dig_ray.training.sft_stage import fine_tune

DTYPES = RuntimeError("expected m1 and m2 to have the same dtype\n  at somewhere")
GLOO = RuntimeError("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]")


@pytest.mark.parametrize(
    "errors, reason, comes_back, at_once",
    [
        ({0: DTYPES}, "RuntimeError: expected m1 and m2 to have the same dtype", True, False),
        ({0: GLOO, 1: DTYPES}, "RuntimeError: expected m1 and m2 to have the same dtype", True, False),
        ({0: GLOO, 1: ray.exceptions.ActorDiedError()}, None, False, False),
        (
            {0: UserError("recommender.x: wrong; set it right")},
            "recommender.x: wrong; set it right",
            True,
            True,
        ),
        (
            {0: ModuleNotFoundError("No module named 'flash'")},
            "ModuleNotFoundError: No module named 'flash'",
            True,
            True,
        ),
        ({0: ray.exceptions.OutOfMemoryError("12.3 GB of 12.4 GB")}, "out of memory: ", True, False),
        ({0: ValueError()}, "ValueError", True, False),
    ],
)
def test_a_reason_is_the_programs_before_what_it_brought_upon_others(errors, reason, comes_back, at_once):
    found = failure_of(errors)
    assert (found.comes_back, found.at_once) == (comes_back, at_once)
    assert reason is None or found.reason.startswith(reason)


class Lines(list):
    put = list.append


def test_the_same_error_twice_from_the_same_place_ends_the_run(tmp_path):
    lines = Lines()
    say = SayFailures("sft", str(tmp_path), str(tmp_path / "failed"), lines)
    say.after_exception(None, {0: DTYPES})
    assert lines == ["sft: a worker failed (RuntimeError: expected m1 and m2 to have the same dtype)"]
    assert read_sentence(say.failed) is None
    say.after_exception(None, {0: ValueError("another")})
    assert read_sentence(say.failed) is None
    say.after_exception(None, {0: ray.exceptions.ActorDiedError()})
    say.after_exception(None, {0: ray.exceptions.ActorDiedError()})
    assert read_sentence(say.failed) is None  # machines die, and the next one lives
    say.after_exception(None, {0: DTYPES})
    say.after_exception(None, {0: DTYPES})
    said = read_sentence(say.failed)
    assert said.startswith(
        "sft: training failed twice after beginning from step 0: RuntimeError: expected m1"
    )
    assert len(read_failures(say.failed)) == 6


def test_a_key_in_an_error_is_hidden(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "abcdefgh12345678")
    assert "abcdefgh" not in failure_of({0: ValueError("denied to abcdefgh12345678")}).reason


def test_a_long_wait_is_filled_with_what_is_going_on():
    lines = []
    said = Said(lines.append, "sft", "starting 1 worker(s)", seconds=0.05)
    said.tick()
    assert not lines
    time.sleep(0.06)
    said.begin("loading a model")
    said.tick()
    said.tick()
    assert lines == ["sft: loading a model, for 0 s now"]


@pytest.fixture
def broken(world, settings, monkeypatch):
    """Settings whose worker fails in the same way at every first step."""
    # a forward pass over a head that is wider than its states: every worker meets it, and only there
    return settings.recommender.model_copy(update={"dtype": "broken"})


def test_an_error_that_comes_back_ends_the_run_in_a_sentence(
    broken, settings, world, make_stage, ray_cluster
):
    """Twice and not three times, with the reason in the log and in the sentence, and nothing published."""
    stage = make_stage("broken")
    begun = time.monotonic()
    with pytest.raises(
        UserError, match=r"sft: training failed twice after beginning from step 0: AttributeError: .*broken"
    ):
        fine_tune(settings.sft, broken, stage, world.catalog, world.semantic_ids)
    told = [line for line in stage.lines if "a worker failed" in line]
    assert any("begins again from step 0 (no checkpoint yet)" in line for line in told)
    assert not any(stage.out.iterdir())
    assert time.monotonic() - begun < 180


SCRIPT = """
import sys
from pathlib import Path
from dig_ray.base import Stage
from dig_ray.recommender.config import RecommenderConfig
from dig_ray.training.config import SftConfig
from dig_ray.training.sft_stage import fine_tune

if __name__ == "__main__":
    catalog, sids, root, recommender, sft = sys.argv[1:]
    out = Path(root) / "out"
    out.mkdir()
    stage = Stage("sft", "f" * 16, 7, out, root + "/work", log=lambda line: print(line, flush=True))
    try:
        fine_tune(SftConfig.model_validate_json(sft), RecommenderConfig.model_validate_json(recommender), stage, Path(catalog), Path(sids))
    except KeyboardInterrupt:
        print("INTERRUPTED", flush=True)
        sys.exit(130)
"""


@pytest.mark.slow
def test_an_interrupt_reaches_the_caller_and_its_workers_end(world, settings, tmp_path):
    import psutil

    (tmp_path / "sft.py").write_text(SCRIPT)
    sft = settings.sft.model_copy(update={"epochs": 1000, "patience": 1000})
    given = [world.catalog, world.semantic_ids, tmp_path, settings.recommender.model_dump_json()]
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "sft.py"), *map(str, given), sft.model_dump_json()],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said = []
        for line in process.stdout:
            said.append(line)
            if "validation NDCG@10" in line:
                break
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=90)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130, "".join(said) + rest
    assert "INTERRUPTED" in rest and "Traceback" not in rest
    gone, alive = psutil.wait_procs(children, timeout=30)
    assert not [p for p in alive if "TrainWorker" in " ".join(p.cmdline())]


@pytest.mark.parametrize("damaged", [b"", b"half"])
def test_a_failure_file_that_was_cut_off_is_no_failure(damaged, tmp_path):
    (tmp_path / "failures.json").write_bytes(damaged)
    assert read_failures(str(tmp_path)) == []


def test_what_ray_train_gave_up_for_is_one_sentence(tmp_path):
    from ray.train import ControllerError, WorkerGroupError

    from dig_ray.training.config import SftConfig
    from dig_ray.training.failures import leave_sentence
    from dig_ray.training.ray_train import _ended

    def ended(error: Exception) -> str:
        failed = str(tmp_path / "failed")
        return str(_ended("sft", str(tmp_path), failed, SftConfig(max_failures=1), error))

    workers = WorkerGroupError("a whole trace", {0: GLOO, 1: DTYPES})
    assert ended(workers).startswith(
        "sft: workers failed 2 times, and sft.max_failures=1 allows no more; the last time: RuntimeError: expected m1"
    )
    assert "cannot go on: ValueError: no room;" in ended(ControllerError(ValueError("no room")))
    leave_sentence(str(tmp_path / "failed"), "sft: why")
    assert ended(workers) == "sft: why"


def test_what_is_replaced_of_ray_train_is_still_there():
    """A private name: where it goes, an interrupt ends the process with code 0 again."""
    from ray.train.torch import TorchTrainer

    assert callable(TorchTrainer._register_sigint_handler)
