"""What the pipeline knows about any stage: a declaration, which each room makes of its own stages in its ``stages.py``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from dig_ray.base import Inputs, Stage

Names = tuple[str, ...]
Run = Callable[[Any, Stage, Inputs], None]
ALL = ("*",)
"""As ``settings``, all of the config that counts; as ``takes``, every stage that runs before."""


def when(**names: Any) -> Names:
    """The names whose condition holds: ``when(judgements=mining.judge is not None)`` is ``("judgements",)`` or ``()``."""
    return tuple(name for name, holds in names.items() if holds)


def always(config: Any) -> bool:
    """It holds under every config."""
    return True


def never(config: Any) -> bool:
    """It holds under no config."""
    return False


@dataclass(frozen=True)
class StageSpec:
    """What the pipeline knows about a stage. What is a function takes the run's config.

    Attributes:
        name: its name, directory and job.
        run: ``module:function`` of its room, called with (config, stage, inputs); the module and all it imports is its code.
            A function itself will do, too; ``code`` then has to name its module.
        settings: dotted keys of the run's config that decide its result; ``-key`` leaves one out again. What is free never counts.
        needs: stages that have to run before it, whose artifacts it reads.
        takes: stages whose artifacts it reads where they run anyway.
        asked: whether the config itself asks for it; else it runs where a stage that runs needs it.
        possible: whether it can run at all, also where only its name asks for it; None where the config has to ask for it.
        seeded: whether the run's seed changes its result.
        on_ray: whether it needs Ray.
        files: files from outside the store that it reads, by purpose; their content counts, not where they lie.
        code: further modules where its code starts, such as those that it imports by name because a config chooses them.
        uses_interactions: whether it has nothing to do on a catalogue that nobody has used yet.
    """

    name: str
    run: str | Run
    settings: Names | Callable[[Any], Names] = ()
    needs: Names | Callable[[Any], Names] = ()
    takes: Names = ()
    asked: Callable[[Any], bool] = never
    possible: Callable[[Any], bool] | None = None
    seeded: Callable[[Any], bool] = always
    on_ray: Callable[[Any], bool] = always
    files: Callable[[Any], Mapping[str, str | Path]] = lambda config: {}
    code: Names | Callable[[Any], Names] = ()
    uses_interactions: bool = False

    def settings_of(self, config: Any) -> Names:
        """The keys that count under a config."""
        return self.settings(config) if callable(self.settings) else self.settings

    def needs_of(self, config: Any) -> Names:
        """The stages that have to run before it under a config."""
        return self.needs(config) if callable(self.needs) else self.needs

    def reads(self, config: Any, running: Collection[str]) -> list[str]:
        """Which of the stages that run, in the order of ``running``, it reads under a config."""
        wanted = {*self.needs_of(config), *self.takes}
        return [name for name in running if name in wanted or self.takes == ALL]

    def modules_of(self, config: Any) -> Names:
        """Where its code starts under a config."""
        chosen = self.code(config) if callable(self.code) else self.code
        return (self.run.partition(":")[0], *chosen) if isinstance(self.run, str) else chosen

    def start(self, config: Any, stage: Stage, inputs: Inputs) -> None:
        """Import its room and run it."""
        run = self.run
        if isinstance(run, str):
            module, _, function = run.partition(":")
            run = getattr(import_module(module), function)
        run(config, stage, inputs)
