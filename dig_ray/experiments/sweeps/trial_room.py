"""How many trials run at once: what the cluster's processors, and GPUs where a trial trains on them, have room for.

Trials' drivers ask for next to no CPU, so they can never keep what their own workers wait for; this alone bounds them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from dig_ray.on_ray.session import processors


def for_quantizers(config: Any) -> int:
    """A trial for every processor: a quantizer is fitted in the trial's own process."""
    return max(1, processors())


def for_workers(config: Any, *rooms: str) -> int:
    """Trials whose workers find room at the same time.

    Args:
        config: the base run's.
        rooms: keys of its settings of Ray Train's workers, of every training on a trial's way.
    """
    import ray

    room = max(1, processors())
    for name in rooms:
        stage = getattr(config, name)
        threads = stage.threads_per_worker or max(1, (os.cpu_count() or 1) // stage.num_workers)
        room = min(room, max(1, processors() // (stage.num_workers * threads)))
        if stage.use_gpu:
            room = min(room, max(1, int(ray.cluster_resources().get("GPU", 0)) // stage.num_workers))
    return room


def for_baselines(config: Any) -> int:
    """Trials whose baselines, each a task of Ray, find room at the same time."""
    from dig_ray.baselines.stage import resources

    return max(1, *(_fit(resources(name, config.baselines)) for name in config.baselines.run))


def _fit(asked: Mapping[str, float]) -> int:
    """How many tasks that ask for so much the cluster takes at once."""
    import ray

    room = processors() // int(asked["num_cpus"])
    return min(room, int(ray.cluster_resources()["GPU"])) if "num_gpus" in asked else room
