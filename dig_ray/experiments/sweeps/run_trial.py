"""A trial as Tune runs it: one point of the space taken to the sweep's target through the store, and its figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dig_ray.artifacts.folders import read_bytes, write_bytes
from dig_ray.artifacts.store import NO_SPACE
from dig_ray.errors import UserError
from dig_ray.experiments.sweeps.legs import run_leg
from dig_ray.experiments.sweeps.space import Point
from dig_ray.experiments.sweeps.targets import Target
from dig_ray.experiments.sweeps.trials import Trials, name_of
from dig_ray.on_ray.said import GOES_ON
from dig_ray.on_ray.session import find_user_error, quiet_ray_data
from dig_ray.pipeline import run_pipeline

Figures = Mapping[str, float]


def run_trial(point: dict[str, Any], trials: Trials, threads: int, notes: str) -> None:
    """Tune's function: a driver without a CPU of its own around the stages, which ask for theirs.

    Args:
        point: what is tried.
        trials: what runs it.
        threads: the threads of torch in this process, where quantizers run.
        notes: folder or URI for what the trial says, and for why it failed.

    Raises:
        UserError: a stage failed in a way that a person can mend; its sentence is left among the notes.
    """
    import torch
    from ray import tune

    torch.set_num_threads(threads)
    quiet_ray_data()
    name = name_of(point)
    known = why_failed(notes, point)
    if known is not None:  # Tune tries again whatever failed
        raise UserError(known)
    lines: list[str] = []
    try:
        each = [run_point(trials, point, seed, lines.append, _told(trials.judged)) for seed in trials.seeds]
    except Exception as error:
        sentence = find_user_error(error)
        # neither a full disk nor a machine that died says anything of the point
        if sentence is not None and not any(word in sentence for word in (NO_SPACE, GOES_ON)):
            write_bytes(notes, f"{name}.failed", sentence.encode())
        raise
    finally:
        write_bytes(notes, f"{name}.log", "".join(f"{line}\n" for line in lines).encode())
    tune.report(
        over_seeds([figures for figures, _ in each]) | {"complete": 1, "curve": json.dumps(each[0][1])}
    )


def why_failed(notes: str, point: Point) -> str | None:
    """The sentence that a trial left; None where it did not."""
    sentence = read_bytes(notes, f"{name_of(point)}.failed")
    return None if sentence is None else sentence.decode()


def run_point(
    trials: Trials,
    point: Point,
    seed: int,
    log: Callable[[str], None],
    report: Callable[[Figures], None] | None = None,
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Run one point with one seed to the target, or one leg of it.

    Args:
        trials: what runs it.
        point: what is tried.
        seed: the run's seed.
        log: prints one line.
        report: gets figures while a stage runs in this process.

    Returns:
        Its figures, and its validations on the way, where it has any.
    """
    config = trials.config(point, seed)
    if trials.leg is not None:
        return run_leg(trials, point, config, trials.leg, log)
    done = run_pipeline(config, only=trials.target, log=log, brief=True, wait=True, report=report)
    artifact = done[trials.target]
    return trials.judged.figures(artifact), trials.judged.curve(artifact)


def _told(target: Target) -> Callable[[Figures], None] | None:
    """What hands to Tune the figures of a stage that runs in this process; None where Ray Train does it itself."""
    from ray import tune

    told = target.told
    return None if told is None else lambda figures: tune.report(told(figures))


def over_seeds(each: Sequence[Figures]) -> dict[str, Any]:
    """Means, and with several seeds the list of every seed's ``per_seed/...`` figures."""
    found: dict[str, Any] = {name: sum(one[name] for one in each) / len(each) for name in each[0]}
    if len(each) > 1:
        found |= {f"per_seed/{name}": [one[name] for one in each] for name in each[0]}
    return found
