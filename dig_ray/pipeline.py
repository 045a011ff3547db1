"""The stages in order; what is already published is not run again.

A stage is a declaration: its name, what of the config and which artifacts it depends on, where its code starts,
and a function that runs it. From these follows its fingerprint, before anything has run: so a whole run is
planned at once, a finished one returns in about a second, and Ray starts only if some stage has to run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dig_ray.artifacts.code_version import code_hash
from dig_ray.artifacts.manifest import Recipe, hash_input_files
from dig_ray.artifacts.outdated import outdated, outdated_line
from dig_ray.artifacts.store import Artifact, Store
from dig_ray.base import Inputs, Stage, is_free
from dig_ray.checks.data_fit import look
from dig_ray.checks.preflight import gpu_problems, little_space, problems, unreadable_files
from dig_ray.config import RunConfig
from dig_ray.errors import UserError, raise_all
from dig_ray.guards.heartbeat import Voice
from dig_ray.guards.redaction import hide
from dig_ray.on_ray.session import RaySession, in_ray_job
from dig_ray.on_ray.telemetry import alive
from dig_ray.report.artifact_metrics import running, tell
from dig_ray.stage_spec import StageSpec
from dig_ray.stages import STAGES


@dataclass(frozen=True)
class Step:
    """One stage of one run: its declaration, its recipe, and what came of it."""

    spec: StageSpec
    recipe: Recipe


class Outcome(dict[str, Artifact]):
    """What a run has at its end: stage -> artifact, in the order of the run.

    Attributes:
        made: the stages that ran now; the artifacts of the others were found.
    """

    def __init__(self) -> None:
        super().__init__()
        self.made: set[str] = set()


def select(
    config: Any,
    until: str | None = None,
    only: str | Sequence[str] | None = None,
    stages: Sequence[StageSpec] = STAGES,
) -> list[StageSpec]:
    """The stages a run covers, in order: all, those up to ``until``, or ``only`` some and what they read.

    Raises:
        UserError: an unknown stage, one that this config does not ask for, or one that has nothing to learn from.
    """
    named = [only] if isinstance(only, str) else list(only or ())
    chosen = demanded(config, stages, [name for name in named if can_run(config, name, stages)])
    for option, name in (("--until", until), *(("the stage", name) for name in named)):
        check_stage(name, chosen, option)
    if until is not None:
        chosen = chosen[: [spec.name for spec in chosen].index(until) + 1]
    if named:
        chosen = read_by(config, named, chosen)
    idle = next((number for number, spec in enumerate(chosen) if spec.uses_interactions), None)
    if idle is not None and not config.catalog.has_interactions:
        raise UserError(
            f"the stage {chosen[idle].name} needs interactions, and this catalogue has none; give catalog.interactions.path, or stop "
            f"before it with --until {chosen[max(idle - 1, 0)].name}"
        )
    return chosen


def demanded(config: Any, stages: Sequence[StageSpec], named: Sequence[str] = ()) -> list[StageSpec]:
    """The stages that the config asks for, those that are named, and all that one of these needs; in order."""
    wanted, chosen = set(named), []
    for spec in reversed(stages):
        possible = spec.possible is None or spec.possible(config)
        if spec.asked(config) or (spec.name in wanted and possible):
            chosen.append(spec)
            wanted.update(spec.needs_of(config))
    return chosen[::-1]


def read_by(config: Any, named: Sequence[str], stages: Sequence[StageSpec]) -> list[StageSpec]:
    """Of the stages that run, those named and what they read, and so on."""
    running, wanted = [spec.name for spec in stages], set(named)
    for number, spec in reversed(list(enumerate(stages))):
        if spec.name in wanted:
            wanted.update(spec.reads(config, running[:number]))
    return [spec for spec in stages if spec.name in wanted]


def can_run(config: Any, stage: str, stages: Sequence[StageSpec] = STAGES) -> bool:
    """Whether a stage can be asked for by name under a config."""
    spec = next((spec for spec in stages if spec.name == stage), None)
    if spec is None:
        return False
    if spec.possible is not None:
        return spec.possible(config)
    return spec in demanded(config, stages)


def check_stage(name: str | None, stages: Sequence[StageSpec], option: str) -> None:
    """Refuse a stage name that is not among ``stages``."""
    names = [spec.name for spec in stages]
    if name is not None and name not in names:
        raise UserError(f"{option} {name} is no stage of this run; the stages are {', '.join(names)}")


def plan(config: Any, stages: Sequence[StageSpec], store: Store) -> list[Step]:
    """The recipe of every stage; no stage runs.

    Raises:
        UserError: a file from outside is missing.
    """
    steps: dict[str, Step] = {}
    for spec in stages:
        recipe = Recipe(
            stage=spec.name,
            config=counted_settings(config, spec.settings_of(config)),
            inputs={name: steps[name].recipe.fingerprint for name in spec.reads(config, list(steps))},
            code=code_hash(spec.modules_of(config)),
            seed=config.seed if spec.seeded(config) else 0,
            files=hash_input_files(spec.files(config), store.local / ".verified" / "inputs.json"),
        )
        steps[spec.name] = Step(spec, recipe)
    return list(steps.values())


def counted_settings(config: Any, keys: Sequence[str]) -> dict[str, Any]:
    """The settings under some dotted keys, as nested mappings, without what is marked as free.

    Args:
        config: the run's config.
        keys: ``room``, ``room.field`` and so on; ``-room.field`` leaves one out again; ``*`` is every room, and the run's name.
    """
    found: dict[str, Any] = {}
    for key in keys:
        if key.startswith("-"):
            _drop(found, key[1:].split("."))
            continue
        for path in _all_that_counts(config) if key == "*" else [key]:
            *above, last = path.split(".")
            value, within = config, found
            for name in above:
                value, within = getattr(value, name), within.setdefault(name, {})
            within[last] = value.counted()[last]
    return found


def _all_that_counts(config: Any) -> list[str]:
    """Name and rooms of a run; its seed is in every recipe that it changes."""
    return [key for key, field in type(config).model_fields.items() if key != "seed" and not is_free(field)]


def find_published(config: Any, stage: str, stages: Sequence[StageSpec] = STAGES) -> Artifact | None:
    """The artifact of a stage under this config, if it is published; None also where the config cannot have it."""
    if not can_run(config, stage, stages):
        return None
    store = Store(config.store)
    recipe = plan(config, select(config, only=stage, stages=stages), store)[-1].recipe
    return store.find(recipe.stage, recipe.fingerprint)


def _drop(settings: Any, key: Sequence[str]) -> None:
    """Remove a dotted key; below a list, from each of its entries."""
    if isinstance(settings, list):
        for entry in settings:
            _drop(entry, key)
    elif isinstance(settings, dict) and len(key) > 1:
        _drop(settings.get(key[0]), key[1:])
    elif isinstance(settings, dict):
        settings.pop(key[0], None)


def run_pipeline(
    config: Any,
    until: str | None = None,
    only: str | Sequence[str] | None = None,
    force: Sequence[str] = (),
    stages: Sequence[StageSpec] = STAGES,
    log: Callable[[str], None] | None = None,
    brief: bool = False,
    wait: bool = False,
    report: Callable[[Mapping[str, float]], None] | None = None,
) -> Outcome:
    """Run what is missing, and say of each stage how it goes.

    Args:
        config: the run's config.
        until: stop after this stage.
        only: run this stage, or these, and before them what they need.
        force: stages to run again although they are published. If one then comes out different, what was
            built on it in this run is built again too.
        stages: the declarations.
        log: prints one line; by default to standard output, at once.
        brief: only speak of stages that run now.
        wait: whether to wait for an artifact that another run is making, instead of refusing.
        report: gets a training run's figures while it runs.

    Returns:
        stage name -> artifact, and which of them were made now.

    Raises:
        UserError: see the stages, and :class:`~dig_ray.artifacts.store.Store`.
    """
    voice = Voice(log or _print)
    log = voice.say
    chosen = select(config, until, only, stages)
    for name in force:
        check_stage(name, chosen, "--force")
    store = Store(config.store)
    if in_ray_job() and store.remote is None and not Path(config.store).is_absolute():
        log(
            f"note: store {config.store} is inside this job's working directory; set store= to a lasting place"
        )
    ours = stages is STAGES and isinstance(config, RunConfig)
    with nullcontext() if brief else voice.at_work("looking at input files and at what is published"):
        raise_all(unreadable_files(config, chosen))
        steps = plan(config, chosen, store)
        todo = [
            step.spec.name
            for step in steps
            if step.spec.name in force or not store.has(step.spec.name, step.recipe.fingerprint)
        ]
        if todo and not brief:
            old = outdated_line(*outdated([step.recipe for step in steps], todo, store.local))
            if old is not None:
                log(old)
        if ours and todo:
            check_before(config, todo, store, _nobody if brief else log)
    done = Outcome()
    changed: set[str] = set()
    untold: list[str] = []
    with RaySession(config.ray, lambda line: log(f"      {line}")) as session:
        for number, step in enumerate(steps, 1):
            spec, recipe = step.spec, step.recipe
            head = f"[{number}/{len(steps)}] {spec.name} {recipe.fingerprint[:6]}"
            forced = spec.name in force or any(name in changed for name in recipe.inputs)
            before = store.listed_files(recipe.stage, recipe.fingerprint) if forced else None
            inputs = {name: done[name].path for name in recipe.inputs}

            def begin(head: str = head, spec: StageSpec = spec) -> None:
                log(f"{head} ...")
                if spec.on_ray(config):
                    session.start()
                    if ours and session.own:
                        raise_all(gpu_problems(config, todo, session.gpus))

            def work(stage: Stage, spec: StageSpec = spec, inputs: Inputs = inputs) -> None:
                with running(spec.name):
                    spec.start(config, stage, inputs)
                if "catalog" in done:  # every number stands beside the split it was taken on
                    for key in ("split_name", "split_hash"):
                        stage.stats.setdefault(key, done["catalog"].stats.get(key))

            beating = nullcontext() if brief else voice.at_work(f"      {spec.name}")
            with beating:
                artifact, fresh = store.build(
                    recipe,
                    work,
                    force=forced,
                    log=lambda line: log(f"      {line}"),
                    before=begin,
                    wait=wait,
                    report=report,
                )
            if forced and artifact.manifest["files"] != before:
                changed.add(spec.name)
            done[spec.name] = artifact
            if fresh:
                done.made.add(spec.name)
            untold.append(spec.name)
            while untold and alive():  # what was there before Ray started is told when it has
                name = untold.pop(0)
                tell(done[name], name in done.made)
            if fresh or not brief:
                log(f"{head} {_came_about(artifact, fresh)}")
            if ours and spec.name == "catalog":
                check_fit(config, artifact.stats, todo, _nobody if brief else log)
    return done


def duration(artifact: Artifact) -> str:
    """How long a stage took when it was made: ``"12.0 s"``, or ``"3.5 min"`` from two minutes on."""
    seconds = float(artifact.manifest["seconds"])
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _came_about(artifact: Artifact, fresh: bool) -> str:
    """``"done in 9.8 s, 12,101 rows (1,234 rows/s)"``; no rows for a stage that counts none, no rate for one that was found."""
    how = f"done in {duration(artifact)}" if fresh else "found"
    rows = artifact.stats.get("rows")
    if not isinstance(rows, int):
        return how
    rate = rows / max(float(artifact.manifest["seconds"]), 1e-3)
    shown = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
    return f"{how}, {rows:,} rows" + (f" ({shown} rows/s)" if fresh else "")


def check_before(config: Any, todo: Sequence[str], store: Store, log: Callable[[str], None]) -> None:
    """Refuse what cannot work before Ray starts, all of it at once; warn of a disk that is nearly full."""
    raise_all(problems(config, todo, config.ray.address is None and not in_ray_job()))
    warning = little_space(store.local)
    if warning is not None:
        log(f"warning: {warning}")


def check_fit(config: Any, stats: Mapping[str, Any], todo: Sequence[str], log: Callable[[str], None]) -> None:
    """Refuse what does not go with the catalogue, all of it at once, and warn of what hardly does."""
    fit = look(config, stats, todo)
    for warning in fit.warnings:
        log(f"      warning: {warning}")
    raise_all(fit.faults, "these settings do not go with the catalogue")


def _nobody(line: str) -> None:
    """Whoever runs one stage of many has said it once."""


def _print(line: str) -> None:
    print(hide(line), file=sys.stdout, flush=True)
