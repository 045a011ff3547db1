"""Several variants of one run, several seeds each: shared stages once, and one table that says what made a difference.

A variant is the base run with some settings changed. Every stage of every cell (variant, seed) is planned first; what several cells
share has one fingerprint and is made once, and what is published already is found. So a comparison that was killed, or that
gets one more variant, only runs what is missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path

from dig_ray.artifacts.code_version import code_hash
from dig_ray.artifacts.manifest import Recipe, hash_input_files
from dig_ray.artifacts.store import Artifact, Store
from dig_ray.base import Stage
from dig_ray.checks.data_fit import look
from dig_ray.checks.preflight import problems, said
from dig_ray.errors import UserError, raise_all
from dig_ray.experiments.comparison_cells import Cell, Key, Work, plan_cells, share_work
from dig_ray.experiments.comparison_config import ComparisonConfig
from dig_ray.experiments.shared_work import make_missing
from dig_ray.on_ray.session import RaySession, in_ray_job
from dig_ray.pipeline import run_pipeline
from dig_ray.report.page import template_files


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
            make_missing(work, done, comparison.parallel, log)
    failed = [one for one in work.values() if one.failed]
    if failed:
        raise UserError(
            f"{len(failed)} of {len(work)} artifacts failed: "
            + "; ".join(f"{one.stage} of {one.label}: {one.failed}" for one in failed[:3])
        )
    artifact = _publish(comparison, cells, store, log)
    log(f"{comparison.name}: {len(work) - len(done)} artifacts made, {time.perf_counter() - begun:.1f} s")
    return artifact


def _publish(
    comparison: ComparisonConfig, cells: Sequence[Cell], store: Store, log: Callable[[str], None]
) -> Artifact:
    """The table and the page of cells whose artifacts are all there; found where they are published already."""
    ks = cells[0].config.evaluation.ks
    recipe = Recipe(
        stage="comparison",
        config={
            "name": comparison.name,
            "variants": dict(comparison.variants),
            "lists": dict(comparison.lists),
            "ks": ks,
            "n_bootstrap": comparison.n_bootstrap,
        },
        inputs={f"{cell.variant}, seed {cell.seed}": cell.keys[cell.stage][1] for cell in cells},
        code=code_hash(("dig_ray.experiments.write_comparison",)),
        files=hash_input_files({path.name: path for path in template_files()}),
    )

    def write(stage: Stage) -> None:
        from dig_ray.experiments.write_comparison import write_comparison

        artifacts = {
            (cell.variant, cell.seed): {name: store.directory(*key) for name, key in cell.keys.items()}
            for cell in cells
        }
        compared = {
            variant: (settings, comparison.of(variant)) for variant, settings in comparison.variants.items()
        }
        write_comparison(comparison.name, compared, artifacts, ks, comparison.n_bootstrap, stage)

    return store.build(recipe, write, log=log)[0]


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
