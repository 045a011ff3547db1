"""What can be set about a comparison: variants of one run, and the seeds that each runs with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from dig_ray.base import Config
from dig_ray.baselines.config import BaselineName
from dig_ray.config import NAME_PATTERN, load_config

SCORED = {"policy": "evaluation", "multi_interest": "multi_interest"}
"""Whose lists are compared -> the stage that a variant is run to; baselines are their own."""


class ComparisonConfig(Config):
    """What is compared.

    Attributes:
        name: the comparison's name.
        base: the run that all variants change: a config's name or file.
        settings: ``key=value`` laid over the base, for all variants.
        variants: name -> ``key=value`` settings of its own; the first is what the others are measured against.
        lists: variant -> whose lists stand for it: the ``policy``'s where nothing is said, those of ``multi_interest``, or of a baseline.
        seeds: each variant runs once with each.
        parallel: stages that run at once; by default one for every two CPUs of the cluster.
        n_bootstrap: resamples of users for the intervals.
    """

    name: str = Field(default="comparison", pattern=NAME_PATTERN)
    base: str = Field(min_length=1)
    settings: tuple[str, ...] = ()
    variants: dict[str, tuple[str, ...]] = Field(min_length=1)
    lists: dict[str, Literal["policy", "multi_interest"] | BaselineName] = {}
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    parallel: int | None = Field(None, ge=1)
    n_bootstrap: int = Field(1000, ge=1)

    @model_validator(mode="after")
    def _each_once(self) -> ComparisonConfig:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)} name one twice; keep each once")
        for variant in self.lists:
            if variant not in self.variants:
                raise ValueError(
                    f"lists: there is no variant {variant!r}; name one of {', '.join(self.variants)}"
                )
        return self

    def of(self, variant: str) -> str:
        """Whose lists stand for a variant."""
        return self.lists.get(variant, "policy")

    def stage(self, variant: str) -> str:
        """The stage that a variant is run to."""
        return SCORED.get(self.of(variant), "baselines")


def load_comparison(source: str, overrides: Sequence[str], folder: Path) -> ComparisonConfig:
    """A comparison by name or file. Overrides that are no keys of it go to all its runs.

    Args:
        source: a name in ``folder``, or a YAML file.
        overrides: ``key=value``.
        folder: where named comparisons are.

    Raises:
        UserError: see :func:`dig_ray.config.load_config`.
    """
    own = [
        text
        for text in overrides
        if text.partition("=")[0].partition(".")[0] in ComparisonConfig.model_fields
    ]
    others = tuple(text for text in overrides if text not in own)
    found: ComparisonConfig = load_config(source, own, folder, ComparisonConfig)
    return found.model_copy(update={"settings": (*found.settings, *others)})
