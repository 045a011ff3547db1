"""Why training workers failed: said when it happens, and the end of the run where another try would fail the same way.

Ray Train replaces workers that fail and begins again from the last checkpoint, whatever the reason was. A machine that died is worth
that; an error of the program comes back at the same place. So the process that directs the workers writes each reason down, workers say
it when they begin again, and an error that came twice from the same place ends the run with one sentence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import ray.exceptions
from ray.train import UserCallback

from dig_ray.artifacts.folders import read_bytes, write_bytes
from dig_ray.errors import UserError, causes
from dig_ray.guards.redaction import hide
from dig_ray.on_ray.run_folder import keep_copy
from dig_ray.on_ray.said import GOES_ON
from dig_ray.on_ray.session import teller

FAILURES = "failures.json"
"""Of a run's ``failed`` folder: a list of ``Failure``."""
BEGAN = "began.json"
"""Where the present workers began, as ``place_of`` says it."""
STOPPED = "stopped.json"
"""What is left in ``failed`` when going on makes no sense: ``{"sentence": ...}``."""
COLLATERAL = ("connection", "gloo", "nccl", "timed out", "peer", "process group")
"""Words of errors that a worker's end brings upon the others."""
MOST = 300


class Failure(NamedTuple):
    """Why workers failed.

    Attributes:
        reason: why, in words.
        comes_back: whether the program is at fault, and not a machine.
        at_once: whether a single time is enough to know.
        place: where the workers had begun.
    """

    reason: str
    comes_back: bool
    at_once: bool
    place: str = ""


def failure_of(errors: Mapping[int, BaseException]) -> Failure:
    """The reason behind workers' errors (by rank): one of the program before what it brought upon the other workers."""
    found = [_failure(error) for error in errors.values()]
    found.sort(key=lambda one: (not one.at_once, not one.comes_back))
    return found[0]


def _failure(error: BaseException) -> Failure:
    chain = list(causes(getattr(error, "_base_exc", error)))  # Ray Train's wrapper has the trace for its text
    for one in chain:
        if isinstance(one, UserError):
            return Failure(str(one.args[0]) if one.args else "bad input", True, True)
    for one in chain:
        if isinstance(one, ray.exceptions.OutOfMemoryError):
            return Failure("out of memory: Ray ended the worker before the machine ran out", True, False)
        if isinstance(one, ray.exceptions.RayActorError):
            return Failure(f"its process ended: {_first_line(one)}", False, False)
    inner = chain[0]
    said = _first_line(inner)
    name = type(inner).__name__
    if "OutOfMemory" in name or "not enough memory" in said:
        return Failure(f"out of memory ({name}: {said})", True, False)
    collateral = any(word in said.lower() for word in COLLATERAL)
    return Failure(f"{name}: {said}" if said else name, not collateral, isinstance(inner, ImportError))


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in hide(str(error)).splitlines() if line.strip()]
    return lines[0][:MOST] if lines else ""


class SayFailures(UserCallback):
    """On the process that directs the workers: reasons into the log and the run's folder, and a copy of Ray's list of checkpoints.

    Args:
        name: the stage's name.
        folder: the run's folder, a local directory or a URI.
        failed: the folder in it for what went wrong.
        lines: the queue whose lines the driver logs.
    """

    def __init__(self, name: str, folder: str, failed: str, lines: Any) -> None:
        self.name, self.folder, self.failed, self.lines = name, folder, failed, lines

    def after_report(self, run_context: Any, metrics: Any, checkpoint: Any) -> None:
        if checkpoint is not None:
            with suppress(Exception):  # a store that stumbles costs the copy and not the run
                keep_copy(self.folder)

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
        failure = failure_of(worker_exceptions)
        teller(self.lines)(f"{self.name}: a worker failed ({failure.reason})")
        with suppress(Exception):  # as above: the next worker begins again all the same
            self._remember(failure)

    def _remember(self, failure: Failure) -> None:
        failure = failure._replace(place=_read(self.failed, BEGAN) or "step 0")
        past = read_failures(self.failed)
        write_bytes(self.failed, FAILURES, json.dumps([*past, failure]).encode())
        if failure.at_once:
            leave_sentence(self.failed, sentence(self.name, failure))
        elif failure.comes_back and past and past[-1] == failure:
            leave_sentence(
                self.failed, sentence(self.name, failure, f" twice after beginning from {failure.place}")
            )


def sentence(name: str, failure: Failure, times: str = "") -> str:
    """What ends a run, with a cure."""
    if failure.at_once and not failure.reason.startswith(("ImportError", "ModuleNotFoundError")):
        return failure.reason  # a sentence with a cure of its own
    cure = f"mend that, and {GOES_ON}"
    if failure.reason.startswith("out of memory") and name == "sft":
        cure = "raise sft.gradient_accumulation, lower sft.row_length, or set sft.gradient_checkpointing=true"
    elif failure.at_once:
        cure = "install it where workers run"
    return f"{name}: training failed{times}: {failure.reason}; {cure}"


def read_failures(failed: str) -> list[Failure]:
    """Of this command's workers so far, the latest last."""
    return [Failure(*one) for one in _read(failed, FAILURES) or []]


def begin(failed: str, place: str) -> None:
    """Note where workers begin."""
    write_bytes(failed, BEGAN, json.dumps(place).encode())


def leave_sentence(failed: str, said: str) -> None:
    """Say why every further try would end the same; the driver raises it as a UserError."""
    write_bytes(failed, STOPPED, json.dumps({"sentence": said}).encode())


def read_sentence(failed: str) -> str | None:
    """What ``leave_sentence`` left; None where nothing did."""
    found = _read(failed, STOPPED)
    return found.get("sentence") if isinstance(found, dict) else None


def _read(failed: str, name: str) -> Any:
    content = read_bytes(failed, name)
    try:
        return None if content is None else json.loads(content)
    except ValueError:
        return None
