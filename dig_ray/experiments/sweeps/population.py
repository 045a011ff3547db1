"""Population based training (Jaderberg et al. 2017) as generations of trials.

Members are trained from one meeting to the next; there the worst take up a good one's checkpoint and its values, changed a little. Every
member is thereby a run's config with ``changes``: the winner can be trained again from nothing, with any seed, as any other run.

Tune's own scheduler for this decides while trials run, by who came first, and knows weights only as a trial's checkpoint. Here every
generation is a search of its own, so that it is repeatable, survives kills and failed members as every search does, and ends in a config.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dig_ray.artifacts.folders import read_bytes, write_bytes
from dig_ray.base import Stage
from dig_ray.errors import UserError
from dig_ray.experiments.sweeps.choosing import in_order
from dig_ray.experiments.sweeps.config import PbtConfig, SweepConfig
from dig_ray.experiments.sweeps.legs import (
    changes_of,
    keep_only,
    leg_name,
    now,
    with_changes,
    without_changes,
)
from dig_ray.experiments.sweeps.rows import rows_of
from dig_ray.experiments.sweeps.space import TRIES, Draws, Point, Range, canonical, settings_of
from dig_ray.experiments.sweeps.targets import TARGETS
from dig_ray.experiments.sweeps.trials import Leg, Trials, name_of

NEVER = 1_000_000
"""Patience of members: who falls behind is replaced."""


@dataclass(frozen=True)
class Population:
    """Members after their last leg, and how they came there.

    Attributes:
        rows: what ``rows_of`` gives, a row a member; ``last`` has the values that held at the end, and ``schedule`` what held from when on.
        generations: ``until`` and ``members``, each with ``name``, ``figure``, ``error`` and ``copied``, the one it took up.
    """

    rows: list[dict[str, Any]]
    generations: list[dict[str, Any]]


def without_patience(sweep: SweepConfig) -> SweepConfig:
    """A sweep whose members do not stop by themselves."""
    return sweep.model_copy(update={"settings": (*sweep.settings, f"{sweep.target}.patience={NEVER}")})


def meetings(pbt: PbtConfig, target: str, config: Any) -> list[int]:
    """Epochs (steps of RL) at which members meet.

    Raises:
        UserError: they are not where checkpoints are, or not before the run's end.
    """
    settings = getattr(config, target)
    between = getattr(settings, settings.BETWEEN)
    if pbt.interval % between:
        raise UserError(
            f"pbt.interval={pbt.interval} is no multiple of {target}.{settings.BETWEEN}={between}, where checkpoints are kept; "
            f"set it to {max(1, pbt.interval // between) * between}"
        )
    longest = TARGETS[target].longest
    if longest is None:
        assert pbt.generations is not None
        return [pbt.interval * k for k in range(1, pbt.generations)]
    epochs = longest(config)
    fit = (epochs - 1) // pbt.interval
    if (pbt.generations or 2) - 1 > fit:
        raise UserError(
            f"pbt: {pbt.generations or 2} generations of {pbt.interval} epochs do not fit the {epochs} epochs of {target}; "
            f"lower pbt.interval, or raise {target}.epochs"
        )
    return [pbt.interval * k for k in range(1, pbt.generations or fit + 1)]


def check_space(space: Mapping[str, Range], target: str, config: Any) -> None:
    """Refuse what cannot change while a policy is trained.

    Raises:
        UserError: with the keys that can.
    """
    possible = [f"{target}.{key}" for key in getattr(config, target).CHANGEABLE]
    for key in space:
        if key not in possible:
            raise UserError(
                f"space: {key} cannot change while a policy is trained, which pbt needs; remove it, or pbt. These can: "
                f"{', '.join(possible)}"
            )


def evolve(
    sweep: SweepConfig,
    trials: Trials,
    draws: Draws,
    points: Sequence[Point],
    stage: Stage,
    now_line: Callable[[str], None] | None = None,
) -> Population:
    """Train a population; what an earlier try has done is not done again.

    Args:
        sweep, trials: what is searched.
        draws: the space.
        points: what members begin with.
        stage: the sweep's.
        now_line: shows one line in place of the last.

    Raises:
        UserError: every member failed.
    """
    from dig_ray.experiments.sweeps.tune_search import search

    assert sweep.pbt is not None
    folder, notes = f"{stage.work}/members", f"{stage.work}/generations"
    figure, way = next(iter(sweep.directions.items()))
    ends = [*meetings(sweep.pbt, trials.target, trials.config({})), None]
    members = [with_changes(point, trials.target, {}) for point in points]
    copied = [""] * len(members)
    generations: list[dict[str, Any]] = []
    begin = 0
    for number, end in enumerate(ends, 1):
        kept = read_bytes(notes, f"{number:02d}.json")
        if kept is None:
            stage.log(f"sweep: generation {number} of {len(ends)}, {_until(trials.target, begin, end)}")
            legs = replace(trials, leg=Leg(begin, end, folder))
            name = f"generation-{number:02d}"
            grid = search(
                name,
                sweep,
                legs,
                stage.work,
                stage.log,
                draws,
                members,
                {figure: way},
                len(members),
                now=now_line,
            )
            rows = rows_of(grid, trials, f"{stage.work}/{name}-notes")
            kept = json.dumps(rows).encode()
            write_bytes(notes, f"{number:02d}.json", kept)
        by_point = {canonical(row["point"]): row for row in json.loads(kept)}
        rows = [by_point[canonical(member)] for member in members]
        generations.append({"until": end, "members": _standing(rows, copied, figure)})
        if all(not row["complete"] for row in rows):
            raise UserError(
                f"none of {len(rows)} members of generation {number} came to an end; the first says: {rows[0]['error']}"
            )
        keep_only(
            folder, trials.target, {leg_name(trials, row["point"], end) for row in rows if row["complete"]}
        )
        if end is not None:
            rng = np.random.default_rng([sweep.seed, number])
            members, copied = next_members(rows, {figure: way}, sweep.pbt, draws, trials.target, end, rng)
            begin = end
    target = trials.target
    return Population(
        [row | _history(row["point"], target) for row in rows],
        generations,
    )


def _history(point: Point, target: str) -> dict[str, Any]:
    own = dict(point) if changes_of(point, target) else without_changes(point, target)
    return {
        "point": own,
        "settings": settings_of(own),
        "last": now(point, target),
        "schedule": schedule(point, target),
    }


def schedule(point: Point, target: str) -> list[dict[str, Any]]:
    """``time`` and the ``values`` that hold from then on, at the beginning and after every change."""
    changes = changes_of(point, target)
    return [
        {
            "time": time,
            "values": now(
                with_changes(point, target, {t: v for t, v in changes.items() if t <= time}), target
            ),
        }
        for time in (0, *sorted(changes))
    ]


def _until(target: str, begin: int, end: int | None) -> str:
    return f"{TARGETS[target].time} {begin} to {'the end' if end is None else end}"


def _standing(rows: Sequence[Mapping[str, Any]], copied: Sequence[str], figure: str) -> list[dict[str, Any]]:
    return [
        {
            "name": row["name"],
            "figure": row["figures"].get(figure) if row["complete"] else None,
            "error": row["error"],
            "copied": parent,
        }
        for row, parent in zip(rows, copied, strict=True)
    ]


def next_members(
    rows: Sequence[Mapping[str, Any]],
    direction: Mapping[str, str],
    pbt: PbtConfig,
    draws: Draws,
    target: str,
    time: int,
    rng: np.random.Generator,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Members' points for the next leg, and whom each one took up ("" where it goes on by itself).

    The worst ``quantile``, and whoever failed, take up one of the best ``quantile``. A member for whom no new point is found leaves.

    Args:
        rows: the population, after the leg that ended at ``time``.
        direction: the figure members are compared by -> ``max`` or ``min``.
        pbt, draws, target: how, and of which space, values change.
        time: epochs (steps of RL).
        rng: decides.
    """
    order = [row["name"] for row in in_order([row for row in rows if row["complete"]], direction)]
    count = max(1, int(len(rows) * pbt.quantile))
    best = order[:count]
    going = set(order[: max(len(best), len(order) - count)])
    by_name = {row["name"]: row for row in rows}
    taken = {canonical(by_name[name]["point"]) for name in going}
    members: list[dict[str, Any]] = []
    copied: list[str] = []
    for row in rows:
        if row["name"] in going:
            members.append(dict(row["point"]))
            copied.append("")
            continue
        donor = by_name[best[int(rng.integers(len(best)))]]["point"]
        for _ in range(TRIES):
            point = changed(donor, draws.space, pbt.resample, target, time, rng)
            if canonical(point) not in taken and draws.possible(point):
                taken.add(canonical(point))
                members.append(point)
                copied.append(name_of(donor))
                break
    return members, copied


def changed(
    donor: Point,
    space: Mapping[str, Range],
    resample: float,
    target: str,
    time: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """A donor's point that goes on from ``time`` with values near its own."""
    held = now(donor, target)
    new = {
        key: one.draw(rng) if rng.random() < resample else one.near(held[key], rng)
        for key, one in space.items()
    }
    different = {key.removeprefix(f"{target}."): v for key, v in new.items() if v != held[key]}
    changes = changes_of(donor, target)
    return with_changes(donor, target, changes | ({time: different} if different else {}))
