"""The baselines stage: each baseline is one Ray task that returns its lists; the driver writes them.

Small baselines take one CPU for seconds and run side by side; trained ones take a GPU where there is one, else the CPUs of
one machine, and go on from their last epoch after a kill. Without Ray everything runs in this process, one after the
other, with the same result for the same number of threads.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dig_ray.base import Inputs, Stage
from dig_ray.baselines.baseline import Material, find_baseline
from dig_ray.baselines.config import BaselinesConfig
from dig_ray.baselines.lists import Lists
from dig_ray.errors import UserError
from dig_ray.evaluation.recommendations import EXCLUDES_SEEN, write_recommendations
from dig_ray.numerics import ranking
from dig_ray.on_ray.session import beside_the_driver, teller

WORTH_SAYING = 0.005
"""Share of test cases with a tied target from which a line says so."""


def run(config: Any, stage: Stage, inputs: Inputs) -> None:
    """The stage ``baselines`` of a run."""
    fit_lists(config.baselines, stage, inputs["catalog"])


def fit_lists(config: BaselinesConfig, stage: Stage, catalog_dir: Path) -> None:
    """Write ``recommendations_<name>_<seen|unseen>.parquet`` for every test case and each baseline of ``config.run``.

    ``seen`` lists may hold items of the history, ``unseen`` ones do not. Validation metrics of both go to
    ``stage.stats[name]``, for trained baselines with their epochs.

    Raises:
        UserError: a setting does not fit the data or the machine, or a checkpoint is damaged.
    """
    from dig_ray.catalog.dataset import Dataset

    dataset = Dataset.load(catalog_dir)
    started = time.monotonic()
    for name, lists, figures in _results(config, dataset, stage):
        cases = dataset.cases("test")
        for suffix, found in lists.items():
            path = Path(stage.out) / f"recommendations_{name}_{suffix}.parquet"
            write_recommendations(path, dataset, cases, found.items, found.scores)
        stage.stats[name] = figures
        validation = figures["validation"]["unseen"]
        stage.log(
            f"baselines: {name} done in {figures['seconds']:.0f} s, validation "
            f"HR@10 {validation['HR@10']:.4f}, NDCG@10 {validation['NDCG@10']:.4f} (seen items left out){_ties(figures)}"
        )
    stage.stats.update(
        rows=len(dataset.cases("test").target),
        split_name=dataset.split_name,
        split_hash=dataset.split_hash,
        seconds=round(time.monotonic() - started, 2),
    )


def _ties(figures: Mapping[str, Any]) -> str:
    share = figures["ties"].get("unseen", 0.0)
    if share < WORTH_SAYING:
        return ""
    return f"; for {share:.1%} of the test targets a hash of the ids decided between items of one score"


Result = tuple[str, dict[str, Lists], dict[str, Any]]


def recommend_all(
    name: str,
    config: BaselinesConfig,
    dataset: Any,
    seed: int,
    work: str | None,
    log: Callable[[str], None],
    report: Callable[[Mapping[str, float]], None],
) -> Result:
    """Fit a baseline, and recommend for the test and the validation cases.

    Args:
        name: which of ``config.run``.
        config: settings of all baselines.
        dataset: the catalogue and its split.
        seed: the seed of training, and of the order of items with one score.
        work: folder or URI for checkpoints; None keeps none.
        log: prints one line.
        report: gets the figures of an epoch.

    Returns:
        name, ``{"seen" | "unseen": lists}`` of the test cases, and figures for the manifest; ``ties`` is the share of test cases in
        which chance among items of one score decided on the target's place.
    """
    started = time.monotonic()
    places = ranking.tie_places(dataset.item_ids, seed)
    fitted = find_baseline(name).fit(Material(dataset, config, seed, places, work, log, report))
    recommend, figures = fitted.recommend, dict(fitted.figures)
    valid, test = dataset.cases("valid"), dataset.cases("test")
    lists = {suffix: recommend(test, unseen) for suffix, unseen in EXCLUDES_SEEN.items()}
    figures["validation"] = {
        suffix: ranking.mean_metrics(ranking.rank_of_target(recommend(valid, unseen).items, valid.target))
        for suffix, unseen in EXCLUDES_SEEN.items()
    }
    figures["ties"] = {suffix: float(found.tied.mean()) for suffix, found in lists.items() if len(found.tied)}
    figures["seconds"] = round(time.monotonic() - started, 2)
    return name, lists, figures


def _results(config: BaselinesConfig, dataset: Any, stage: Stage) -> Iterator[Result]:
    import ray

    if not ray.is_initialized():
        for name in config.run:
            yield recommend_all(name, config, dataset, stage.seed, stage.work, stage.log, stage.report)
        return
    from ray.exceptions import ActorUnavailableError
    from ray.util.queue import Empty, Queue

    lines = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": beside_the_driver()})
    shared = ray.put(dataset)
    waiting = [
        ray.remote(_task)
        .options(
            name=f"baselines:{name}",
            max_retries=2,
            scheduling_strategy="DEFAULT",  # not within what a sweep's trial holds, which is next to nothing
            **(asked := resources(name, config)),
        )
        .remote(name, config.model_dump(), shared, stage.seed, stage.work, lines, int(asked["num_cpus"]))
        for name in sorted(config.run, key=_is_trained)  # what takes long starts last
    ]
    try:
        while waiting:
            ready, waiting = ray.wait(waiting, timeout=1.0)
            try:
                while True:
                    said = lines.get_nowait()
                    (stage.log if isinstance(said, str) else stage.report)(said)
            except (Empty, ActorUnavailableError):  # nothing said, or the call was lost
                pass
            for result in ray.get(ready):
                if isinstance(result, str):
                    raise UserError(result)
                yield result
    finally:
        for task in waiting:
            ray.cancel(task)
        lines.shutdown(force=True)


def _task(
    name: str, config: dict[str, Any], dataset: Any, seed: int, work: str, lines: Any, threads: int
) -> Result | str:
    """Runs on a Ray worker. A UserError comes back as its sentence: Ray would wrap it in a stack trace."""
    if _is_trained(name):
        import torch

        torch.set_num_threads(min(threads, len(os.sched_getaffinity(0))))
    try:
        tell = teller(lines)
        return recommend_all(name, BaselinesConfig(**config), dataset, seed, work, tell, tell)
    except UserError as error:
        return str(error)


def _is_trained(name: str) -> bool:
    return find_baseline(name).epochs is not None


def resources(name: str, config: BaselinesConfig) -> dict[str, float]:
    """What the task of one baseline asks of the cluster.

    Raises:
        UserError: the cluster cannot have it.
    """
    return find_baseline(name).resources(config)


def most_epochs(config: BaselinesConfig) -> int:
    """Epochs after which every baseline of ``config.run`` has ended; 1 where none is trained."""
    limits = (find_baseline(name).epochs for name in config.run)
    return max((limit(config) for limit in limits if limit is not None), default=1)
