"""The cells of a comparison, variants x seeds, and the artifacts that they need: each once, whoever shares it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dig_ray.artifacts.store import Store
from dig_ray.config import COMMAND_LINE, load_config
from dig_ray.errors import UserError
from dig_ray.experiments.comparison_config import SCORED, ComparisonConfig
from dig_ray.pipeline import plan, select

Key = tuple[str, str]
"""(stage, fingerprint)"""


@dataclass(frozen=True)
class Cell:
    """One variant with one seed: its config, the stage it is run to, and the key of every stage up to there."""

    variant: str
    seed: int
    config: Any
    stage: str
    keys: Mapping[str, Key]


@dataclass
class Work:
    """One artifact to be made, for one cell or many: which stage of which config, and what must be there before."""

    config: Any
    stage: str
    needs: set[Key]
    label: str
    failed: str = ""


def plan_cells(comparison: ComparisonConfig, configs: Path) -> list[Cell]:
    """Every cell's config and fingerprints; nothing runs.

    Args:
        comparison: what is compared.
        configs: where named runs are.

    Raises:
        UserError: a variant's settings are wrong, or two variants are the same run.
    """
    cells: list[Cell] = []
    for variant, settings in comparison.variants.items():
        for seed in comparison.seeds:
            overrides = [*comparison.settings, *settings, f"seed={seed}"]
            try:
                config = load_config(comparison.base, overrides, configs)
                stage = comparison.stage(variant)
                _check_lists(comparison.of(variant), config)
                steps = plan(config, select(config, only=stage), Store(config.store))
            except UserError as error:
                raise UserError(
                    f"variant {variant}: {str(error).removeprefix(COMMAND_LINE + ': ')}"
                ) from None
            keys = {step.spec.name: (step.spec.name, step.recipe.fingerprint) for step in steps}
            made = "recommend" if stage == "evaluation" else stage
            for other in cells:
                same = comparison.of(other.variant) == comparison.of(variant)
                if other.seed == seed and same and other.keys[made] == keys[made]:
                    raise UserError(
                        f"variants {other.variant} and {variant} are the same run; change a setting of one"
                    )
            cells.append(Cell(variant, seed, config, stage, keys))
    if len({cell.config.evaluation.ks for cell in cells}) > 1:
        raise UserError("variants have different evaluation.ks; set it for all in settings")
    return cells


def _check_lists(name: str, config: Any) -> None:
    """Refuse a variant whose lists nobody would make."""
    if name == "multi_interest" and config.multi_interest is None:
        raise UserError(
            "its lists are those of multi_interest, which is not set; set it, or drop the variant from lists"
        )
    if name not in SCORED and name not in config.baselines.run:
        raise UserError(f"its lists are those of {name}, which baselines.run does not name; add it there")


def share_work(cells: Sequence[Cell]) -> dict[Key, Work]:
    """Every artifact once, in an order that can be run."""
    found: dict[Key, Work] = {}
    for cell in cells:
        names = list(cell.keys)
        for number, spec in enumerate(select(cell.config, only=cell.stage)):
            key = cell.keys[spec.name]
            needs = {cell.keys[name] for name in spec.reads(cell.config, names[:number])}
            found.setdefault(key, Work(cell.config, spec.name, needs, f"{cell.variant}, seed {cell.seed}"))
    return found
