"""What is said of workers that fail, and when a run ends instead of beginning again."""

from __future__ import annotations

import time

import pytest
import ray.exceptions

from dig_ray.errors import UserError
from dig_ray.on_ray.said import Said
from dig_ray.on_ray.worker_failures import SayFailures, failure_of, read_failures, read_sentence

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


@pytest.mark.parametrize("damaged", [b"", b"half"])
def test_a_failure_file_that_was_cut_off_is_no_failure(damaged, tmp_path):
    (tmp_path / "failures.json").write_bytes(damaged)
    assert read_failures(str(tmp_path)) == []


def test_what_ray_train_gave_up_for_is_one_sentence(tmp_path):
    from ray.train import ControllerError, WorkerGroupError

    from dig_ray.on_ray.fit import _ended
    from dig_ray.on_ray.worker_failures import leave_sentence
    from dig_ray.training.config import SftConfig

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
