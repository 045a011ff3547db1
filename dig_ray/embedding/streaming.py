"""What the text and the image encoder share on Ray Data: is there room for the actors, and how far are they."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from dig_ray.base import Stage
from dig_ray.errors import UserError

SECONDS_BETWEEN_LINES = 10.0


def join_ray() -> dict[str, float]:
    """The cluster's resources; starts Ray on this machine where nothing has."""
    import ray

    from dig_ray.cluster import quiet_ray_data

    if not ray.is_initialized():
        ray.init(address="local", include_dashboard=False, log_to_driver=False)
    quiet_ray_data()
    found: dict[str, float] = ray.cluster_resources()
    return found


def check_room(setting: str, config: Any, resources: dict[str, float]) -> None:
    """Refuse actors that no machine could start: Ray would wait for ever.

    Args:
        setting: the config key of the room's part, for messages.
        config: with ``num_cpus`` and ``num_gpus``.
        resources: of the cluster.

    Raises:
        UserError: an actor asks for more than there is.
    """
    for key, need in (("CPU", config.num_cpus), ("GPU", config.num_gpus)):
        if need > resources.get(key, 0):
            raise UserError(
                f"{setting}.num_{key.lower()}s={need}: the cluster has {resources.get(key, 0):g} {key}s, so no actor can start; lower it"
            )


class Progress:
    """One line now and then: rows done, rows per second, time left.

    Args:
        stage: whose log it is.
        what: the rows' name, such as ``texts``.
        rows: of each part.
        work: of each part, in any unit; the time left goes by it. Rows by default.
    """

    def __init__(
        self, stage: Stage, what: str, rows: Sequence[int], work: Sequence[int] | None = None
    ) -> None:
        self.stage, self.what, self.rows, self.work = stage, what, rows, work or rows
        self.started = self.last = time.monotonic()
        self.rows_done = self.work_done = 0

    def done(self, position: int) -> None:
        """Part ``position`` is there."""
        self.work_done += self.work[position]
        self.rows_done += self.rows[position]
        now = time.monotonic()
        total = sum(self.rows)
        finished = self.rows_done == total
        if now - self.last < SECONDS_BETWEEN_LINES and not finished:
            return
        self.last = now
        elapsed = max(now - self.started, 1e-6)
        left = elapsed * (sum(self.work) - self.work_done) / max(self.work_done, 1)
        self.stage.log(
            f"{self.stage.name}: {self.rows_done:,}/{total:,} {self.what}, {self.rows_done / elapsed:.0f} {self.what}/s"
            + ("" if finished else f", about {left:.0f} s left")
        )
