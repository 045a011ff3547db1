"""What the pipeline knows about any stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dig_ray.base import Inputs, Stage


@dataclass(frozen=True)
class StageSpec:
    """What the pipeline knows about a stage.

    Attributes:
        name: its name, directory and job.
        parts: the fields of the run's config that decide its result; ``room.field`` is a part of a room.
        inputs: stages whose artifacts it reads, where they are wanted and ``reads`` says so.
        code: modules where its code starts; all that they import counts.
        run: ``run(config, stage, inputs)``; imports its room itself, so that planning stays light.
        seeded: whether the run's seed changes its result under this config.
        on_ray: whether it needs Ray, always or under this config.
        ignore: dotted keys below ``parts`` that change its speed and not its result.
        unread: dotted keys below ``parts`` that it does not read under this config.
        files: files from outside the store that it reads, by purpose; their content counts, not where they lie.
        wanted: whether this config's pipeline needs it.
        possible: whether it can be asked for by name; where it is wanted, by default.
        reads: whether it reads one of its ``inputs`` under this config.
        uses_interactions: whether it has nothing to do on a catalogue that nobody has used yet.
    """

    name: str
    parts: tuple[str, ...]
    inputs: tuple[str, ...]
    code: tuple[str, ...]
    run: Callable[[Any, Stage, Inputs], None]
    seeded: Callable[[Any], bool] = lambda config: True
    on_ray: bool | Callable[[Any], bool] = True
    ignore: tuple[str, ...] = ()
    unread: Callable[[Any], tuple[str, ...]] = lambda config: ()
    files: Callable[[Any], Mapping[str, str | Path]] = lambda config: {}
    wanted: Callable[[Any], bool] = lambda config: True
    possible: Callable[[Any], bool] | None = None
    reads: Callable[[Any, str], bool] = lambda config, name: True
    uses_interactions: bool = False

    def can_run(self, config: Any) -> bool:
        """Whether it can be asked for by name."""
        return (self.possible or self.wanted)(config)

    def needs_ray(self, config: Any) -> bool:
        """Whether it needs Ray under this config."""
        return self.on_ray(config) if callable(self.on_ray) else self.on_ray
