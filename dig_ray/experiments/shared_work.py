"""Artifacts of a comparison made side by side, as Ray tasks: as many at once as there is room for, each when what it needs is there."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any

from dig_ray.experiments.comparison_cells import Key, Work
from dig_ray.guards.heartbeat import SILENCE_S
from dig_ray.on_ray.session import beside_the_driver, find_user_error, processors, quiet_ray_data
from dig_ray.pipeline import run_pipeline


def make_missing(
    work: Mapping[Key, Work], done: Set[Key], parallel: int | None, log: Callable[[str], None]
) -> None:
    """Make what is missing; a failure leaves out only what needs it, and is left in ``failed`` of its ``Work``.

    Args:
        work: every artifact, in an order that can be run.
        done: the keys of those that are there.
        parallel: how many are made at once; None for one for every two processors of the cluster.
        log: prints one line.

    Raises:
        Exception: an error that no person can mend.
    """
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
