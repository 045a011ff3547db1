"""What can be set about the workers of Ray Train that a model trains on."""

from __future__ import annotations

from pydantic import Field

from dig_ray.base import Config, free


class WorkersConfig(Config):
    """Where a model trains: Ray Train's workers."""

    num_workers: int = Field(1, ge=1)
    use_gpu: bool = False
    cpus_per_worker: float | None = free(
        None, gt=0, description="logical CPUs a worker holds; its share of them when unset"
    )
    threads_per_worker: int | None = Field(
        None, ge=1, description="torch threads; the machine's cores over the workers when unset"
    )
    max_failures: int = free(2, ge=0, description="worker deaths survived before giving up")
    nodes: dict[str, str] = free(
        {},
        description="labels of the nodes that workers run on, such as {dig-group: gpu-train}; any when empty",
    )
    hang_seconds: int = free(
        1800, ge=1, description="a worker that waits so long for the others gives up, and all start again"
    )
