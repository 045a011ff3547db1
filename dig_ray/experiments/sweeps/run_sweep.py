"""A sweep from its config to a table, a page and the chosen config; what is done is not done again.

The sweep is an artifact like any other: its name is the hash of what it searches and of the base run, a killed one goes on, a finished one
is found. Its trials run through the same store, so what several of them share is made once.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dig_ray.artifacts.code_version import code_hash
from dig_ray.artifacts.manifest import Recipe, hash_input_files
from dig_ray.artifacts.store import Artifact, Store
from dig_ray.base import Stage
from dig_ray.checks.data_fit import look
from dig_ray.config import to_yaml
from dig_ray.errors import UserError
from dig_ray.experiments.sweeps.choosing import in_order, judged_rows, pareto, standings
from dig_ray.experiments.sweeps.config import SweepConfig
from dig_ray.experiments.sweeps.population import check_space, evolve, meetings, without_patience
from dig_ray.experiments.sweeps.rows import rows_of
from dig_ray.experiments.sweeps.space import Draws, Point, canonical, parse_range
from dig_ray.experiments.sweeps.storage import kept_files, written_to
from dig_ray.experiments.sweeps.trials import Trials
from dig_ray.guards.heartbeat import Voice
from dig_ray.on_ray.session import RaySession, set_environment
from dig_ray.pipeline import check_before, plan, run_pipeline, select
from dig_ray.report.page import template_files
from dig_ray.report.sweep_page import write_sweep

NOT_RESULTS = ("name", "max_concurrent", "retries", "mlflow")
"""Settings that decide how a sweep runs and not what it finds."""


def run_sweep(
    sweep: SweepConfig,
    configs: Path,
    log: Callable[[str], None],
    now: Callable[[str], None] | None = None,
) -> Artifact:
    """Search, take the best further, and publish ``sweep.json``, ``sweep.html``, ``chosen.yaml`` and TensorBoard's logs.

    Args:
        sweep: what is searched.
        configs: where named runs are.
        log: prints one line.
        now: shows one line in place of the last, on a terminal.

    Raises:
        UserError: a wrong key or space, nothing possible, every trial failed, or a storage that cannot be written to.
    """
    if sweep.mlflow is not None:
        from dig_ray.experiments.sweeps.mlflow_log import tracking

        tracking(sweep.mlflow)  # what is missing is said now, not after hours
    if sweep.pbt is not None:
        sweep = without_patience(sweep)
    trials = Trials.of(sweep, configs)
    space = {key: parse_range(key, text) for key, text in sweep.space.items()}
    base = trials.config({})
    for key, one in space.items():
        trials.check_key(key, one)
    if sweep.scheduler is not None and sweep.scheduler.grace > trials.longest:
        raise UserError(
            f"scheduler.grace={sweep.scheduler.grace} is more than the {trials.longest} epochs of a trial; lower it"
        )
    if sweep.pbt is not None:
        check_space(space, sweep.target, base)
        meetings(sweep.pbt, sweep.target, base)
    store = Store(base.store)
    judged = plan(base, select(base, only=sweep.target), store)[-1].recipe
    recipe = Recipe(
        stage="sweep",
        config={
            "sweep": {k: v for k, v in sweep.model_dump(mode="json").items() if k not in NOT_RESULTS},
            "base": {
                k: v for k, v in base.model_dump(mode="json").items() if k not in ("name", "store", "ray")
            },
        },
        inputs={"base": judged.fingerprint},
        code=code_hash(("dig_ray.experiments.sweeps.run_sweep",)),
        seed=sweep.seed,
        files=hash_input_files({path.name: path for path in template_files()}),
    )

    def work(stage: Stage) -> None:
        nonlocal trials
        set_environment(base.ray)  # Tune's distributions import Ray
        trials = _checked(sweep, trials, base, store, stage.log)
        draws = Draws(space, trials.why_not, trials.identity)
        points = _points(sweep, trials, draws)
        count = sweep.samples if points is None else len(points)
        if points is not None and draws.impossible:
            stage.log(
                f"sweep: {draws.impossible} points are impossible and left out, such as: {draws.reason}"
            )
        with RaySession(base.ray, stage.log) as session, written_to(stage.work):
            session.start()
            _search_and_write(sweep, trials, draws, points, count, stage, now)

    begun = time.perf_counter()
    voice = Voice(lambda line: log(f"      {line}"))
    with voice.at_work("sweep"):
        artifact, fresh = store.build(recipe, work, log=voice.say)
    log(f"{sweep.name}: {'done' if fresh else 'found'}, {time.perf_counter() - begun:.1f} s")
    for line in artifact.stats["lines"]:
        log(line)
    log(f"chosen: {artifact.path / 'chosen.yaml'}")
    log(f"tensorboard: tensorboard --logdir {artifact.path / 'tensorboard'}")
    log(f"page: {artifact.path / 'sweep.html'}")
    return artifact


def _checked(
    sweep: SweepConfig, trials: Trials, base: Any, store: Store, log: Callable[[str], None]
) -> Trials:
    """The trials, with the catalogue that points have to go with, which is made first.

    Raises:
        UserError: with all that cannot work, of the base run and of what finalists go on to.
    """
    runs = [(base, sweep.target)]
    if sweep.finalists is not None:
        runs.append((_further(sweep, trials).config({}), sweep.finalists.target))
    todo: list[str] = []
    for config, target in runs:
        steps = plan(config, select(config, only=target), store)
        todo = [step.spec.name for step in steps if not store.has(step.spec.name, step.recipe.fingerprint)]
        if todo:
            check_before(config, todo, store, log)
    catalog = run_pipeline(base, only="catalog", log=log, brief=True)["catalog"]
    for warning in look(runs[-1][0], catalog.stats, todo).warnings:
        log(f"warning: {warning}")
    return replace(trials, catalogue=(catalog.fingerprint, dict(catalog.stats)))


def _further(sweep: SweepConfig, trials: Trials) -> Trials:
    """What finalists go on with."""
    assert sweep.finalists is not None
    settings = (*trials.settings, *sweep.finalists.settings)
    return replace(trials, settings=settings, target=sweep.finalists.target, leg=None)


def _base(sweep: SweepConfig, trials: Trials, draws: Draws) -> list[Point]:
    """The base run's own values, where they are to be tried and make a point; Optuna takes no others than its own."""
    base = trials.base_point(list(draws.space))
    whole = sweep.include_base and len(base) == len(draws.space)
    drawable = sweep.search != "optuna" or all(draws.space[key].holds(value) for key, value in base.items())
    return [base] if whole and drawable else []


def _points(sweep: SweepConfig, trials: Trials, draws: Draws) -> list[Point] | None:
    """What is tried, the base run's own values first; None where Optuna chooses."""
    if sweep.search == "optuna":
        return None
    first = _base(sweep, trials, draws)
    return draws.grid(first) if sweep.search == "grid" else draws.random(sweep.samples, sweep.seed, first)


def _search_and_write(
    sweep: SweepConfig,
    trials: Trials,
    draws: Draws,
    points: Sequence[Point] | None,
    count: int,
    stage: Stage,
    now: Callable[[str], None] | None,
) -> None:
    begun = time.perf_counter()
    directions = sweep.directions
    generations: list[dict[str, Any]] = []
    if sweep.pbt is None:
        found = _trials(sweep, trials, draws, points, count, stage, now)
    else:
        assert points is not None
        population = evolve(sweep, trials, draws, points, stage, now)
        found, generations = population.rows, population.generations
    ended = _ended(found, directions, draws)
    further = None if sweep.finalists is None else _further(sweep, trials)
    final = [] if further is None else _finalists(sweep, trials, further, ended, draws, stage, now)
    judged, ways = judged_rows(found, final, directions, {} if further is None else further.judged.main)
    winner = in_order(judged, ways)[0]
    report = {
        "name": sweep.name,
        "config": sweep.model_dump(mode="json"),
        "base": trials.base_point(list(draws.space)),
        "directions": directions,
        "final_directions": ways if final else {},
        "time": trials.judged.time,
        "final_time": "" if further is None else further.judged.time,
        "trials": found,
        "generations": generations,
        "finalists": final,
        "impossible": draws.impossible,
        "reason": draws.reason,
        "winner": winner["name"],
        "front": [row["name"] for row in pareto(ended, directions)] if len(directions) > 1 else [],
        "seconds": round(time.perf_counter() - begun, 1),
    }
    (stage.out / "sweep.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    config = trials.config(winner["point"]).model_copy(update={"name": f"{sweep.name}-chosen"})
    (stage.out / "chosen.yaml").write_text(to_yaml(config), encoding="utf-8")
    _keep(stage)
    write_sweep(report, standings(report), stage)
    if sweep.mlflow is not None:
        from dig_ray.experiments.sweeps.mlflow_log import log_sweep

        log_sweep(sweep, report, trials, stage)


def _trials(
    sweep: SweepConfig,
    trials: Trials,
    draws: Draws,
    points: Sequence[Point] | None,
    count: int,
    stage: Stage,
    now: Callable[[str], None] | None,
) -> list[dict[str, Any]]:
    from dig_ray.experiments.sweeps.tune_search import search

    grid = search(
        "trials",
        sweep,
        trials,
        stage.work,
        stage.log,
        draws,
        points,
        sweep.directions,
        count,
        sweep.scheduler,
        _base(sweep, trials, draws),
        now,
    )
    return rows_of(grid, trials, f"{stage.work}/trials-notes")


def _ended(
    rows: Sequence[Mapping[str, Any]], directions: Mapping[str, str], draws: Draws
) -> list[Mapping[str, Any]]:
    """The trials that came to an end.

    Raises:
        UserError: none did, or none reported what a sweep goes by.
    """
    ended = [row for row in rows if row["complete"]]
    if not ended:
        reasons = [row["error"] for row in rows if row["error"]]
        raise UserError(
            f"none of {len(rows)} trials came to an end; the first says: {reasons[0]}"
            if reasons
            else draws.nothing()
        )
    for figure in directions:
        if all(figure not in row["figures"] for row in ended):
            raise UserError(
                f"objectives: no trial reported {figure}; they reported {', '.join(sorted(ended[0]['figures']))}"
            )
    return ended


def _finalists(
    sweep: SweepConfig,
    trials: Trials,
    further: Trials,
    ended: Sequence[Mapping[str, Any]],
    draws: Draws,
    stage: Stage,
    now: Callable[[str], None] | None,
) -> list[dict[str, Any]]:
    """The best trials and the base run, taken further."""
    from dig_ray.experiments.sweeps.tune_search import search

    assert sweep.finalists is not None
    base = trials.base_point(list(draws.space))
    chosen = [dict(row["point"]) for row in in_order(ended, sweep.directions)[: sweep.finalists.count]]
    if len(base) == len(draws.space) and canonical(base) not in map(canonical, chosen):
        chosen.append(base)
    stage.log(f"sweep: {len(chosen)} finalists go on to {further.target}")
    grid = search(
        "finalists",
        sweep,
        further,
        stage.work,
        stage.log,
        draws,
        chosen,
        further.judged.main,
        len(chosen),
        now=now,
    )
    return rows_of(grid, further, f"{stage.work}/finalists-notes")


def _keep(stage: Stage) -> None:
    """TensorBoard's files and what trials said, out of the folders that go when the sweep is published."""
    for name, read in kept_files(stage.work):
        target = stage.out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with read() as source, target.open("wb") as out:
            shutil.copyfileobj(source, out)
