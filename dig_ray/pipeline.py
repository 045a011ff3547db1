"""The stages in order; what is already published is not run again.

A stage is a declaration: its name, what of the config and which artifacts it depends on, where its code starts,
and a function that runs it. From these follows its fingerprint, before anything has run: so a whole run is
planned at once, a finished one returns in about a second, and Ray starts only if some stage has to run.

To add a stage, write the room's ``run`` and one entry in ``STAGES``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dig_ray.base import Config, Stage
from dig_ray.cluster import RaySession, in_ray_job
from dig_ray.code_version import code_hash
from dig_ray.errors import UserError
from dig_ray.manifest import Recipe, hash_input_files
from dig_ray.store import Artifact, Store
from dig_ray.summary import artifact_lines, duration, result_lines, rows_and_rate

Inputs = Mapping[str, Path]


@dataclass(frozen=True)
class StageSpec:
    """What the pipeline knows about a stage.

    Attributes:
        name: its name, directory and job.
        parts: the fields of the run's config that decide its result.
        inputs: stages whose artifacts it reads.
        code: modules where its code starts; all that they import counts.
        run: ``run(config, stage, inputs)``; imports its room itself, so that planning stays light.
        seeded: whether the run's seed changes its result under this config.
        on_ray: whether it needs Ray.
        ignore: dotted keys below ``parts`` that change its speed and not its result.
        files: files from outside the store that it reads, by purpose; their content counts, not where they lie.
        wanted: whether this config asks for it at all.
    """

    name: str
    parts: tuple[str, ...]
    inputs: tuple[str, ...]
    code: tuple[str, ...]
    run: Callable[[Any, Stage, Inputs], None]
    seeded: Callable[[Any], bool] = lambda config: True
    on_ray: bool = True
    ignore: tuple[str, ...] = ()
    files: Callable[[Any], Mapping[str, str | Path]] = lambda config: {}
    wanted: Callable[[Any], bool] = lambda config: True


def _catalog(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.catalog.stage import run

    run(config.catalog, stage)


def _catalog_files(config: Any) -> Mapping[str, str]:
    from dig_ray.catalog.config import input_files

    return input_files(config.catalog)


def _embedding(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.embedding.stage import run

    run(config.embedding, stage, inputs["catalog"])


def _semantic_ids(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.semantic_ids.stage import run

    vectors = inputs["embedding"] / "embeddings.parquet" if "embedding" in inputs else None
    run(config.semantic_ids, stage, vectors, inputs["catalog"])


def _baselines(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.baselines.stage import run

    run(config.baselines, stage, inputs["catalog"])


def _sft(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.training.stage import run

    run(config.sft, config.recommender, stage, inputs["catalog"], inputs["semantic_ids"])


def _recommend(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.evaluation.decode_stage import run

    run(config.evaluation, stage, inputs["catalog"], inputs["semantic_ids"], inputs["sft"] / "policy")


def _evaluation(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.evaluation.stage import run

    lists = [inputs[name] for name in ("recommend", "baselines") if name in inputs]
    run(config.evaluation, stage, inputs["catalog"], lists)


def _report(config: Any, stage: Stage, inputs: Inputs) -> None:
    from dig_ray.report.stage import run

    run(config, stage, inputs)


def _report_files(config: Any) -> Mapping[str, Path]:
    from dig_ray.report.page import template_files

    return {path.name: path for path in template_files()}


ROOMS = ("catalog", "embedding", "semantic_ids", "recommender", "sft", "evaluation", "baselines")

DECODING_RESOURCES = ("evaluation.num_actors", "evaluation.num_cpus", "evaluation.num_gpus")

STAGES: tuple[StageSpec, ...] = (
    StageSpec(
        name="catalog",
        parts=("catalog",),
        inputs=(),
        code=("dig_ray.catalog.stage",),
        run=_catalog,
        seeded=lambda config: config.catalog.source == "demo" and config.catalog.demo.seed is None,
        on_ray=False,
        ignore=("catalog.items.path", "catalog.interactions.path", "catalog.download.directory"),
        files=_catalog_files,
    ),
    StageSpec(
        name="embedding",
        parts=("embedding",),
        inputs=("catalog",),
        code=("dig_ray.embedding.stage",),
        run=_embedding,
        seeded=lambda config: False,
        ignore=(
            "embedding.num_actors",
            "embedding.num_cpus",
            "embedding.num_gpus",
            "embedding.rows_per_part",
        ),
        wanted=lambda config: config.semantic_ids.method != "file",
    ),
    StageSpec(
        name="semantic_ids",
        parts=("semantic_ids",),
        inputs=("catalog", "embedding"),
        code=("dig_ray.semantic_ids.stage",),
        run=_semantic_ids,
        on_ray=False,
        ignore=("semantic_ids.path", "semantic_ids.rqvae.checkpoint_seconds"),
        files=lambda config: {"sids": config.semantic_ids.path} if config.semantic_ids.path else {},
    ),
    StageSpec(
        name="baselines",
        parts=("baselines",),
        inputs=("catalog",),
        code=("dig_ray.baselines.stage",),
        run=_baselines,
        wanted=lambda config: bool(config.baselines.run),
    ),
    StageSpec(
        name="sft",
        parts=("sft", "recommender"),
        inputs=("catalog", "semantic_ids"),
        code=("dig_ray.training.stage",),
        run=_sft,
        ignore=("sft.cpus_per_worker", "sft.max_failures"),
    ),
    StageSpec(
        name="recommend",
        parts=("evaluation",),
        inputs=("catalog", "semantic_ids", "sft"),
        code=("dig_ray.evaluation.decode_stage",),
        run=_recommend,
        seeded=lambda config: False,
        ignore=(
            "evaluation.n_bootstrap",
            "evaluation.seed",
            *DECODING_RESOURCES,
        ),
    ),
    StageSpec(
        name="evaluation",
        parts=("evaluation",),
        inputs=("catalog", "recommend", "baselines"),
        code=("dig_ray.evaluation.stage",),
        run=_evaluation,
        seeded=lambda config: False,
        on_ray=False,
        ignore=(
            "evaluation.beam",
            "evaluation.batch_size",
            "evaluation.unconstrained",
            *DECODING_RESOURCES,
        ),
    ),
    StageSpec(
        name="report",
        parts=("name", *ROOMS),
        inputs=("catalog", "embedding", "semantic_ids", "baselines", "sft", "recommend", "evaluation"),
        code=("dig_ray.report.stage",),
        run=_report,
        on_ray=False,
        files=_report_files,  # its looks are no Python, so the code's hash misses them
    ),
)


@dataclass(frozen=True)
class Step:
    """One stage of one run: its declaration, its recipe, and what came of it."""

    spec: StageSpec
    recipe: Recipe


def select(
    config: Config, until: str | None = None, only: str | None = None, stages: Sequence[StageSpec] = STAGES
) -> list[StageSpec]:
    """The stages a run covers, in order: all, those up to ``until``, or ``only`` one and what it needs.

    Raises:
        UserError: an unknown stage, or one that this config does not ask for.
    """
    chosen = [spec for spec in stages if spec.wanted(config)]
    for option, name in (("--until", until), ("the stage", only)):
        check_stage(name, chosen, option)
    if until is not None:
        chosen = chosen[: [spec.name for spec in chosen].index(until) + 1]
    if only is not None:
        needed = {only}
        for spec in reversed(chosen):
            if spec.name in needed:
                needed.update(spec.inputs)
        chosen = [spec for spec in chosen if spec.name in needed]
    return chosen


def check_stage(name: str | None, stages: Sequence[StageSpec], option: str) -> None:
    """Refuse a stage name that is not among ``stages``."""
    names = [spec.name for spec in stages]
    if name is not None and name not in names:
        raise UserError(f"{option} {name} is no stage of this run; the stages are {', '.join(names)}")


def plan(config: Any, stages: Sequence[StageSpec], store: Store) -> list[Step]:
    """The recipe of every stage; no stage runs.

    Inputs that a config does not ask for are left out of a recipe.

    Raises:
        UserError: a file from outside is missing.
    """
    steps: dict[str, Step] = {}
    for spec in stages:
        settings = {}
        for part in spec.parts:
            value = getattr(config, part)
            settings[part] = value.model_dump(mode="json") if isinstance(value, Config) else value
        for key in spec.ignore:
            _drop(settings, key.split("."))
        recipe = Recipe(
            stage=spec.name,
            config=settings,
            inputs={name: steps[name].recipe.fingerprint for name in spec.inputs if name in steps},
            code=code_hash(spec.code),
            seed=config.seed if spec.seeded(config) else 0,
            files=hash_input_files(spec.files(config), store.local / ".verified" / "inputs.json"),
        )
        steps[spec.name] = Step(spec, recipe)
    return list(steps.values())


def _drop(settings: Any, key: Sequence[str]) -> None:
    for part in key[:-1]:
        settings = settings.get(part) if isinstance(settings, dict) else None
    if isinstance(settings, dict):
        settings.pop(key[-1], None)


def run_pipeline(
    config: Any,
    until: str | None = None,
    only: str | None = None,
    force: Sequence[str] = (),
    stages: Sequence[StageSpec] = STAGES,
    log: Callable[[str], None] | None = None,
) -> dict[str, Artifact]:
    """Run what is missing and say where everything is.

    Args:
        config: the run's config.
        until: stop after this stage.
        only: run this stage, and before it what it needs.
        force: stages to run again although they are published. If one then comes out different, what was
            built on it in this run is built again too.
        stages: the declarations.
        log: prints one line; by default to standard output, at once.

    Returns:
        stage name -> artifact.

    Raises:
        UserError: see the stages, and :class:`~dig_ray.store.Store`.
    """
    log = log or _print
    started = time.perf_counter()
    chosen = select(config, until, only, stages)
    for name in force:
        check_stage(name, chosen, "--force")
    store = Store(config.store)
    if in_ray_job() and store.remote is None and not Path(config.store).is_absolute():
        log(
            f"note: store {config.store} is inside this job's working directory; set store= to a lasting place"
        )
    steps = plan(config, chosen, store)
    done: dict[str, Artifact] = {}
    made: dict[str, bool] = {}
    changed: set[str] = set()
    with RaySession(config.ray, lambda line: log(f"      {line}")) as session:
        for number, step in enumerate(steps, 1):
            spec, recipe = step.spec, step.recipe
            head = f"[{number}/{len(steps)}] {spec.name} {recipe.fingerprint[:6]}"
            forced = spec.name in force or any(name in changed for name in spec.inputs)
            before = store.listed_files(recipe.stage, recipe.fingerprint) if forced else None
            inputs = {name: done[name].path for name in spec.inputs if name in done}

            def begin(head: str = head, spec: StageSpec = spec) -> None:
                log(f"{head} ...")
                if spec.on_ray:
                    session.start()

            def work(stage: Stage, spec: StageSpec = spec, inputs: Inputs = inputs) -> None:
                spec.run(config, stage, inputs)
                if "catalog" in done:  # every number stands beside the split it was taken on
                    for key in ("split_name", "split_hash"):
                        stage.stats.setdefault(key, done["catalog"].stats.get(key))

            artifact, fresh = store.build(
                recipe, work, force=forced, log=lambda line: log(f"      {line}"), before=begin
            )
            if forced and artifact.manifest["files"] != before:
                changed.add(spec.name)
            done[spec.name], made[spec.name] = artifact, fresh
            log(
                f"{head} {'done in ' + duration(artifact) if fresh else 'found'}{rows_and_rate(artifact, fresh)}"
            )
    results = result_lines(done["evaluation"]) if "evaluation" in done else []
    for line in ["", *artifact_lines(done, made), "", *results, *([""] if results else [])]:
        log(line)
    if "report" in done:
        log(f"report: {done['report'].path / 'report.html'}")
    log(f"{config.name}: {len(done)} stages, {sum(made.values())} run, {time.perf_counter() - started:.1f} s")
    return done


def _print(line: str) -> None:
    print(line, file=sys.stdout, flush=True)
