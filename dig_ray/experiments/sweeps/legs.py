"""One leg of a member of a population: from the checkpoint of whom it goes on from to the next meeting.

What a member has been through is written in its point: the values it began with, and the ``changes`` of its config. So a leg's name
follows from its point, as an artifact's does from its recipe, whoever asks; and the point that wins is a run like any other.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from dig_ray.artifacts.folders import list_files, open_folder, patiently, read_bytes, remove_file, write_bytes
from dig_ray.artifacts.manifest import hash_json
from dig_ray.artifacts.store import Store
from dig_ray.base import Stage, Stretch
from dig_ray.experiments.sweeps.space import Point, plain
from dig_ray.experiments.sweeps.target_readers import trained_figures
from dig_ray.experiments.sweeps.trials import Leg, Trials
from dig_ray.pipeline import plan, run_pipeline, select
from dig_ray.training.validation_log import validations

Changes = dict[int, dict[str, Any]]


def changes_of(point: Point, target: str) -> Changes:
    """Time -> the config's key below the target -> value."""
    return {int(time): values for time, values in json.loads(point.get(f"{target}.changes", "{}")).items()}


def with_changes(point: Point, target: str, changes: Changes) -> dict[str, Any]:
    """The point with these changes and no others; Tune wants the key of all points or of none."""
    return {**point, f"{target}.changes": plain(changes)}


def without_changes(point: Point, target: str) -> dict[str, Any]:
    """What a member began with."""
    return {key: value for key, value in point.items() if key != f"{target}.changes"}


def now(point: Point, target: str) -> dict[str, Any]:
    """The values that hold after all changes."""
    held = without_changes(point, target)
    for _, values in sorted(changes_of(point, target).items()):
        held |= {f"{target}.{key}": value for key, value in values.items()}
    return held


def leg_name(trials: Trials, point: Point, end: int | None) -> str:
    """The name of the leg that ends at a time; changes from then on are not yet part of it."""
    past = {time: v for time, v in changes_of(point, trials.target).items() if end is None or time < end}
    return hash_json([trials.identity(with_changes(point, trials.target, past)), end])


def run_leg(
    trials: Trials, point: Point, config: Any, leg: Leg, log: Callable[[str], None]
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Train a member from one meeting to the next; its figures, and all its validations so far.

    Its figures are those of its latest validation, by which members are compared, and at the end those of its best one, which is what a run
    of its config publishes.
    """
    name = leg_name(trials, point, leg.end)
    done = read_bytes(leg.folder, f"{name}.json")
    if done is None:
        stats = _train(trials, point, config, leg, name, log)
        done = json.dumps(stats).encode()
        write_bytes(leg.folder, f"{name}.json", done)
    time = trials.judged.time
    curve = validations(json.loads(done)["curves"], time)
    return trained_figures(curve, time, best=leg.end is None), curve


def _train(
    trials: Trials, point: Point, config: Any, leg: Leg, name: str, log: Callable[[str], None]
) -> dict[str, Any]:
    target = trials.target
    step = plan(config, select(config, only=target), Store(config.store))[-1]
    inputs = run_pipeline(config, only=list(step.recipe.inputs), log=log, brief=True, wait=True)
    start = ""
    if leg.begin:
        before = read_bytes(leg.folder, f"{leg_name(trials, point, leg.begin)}.json")
        assert before is not None
        start = json.loads(before)["checkpoint"]
    with tempfile.TemporaryDirectory() as out:
        stage = Stage(
            target, name, step.recipe.seed, Path(out), leg.folder, log=log, stretch=Stretch(leg.end, start)
        )
        step.spec.start(config, stage, {name: inputs[name].path for name in step.recipe.inputs})
    return stage.stats


def keep_only(folder: str, target: str, names: Mapping[str, Any] | set[str]) -> None:
    """Remove the checkpoints and notes of all other legs.

    Args:
        folder: local folder or URI of the population's checkpoints.
        target: the stage that is trained.
        names: the names of the legs that are kept.
    """
    runs = {f"{target}-{name[:16]}" for name in names}
    system, _ = open_folder(folder)
    for name, entry in list_files(folder).items():
        if entry.is_file and name.removesuffix(".json") not in names:
            remove_file(folder, name)
        elif not entry.is_file and name not in runs:
            patiently(partial(system.delete_dir, entry.path), folder)
