"""What a baseline is to its stage, and where it is found: ``BASELINE`` of the module that has its name, ``dig_ray/baselines/NAME.py``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, get_args

from dig_ray.baselines.config import BaselineName, BaselinesConfig
from dig_ray.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from dig_ray.baselines.lists import Lists
    from dig_ray.catalog.dataset import Cases, Dataset

MODULES = {name: f"dig_ray.baselines.{name}" for name in get_args(BaselineName)}
"""Baseline -> the module that it is."""


@dataclass(frozen=True)
class Material:
    """What a baseline is fitted to.

    Attributes:
        dataset: the catalogue and its split; only training events teach, validation events may say when to stop.
        config: settings of all baselines, of which each reads its own.
        seed: the run's seed.
        places: int ``(N,)``, which of items with one score comes first.
        work: folder or URI for checkpoints; None keeps none.
        log: prints one line.
        report: gets the figures of an epoch.
    """

    dataset: Dataset
    config: BaselinesConfig
    seed: int
    places: np.ndarray
    work: str | None
    log: Callable[[str], None]
    report: Callable[[Mapping[str, float]], None]


@dataclass(frozen=True)
class Fitted:
    """A baseline that can recommend.

    Attributes:
        recommend: from C cases and whether to leave out the items of their histories, the ``top_k`` best items of each case.
        figures: JSON-able, what the manifest says of how it was fitted.
    """

    recommend: Callable[[Cases, bool], Lists]
    figures: dict[str, Any] = field(default_factory=dict)


def one_cpu(config: BaselinesConfig) -> dict[str, float]:
    """What most baselines ask of the cluster."""
    return {"num_cpus": 1}


@dataclass(frozen=True)
class Baseline:
    """What the stage knows of a baseline.

    Attributes:
        fit: counts or trains, whatever there is to do before it recommends.
        epochs: after how many it has ended, where it is trained by torch: it starts last, and computes on as many threads as it asks CPUs.
        resources: what its task asks of the cluster, as Ray's ``num_cpus`` and ``num_gpus``.
    """

    fit: Callable[[Material], Fitted]
    epochs: Callable[[BaselinesConfig], int] | None = None
    resources: Callable[[BaselinesConfig], dict[str, float]] = one_cpu


def find_baseline(name: str) -> Baseline:
    """The baseline of a name.

    Raises:
        UserError: there is none.
    """
    if name not in MODULES:
        raise UserError(f"baselines.run: there is no baseline {name!r}")
    found: Baseline = import_module(MODULES[name]).BASELINE
    return found
