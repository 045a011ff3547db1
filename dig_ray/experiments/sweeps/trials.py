"""What a trial is: one point of the space, as a run's config that is possible and has a fingerprint."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dig_ray.artifacts.manifest import hash_json
from dig_ray.artifacts.store import Store
from dig_ray.checks.data_fit import look
from dig_ray.config import (
    COMMAND_LINE,
    RunConfig,
    find_config,
    known_keys,
    parse_overrides,
    read_layers,
    resolve,
)
from dig_ray.errors import UserError, raise_all
from dig_ray.experiments.sweeps.config import SweepConfig
from dig_ray.experiments.sweeps.space import Point, plain, setting, settings_of
from dig_ray.experiments.sweeps.targets import TARGETS, Target
from dig_ray.pipeline import plan, select


@dataclass(frozen=True)
class Leg:
    """From one meeting of a population to the next.

    Attributes:
        begin: epochs (steps of RL) before it.
        end: epochs (steps) at its end; None for the end of the run.
        folder: local folder or URI of the population's checkpoints.
    """

    begin: int
    end: int | None
    folder: str


@dataclass(frozen=True)
class Trials:
    """All that turns a point into a run; plain data that travels to trials.

    Attributes:
        layers: the base run's config files, read.
        settings: ``key=value`` for all trials.
        target: stage that is judged.
        seeds: each is run.
        leg: the stretch of training that is run, where it is not the whole.
        catalogue: fingerprint and figures of the base run's catalogue, by which points that do not go with it are impossible; None before
            it is there.
    """

    layers: tuple[tuple[str, Mapping[str, Any]], ...]
    settings: tuple[str, ...]
    target: str
    seeds: tuple[int, ...]
    leg: Leg | None = None
    catalogue: tuple[str, Mapping[str, Any]] | None = None

    @staticmethod
    def of(sweep: SweepConfig, configs: Path) -> Trials:
        """The trials of a sweep; ``configs`` is where named runs are.

        Raises:
            UserError: see :func:`dig_ray.config.load_config`.
        """
        path = find_config(sweep.base, configs)
        layers = [
            (where, {k: v for k, v in layer.items() if k != "name"}) for where, layer in read_layers(path)
        ]
        return Trials(tuple(layers), sweep.settings, sweep.target, sweep.seeds)

    def config(self, point: Point, seed: int | None = None) -> Any:
        """The run's config at a point.

        Raises:
            UserError: the point is impossible, or an unknown key.
        """
        overrides = [*self.settings, *settings_of(point), f"seed={self.seeds[0] if seed is None else seed}"]
        named = {"name": f"{self.target}-{name_of(point)}"}
        layers = [*self.layers, ("the sweep", named), *parse_overrides(overrides, known_keys(RunConfig))]
        return resolve(layers)

    @property
    def judged(self) -> Target:
        """All that is known of the stage that is judged."""
        return TARGETS[self.target]

    @property
    def longest(self) -> int:
        """Epochs of a whole trial of the base run; steps of RL are not known before it runs."""
        return sys.maxsize if self.judged.longest is None else self.judged.longest(self.config({}))

    def check_key(self, key: str, one: Any) -> None:
        """Refuse a key that the config does not have; ``one`` is its ``Range``, of which any value will do.

        Raises:
            UserError: with the nearest key that there is.
        """
        try:
            parse_overrides([setting(key, plain(one.values[0]))], known_keys(RunConfig))
        except UserError as error:
            raise UserError(f"space: {str(error).removeprefix(COMMAND_LINE + ': ')}") from None

    def why_not(self, point: Point) -> str:
        """Why a point makes no possible run; "" when it does."""
        try:
            config = self.config(point)
            chosen = select(config, only=self.target)
            if self.catalogue is not None:
                fingerprint, stats = self.catalogue
                if plan(config, chosen[:1], Store(config.store))[0].recipe.fingerprint == fingerprint:
                    raise_all(look(config, stats, [spec.name for spec in chosen]).faults)
        except UserError as error:
            return str(error)
        return self.judged.why_not(config)

    def identity(self, point: Point) -> str:
        """The fingerprint of what a possible point makes: points that differ in what is not read make the same."""
        config = self.config(point)
        return plan(config, select(config, only=self.target), Store(config.store))[-1].recipe.fingerprint

    def base_point(self, keys: Sequence[str]) -> dict[str, Any]:
        """What the base run has at these keys, as a point has it; without those it has nothing at."""
        tree = self.config({}).model_dump(mode="json")
        found = {}
        for key in keys:
            node: Any = tree
            for part in key.split("."):
                node = node.get(part) if isinstance(node, dict) else None
            if node is not None:
                found[key] = plain(node)
        return found


def name_of(point: Point) -> str:
    """Eight hex digits."""
    return hash_json(dict(point))[:8]
