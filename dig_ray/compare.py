"""Several variants of one run, several seeds each: shared stages once, and one table that says what made a difference.

A variant is the base run with some settings changed. Every stage of every cell (variant, seed) is planned first; what several cells
share has one fingerprint and is made once, and what is published already is found. So a comparison that was killed, or that
gets one more variant, only runs what is missing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from dig_ray.base import Config, Stage
from dig_ray.baselines.config import BaselineName
from dig_ray.cluster import (
    RaySession,
    beside_the_driver,
    find_user_error,
    in_ray_job,
    processors,
    quiet_ray_data,
)
from dig_ray.code_version import code_hash
from dig_ray.config import COMMAND_LINE, NAME_PATTERN, load_config
from dig_ray.data_fit import look
from dig_ray.errors import UserError, raise_all
from dig_ray.heartbeat import SILENCE_S
from dig_ray.manifest import Recipe, hash_input_files
from dig_ray.pipeline import plan, run_pipeline, select
from dig_ray.preflight import problems, said
from dig_ray.report.page import template_files
from dig_ray.store import Artifact, Store

SCORED = {"policy": "evaluation", "multi_interest": "multi_interest"}
"""Whose lists are compared -> the stage that a variant is run to; baselines are their own."""
Key = tuple[str, str]
"""(stage, fingerprint)"""


class ComparisonConfig(Config):
    """What is compared.

    Attributes:
        name: of the comparison.
        base: the run that all variants change: a config's name or file.
        settings: ``key=value`` laid over the base, for all variants.
        variants: name -> ``key=value`` settings of its own; the first is what the others are measured against.
        lists: variant -> whose lists stand for it: the ``policy``'s where nothing is said, those of ``multi_interest``, or of a baseline.
        seeds: each variant runs once with each.
        parallel: stages that run at once; by default one for every two CPUs of the cluster.
        n_bootstrap: resamples of users for the intervals.
    """

    name: str = Field(default="comparison", pattern=NAME_PATTERN)
    base: str = Field(min_length=1)
    settings: tuple[str, ...] = ()
    variants: dict[str, tuple[str, ...]] = Field(min_length=1)
    lists: dict[str, Literal["policy", "multi_interest"] | BaselineName] = {}
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    parallel: int | None = Field(None, ge=1)
    n_bootstrap: int = Field(1000, ge=1)

    @model_validator(mode="after")
    def _each_once(self) -> ComparisonConfig:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)} name one twice; keep each once")
        for variant in self.lists:
            if variant not in self.variants:
                raise ValueError(
                    f"lists: there is no variant {variant!r}; name one of {', '.join(self.variants)}"
                )
        return self

    def of(self, variant: str) -> str:
        """Whose lists stand for a variant."""
        return self.lists.get(variant, "policy")

    def stage(self, variant: str) -> str:
        """The stage that a variant is run to."""
        return SCORED.get(self.of(variant), "baselines")


@dataclass(frozen=True)
class Cell:
    """One variant with one seed: its config, the stage it is run to, and the key of every stage up to there."""

    variant: str
    seed: int
    config: Any
    stage: str
    keys: Mapping[str, Key]


@dataclass
class Work:
    """One artifact to be made, for one cell or many: which stage of which config, and what must be there before."""

    config: Any
    stage: str
    needs: set[Key]
    label: str
    failed: str = ""


def load_comparison(source: str, overrides: Sequence[str], folder: Path) -> ComparisonConfig:
    """A comparison by name or file. Overrides that are no keys of it go to all its runs.

    Args:
        source: a name in ``folder``, or a YAML file.
        overrides: ``key=value``.
        folder: where named comparisons are.

    Raises:
        UserError: see :func:`dig_ray.config.load_config`.
    """
    own = [
        text
        for text in overrides
        if text.partition("=")[0].partition(".")[0] in ComparisonConfig.model_fields
    ]
    others = tuple(text for text in overrides if text not in own)
    found: ComparisonConfig = load_config(source, own, folder, ComparisonConfig)
    return found.model_copy(update={"settings": (*found.settings, *others)})


def plan_cells(comparison: ComparisonConfig, configs: Path) -> list[Cell]:
    """Every cell's config and fingerprints; nothing runs.

    Args:
        comparison: what is compared.
        configs: where named runs are.

    Raises:
        UserError: a variant's settings are wrong, or two variants are the same run.
    """
    cells: list[Cell] = []
    for variant, settings in comparison.variants.items():
        for seed in comparison.seeds:
            overrides = [*comparison.settings, *settings, f"seed={seed}"]
            try:
                config = load_config(comparison.base, overrides, configs)
                stage = comparison.stage(variant)
                _check_lists(comparison.of(variant), config)
                steps = plan(config, select(config, only=stage), Store(config.store))
            except UserError as error:
                raise UserError(
                    f"variant {variant}: {str(error).removeprefix(COMMAND_LINE + ': ')}"
                ) from None
            keys = {step.spec.name: (step.spec.name, step.recipe.fingerprint) for step in steps}
            made = "recommend" if stage == "evaluation" else stage
            for other in cells:
                same = comparison.of(other.variant) == comparison.of(variant)
                if other.seed == seed and same and other.keys[made] == keys[made]:
                    raise UserError(
                        f"variants {other.variant} and {variant} are the same run; change a setting of one"
                    )
            cells.append(Cell(variant, seed, config, stage, keys))
    if len({cell.config.evaluation.ks for cell in cells}) > 1:
        raise UserError("variants have different evaluation.ks; set it for all in settings")
    return cells


def _check_lists(name: str, config: Any) -> None:
    """Refuse a variant whose lists nobody would make."""
    if name == "multi_interest" and config.multi_interest is None:
        raise UserError(
            "its lists are those of multi_interest, which is not set; set it, or drop the variant from lists"
        )
    if name not in SCORED and name not in config.baselines.run:
        raise UserError(f"its lists are those of {name}, which baselines.run does not name; add it there")


def share_work(cells: Sequence[Cell]) -> dict[Key, Work]:
    """Every artifact once, in an order that can be run."""
    found: dict[Key, Work] = {}
    for cell in cells:
        names = list(cell.keys)
        for number, spec in enumerate(select(cell.config, only=cell.stage)):
            key = cell.keys[spec.name]
            needs = {cell.keys[name] for name in spec.reads(cell.config, names[:number])}
            found.setdefault(key, Work(cell.config, spec.name, needs, f"{cell.variant}, seed {cell.seed}"))
    return found


def run_comparison(comparison: ComparisonConfig, configs: Path, log: Callable[[str], None]) -> Artifact:
    """Run what is missing, and publish the table and the page.

    Args:
        comparison: what is compared.
        configs: where named runs are.
        log: prints one line.

    Returns:
        The artifact: ``comparison.json`` and ``comparison.html``.

    Raises:
        UserError: some stage failed; what did not depend on it is done, and the same command goes on.
    """
    begun = time.perf_counter()
    cells = plan_cells(comparison, configs)
    work = share_work(cells)
    store = Store(cells[0].config.store)
    done = {key for key in work if store.find(*key) is not None}
    log(
        f"{comparison.name}: {len(comparison.variants)} variants, {len(comparison.seeds)} seeds, "
        f"{len(work)} artifacts, {len(done)} found"
    )
    if len(done) < len(work):
        check_cells(cells, work, done, store, log)
        done = {key for key in work if store.find(*key) is not None}
        with RaySession(cells[0].config.ray, lambda line: log(f"      {line}")) as session:
            session.start()
            _run(work, done, comparison.parallel, log)
    failed = [one for one in work.values() if one.failed]
    if failed:
        raise UserError(
            f"{len(failed)} of {len(work)} artifacts failed: "
            + "; ".join(f"{one.stage} of {one.label}: {one.failed}" for one in failed[:3])
        )
    recipe = Recipe(
        stage="comparison",
        config={
            "name": comparison.name,
            "variants": dict(comparison.variants),
            "lists": dict(comparison.lists),
            "ks": cells[0].config.evaluation.ks,
            "n_bootstrap": comparison.n_bootstrap,
        },
        inputs={f"{cell.variant}, seed {cell.seed}": cell.keys[cell.stage][1] for cell in cells},
        code=code_hash(("dig_ray.report.comparison",)),
        files=hash_input_files({path.name: path for path in template_files()}),
    )

    def publish(stage: Stage) -> None:
        from dig_ray.report.comparison import write_comparison

        artifacts = {
            (cell.variant, cell.seed): {name: store.directory(*key) for name, key in cell.keys.items()}
            for cell in cells
        }
        compared = {
            variant: (settings, comparison.of(variant)) for variant, settings in comparison.variants.items()
        }
        write_comparison(
            comparison.name, compared, artifacts, cells[0].config.evaluation.ks, comparison.n_bootstrap, stage
        )

    artifact, _ = store.build(recipe, publish, log=log)
    log(f"{comparison.name}: {len(work) - len(done)} artifacts made, {time.perf_counter() - begun:.1f} s")
    return artifact


def check_cells(
    cells: Sequence[Cell], work: Mapping[Key, Work], done: Set[Key], store: Store, log: Callable[[str], None]
) -> None:
    """Look at all variants before the first one starts: files, packages, models, and, once every catalogue is there, what goes with it.

    Raises:
        UserError: with all that cannot work, of all variants.
    """
    todo = {cell.variant: [name for name, key in cell.keys.items() if key not in done] for cell in cells}
    configs = {cell.variant: cell.config for cell in cells}  # seeds differ in nothing that is looked at
    raise_all(
        said(
            {
                name: problems(
                    configs[name], todo[name], configs[name].ray.address is None and not in_ray_job()
                )
                for name in todo
            }
        ),
        "this comparison cannot work",
    )
    for key, one in work.items():
        if one.stage == "catalog" and key not in done:
            run_pipeline(one.config, only="catalog", log=log, brief=True)
    faults: dict[str, list[str]] = {name: [] for name in configs}
    warned: set[str] = set()
    for cell in cells:
        catalog = store.find(*cell.keys["catalog"])
        if catalog is None:
            continue
        fit = look(cell.config, catalog.stats, todo[cell.variant])
        faults[cell.variant] += [fault for fault in fit.faults if fault not in faults[cell.variant]]
        for warning in fit.warnings:
            if warning not in warned:
                warned.add(warning)
                log(f"      warning: {cell.variant}: {warning}")
    raise_all(said(faults), "these settings do not go with the catalogue")


def _run(work: Mapping[Key, Work], done: Set[Key], parallel: int | None, log: Callable[[str], None]) -> None:
    """Make what is missing, as many at once as there is room for; a failure leaves out only what needs it."""
    import ray

    cpus = min(int(ray.cluster_resources().get("CPU", 1)), processors())
    at_once = parallel or max(1, cpus // 2)
    done = set(done)
    missing = {key: one for key, one in work.items() if key not in done}
    lines: Any = (
        ray.remote(num_cpus=0)(ComparisonLines).options(scheduling_strategy=beside_the_driver()).remote()
    )
    build: Any = ray.remote(num_cpus=0, max_retries=0)(_build)
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // at_once))}
    running: dict[Any, Key] = {}
    began: dict[Key, float] = {}
    heard = time.monotonic()
    total = len(missing)
    while missing or running:
        ready = [key for key, one in missing.items() if one.needs <= done]
        for key in ready[: at_once - len(running)]:
            one = missing.pop(key)
            log(f"[{total - len(missing)}/{total}] {one.stage} {key[1][:6]} for {one.label} ...")
            task = build.options(name=f"{one.stage} {one.label}", runtime_env={"env_vars": threads})
            running[task.remote(one.config, one.stage, lines)] = key
            began[key] = heard = time.monotonic()
        if not running:  # what is left needs something that failed
            for one in missing.values():
                one.failed = "not run, since what it needs failed"
            return
        finished, _ = ray.wait(list(running), num_returns=1, timeout=1.0)
        for line in ray.get(lines.take.remote()):
            log(f"      {line}")
            heard = time.monotonic()
        if time.monotonic() - heard >= SILENCE_S:
            heard = time.monotonic()
            log(
                f"      still at work: {_at_work(work, running.values(), began)}; {len(missing)} of {total} wait"
            )
        for task in finished:
            key = running.pop(task)
            try:
                ray.get(task)
                done.add(key)
            except Exception as error:
                sentence = find_user_error(error)
                if sentence is None:
                    raise
                work[key].failed = sentence


def _at_work(work: Mapping[Key, Work], running: Iterable[Key], began: Mapping[Key, float]) -> str:
    """What is being made, and for how long."""
    now = time.monotonic()
    return ", ".join(f"{work[key].stage} for {work[key].label} ({now - began[key]:.0f} s)" for key in running)


class ComparisonLines:
    """What running stages have said since it was last asked for."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, line: str) -> None:
        self.lines.append(line)

    def take(self) -> list[str]:
        taken, self.lines = self.lines, []
        return taken


def _build(config: Any, stage: str, lines: Any) -> None:
    """In a task of its own: one artifact, whose inputs are there."""
    quiet_ray_data()
    run_pipeline(config, only=stage, log=lambda line: lines.add.remote(line.strip()), brief=True)
