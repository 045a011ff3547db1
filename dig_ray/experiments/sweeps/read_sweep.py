"""A sweep from a file or a run's name, and what stands behind it on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dig_ray.config import (
    COMMAND_LINE,
    find_config,
    known_keys,
    load_config,
    parse_overrides,
    read_layers,
    resolve,
)
from dig_ray.errors import UserError
from dig_ray.experiments.sweeps.config import SweepConfig
from dig_ray.experiments.sweeps.space import CALL, NUMBERS


def read_sweep(
    source: str,
    settings: Sequence[str],
    configs: Path,
    target: str | None = None,
    samples: int | None = None,
    search: str | None = None,
) -> SweepConfig:
    """A named sweep or a YAML file, or a run of which nothing is varied yet; then what the command line says.

    Args:
        source: a sweep in ``configs/sweeps``, a run in ``configs``, or a file of either.
        settings: ``key=distribution`` to search, ``key=value`` of the sweep or of every trial.
        configs: where named runs are.
        target: what has to be judged.
        samples, search: lie over the sweep's own.

    Raises:
        UserError: as :func:`dig_ray.config.load_config`; nothing is varied; another target than the job's.
    """
    space: dict[str, str] = {}
    own: list[str] = []
    others: list[str] = []
    for text in settings:
        key, equals, value = text.partition("=")
        match = CALL.fullmatch(value)
        if equals and match is not None and match[1] in ("choice", *NUMBERS):
            space[key.strip()] = value.strip()
        elif key.partition(".")[0] in SweepConfig.model_fields:
            own.append(text)
        else:
            others.append(text)
    if samples is not None:
        own.append(f"samples={samples}")
    if search is not None:
        own.append(f"search={search}")
    folder = configs / "sweeps"
    if _is_sweep(source, folder):
        sweep: SweepConfig = load_config(source, own, folder, SweepConfig)
    else:
        find_config(source, configs)  # neither: the names of runs are what is listed
        if not space:
            raise UserError(
                f"{COMMAND_LINE}: {source} is a run and nothing of it is varied; add a distribution, such as "
                "'sft.learning_rate=loguniform(1e-4, 3e-3)'"
            )
        layers: dict[str, Any] = {"name": Path(source).stem, "base": source, "space": dict(space)}
        if target is not None:
            layers["target"] = target
        sweep = resolve([(COMMAND_LINE, layers), *parse_overrides(own, known_keys(SweepConfig))], SweepConfig)
    if target is not None and sweep.target != target:
        raise UserError(
            f"{source} judges {sweep.target}, and this job judges {target}; use jobs/sweep.py, or set target={target}"
        )
    return sweep.model_copy(
        update={"space": {**sweep.space, **space}, "settings": (*sweep.settings, *others)}
    )


def _is_sweep(source: str, folder: Path) -> bool:
    """Whether a name or file is a sweep rather than a run."""
    try:
        path = find_config(source, folder)
    except UserError:
        return False
    return any("space" in layer or "base" in layer for _, layer in read_layers(path))
