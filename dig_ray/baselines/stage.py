"""The baselines stage: each baseline is one Ray task that returns its lists; the driver writes them.

Small baselines take one CPU for seconds and run side by side; SASRec takes a GPU where there is one, else the CPUs of
one machine, and goes on from its last epoch after a kill. Without Ray everything runs in this process, one after the
other, with the same result for the same number of threads.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dig_ray import ranking
from dig_ray.base import Stage
from dig_ray.baselines import item_knn, popularity
from dig_ray.baselines.config import BaselinesConfig
from dig_ray.baselines.lists import Lists
from dig_ray.cluster import beside_the_driver, teller
from dig_ray.errors import UserError
from dig_ray.evaluation.recommendations import EXCLUDES_SEEN, write_recommendations

MOST_THREADS = 8  # SASRec at this size gains little from more


def run(config: BaselinesConfig, stage: Stage, catalog_dir: Path) -> None:
    """Write ``recommendations_<name>_<seen|unseen>.parquet`` for every test case and each baseline of ``config.run``.

    ``seen`` lists may hold items of the history, ``unseen`` ones do not. Validation metrics of both go to
    ``stage.stats[name]``, for SASRec with its epochs.

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


WORTH_SAYING = 0.005
"""Share of test cases with a tied target from which a line says so."""


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
    """Train where there is something to train, and recommend for the test and the validation cases.

    Returns:
        name, ``{"seen" | "unseen": lists}`` of the test cases, and figures for the manifest; ``ties`` is the share of test cases in
        which chance among items of one score decided on the target's place.
    """
    started = time.monotonic()
    figures: dict[str, Any] = {}
    recommend: Callable[[Any, bool], Lists]
    k, places = config.top_k, ranking.tie_places(dataset.item_ids, seed)
    if name == "popularity":

        def recommend(cases: Any, unseen: bool) -> Lists:
            return popularity.recommend_popular(dataset, cases, k, unseen, config.popularity, places)

    elif name == "repeat_last":

        def recommend(cases: Any, unseen: bool) -> Lists:
            return popularity.recommend_repeat_last(dataset, cases, k, unseen, config.popularity, places)

    elif name == "item_knn":
        table = item_knn.similarity(dataset, config.item_knn, places)

        def recommend(cases: Any, unseen: bool) -> Lists:
            return item_knn.recommend(dataset, cases, k, unseen, config.item_knn, table, places)

    elif name == "sasrec":
        from dig_ray.baselines import sasrec

        trained = sasrec.train(dataset, config.sasrec, seed, work, log, report)
        figures.update(best_epoch=trained.best_epoch, epochs=trained.epochs)

        def recommend(cases: Any, unseen: bool) -> Lists:
            return sasrec.recommend(trained.model, dataset, cases, k, unseen, places=places)

    else:
        raise UserError(f"baselines.run: there is no baseline {name!r}")
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
        for name in sorted(config.run, key=lambda name: name == "sasrec")  # the long one starts last
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
    if name == "sasrec":
        import torch

        torch.set_num_threads(min(threads, len(os.sched_getaffinity(0))))
    try:
        tell = teller(lines)
        return recommend_all(name, BaselinesConfig(**config), dataset, seed, work, tell, tell)
    except UserError as error:
        return str(error)


def resources(name: str, config: BaselinesConfig) -> dict[str, float]:
    """What one task asks of the cluster; never more than a node has, or it would wait for ever."""
    import ray

    if name != "sasrec":
        return {"num_cpus": 1}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if config.sasrec.device != "cpu" and any(node.get("GPU", 0) >= 1 for node in nodes):
        return {"num_cpus": 1, "num_gpus": 1}
    if config.sasrec.device == "cuda":
        raise UserError(
            "baselines.sasrec.device is 'cuda' but the Ray cluster has no GPU; use 'auto' or 'cpu'"
        )
    most = max(int(node.get("CPU", 1)) for node in nodes)
    wanted = config.sasrec.num_cpus or min(MOST_THREADS, os.cpu_count() or 1)
    return {"num_cpus": max(1, min(wanted, most))}
