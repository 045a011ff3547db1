"""What a sweep can judge: a row for every stage, with all that searching it depends on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from dig_ray.artifacts.store import Artifact
from dig_ray.errors import UserError
from dig_ray.experiments.sweeps import target_readers as read
from dig_ray.experiments.sweeps import trial_room as room

Direction = Literal["max", "min"]
VALIDATION: dict[str, Direction] = {"eval_ndcg@10": "max", "eval_hr@10": "max"}
"""What everything that recommends reports, a policy by decoding."""


def possible(config: Any) -> str:
    """No point is impossible but for its config."""
    return ""


@dataclass(frozen=True)
class Target:
    """A stage that a sweep can judge. What is a function of a config takes the run's.

    Attributes:
        stage: its name.
        objectives: figure -> which way is better; the first is what a sweep goes by unless it says otherwise.
        figures: reads the objectives of its artifact, as many as the artifact has; by validation only, never by the test split.
        curve: reads the validations that its artifact keeps, in order: time and objectives; [] where it keeps none.
        room: how many trials the cluster takes at once.
        longest: the time that a whole trial takes; None where nobody knows before it runs.
        time: what a scheduler counts by.
        told: what Tune is told of the figures that the stage reports while it runs in a trial's own process; None where Ray Train tells it.
        why_not: why a config that is possible cannot be judged; "" where it can.
        goes_on: whether it trains a policy, also on from the checkpoints of another one: a population can be bred of it, and finalists
            are taken to it.
        alone: whether a trial starts nothing that could outlive it, so that Tune may use its process again.
    """

    stage: str
    objectives: Mapping[str, Direction]
    figures: Callable[[Artifact], dict[str, float]]
    curve: Callable[[Artifact], list[dict[str, float]]]
    room: Callable[[Any], int]
    longest: Callable[[Any], int] | None
    time: Literal["epoch", "step"] = "epoch"
    told: Callable[[Mapping[str, float]], dict[str, float]] | None = None
    why_not: Callable[[Any], str] = possible
    goes_on: bool = False
    alone: bool = False

    @property
    def main(self) -> dict[str, Direction]:
        """The objective that a sweep goes by unless it says otherwise, and which way is better."""
        first = next(iter(self.objectives))
        return {first: self.objectives[first]}


def _model_epochs(config: Any) -> int:
    if config.multi_interest is None:
        raise UserError("target: multi_interest is not set in the base run; name a base that has it")
    return int(config.multi_interest.max_epochs)


def _baseline_epochs(config: Any) -> int:
    from dig_ray.baselines.stage import most_epochs

    return most_epochs(config.baselines)


def _one_baseline(config: Any) -> str:
    if len(config.baselines.run) == 1:
        return ""
    return (
        f"target: baselines judges one baseline, and baselines.run has {len(config.baselines.run)}; "
        "add baselines.run=[sasrec], or another, to settings"
    )


TARGETS = {
    target.stage: target
    for target in (
        Target(
            stage="semantic_ids",
            objectives={
                "signal": "min",
                "collision_rate": "min",
                "error_over_variance": "min",
                "neighbour_recall": "max",
                "share_used": "max",
                "perplexity": "max",
                "codes": "min",
                "tokens": "min",
            },
            figures=read.sid_figures,
            curve=read.no_curve,
            room=room.for_quantizers,
            longest=lambda config: int(config.semantic_ids.rqvae.epochs),
            told=read.sid_epoch,
            alone=True,
        ),
        Target(
            stage="sft",
            objectives=VALIDATION,
            figures=read.best_validation,
            curve=read.validation_curve,
            room=lambda config: room.for_workers(config, "sft"),
            longest=lambda config: int(config.sft.epochs),
            goes_on=True,
        ),
        Target(
            stage="grpo",
            objectives=VALIDATION,
            figures=partial(read.best_validation, time="step"),
            curve=partial(read.validation_curve, time="step"),
            room=lambda config: room.for_workers(config, "sft", "grpo"),
            longest=None,
            time="step",
            goes_on=True,
        ),
        Target(
            stage="multi_interest",
            objectives=VALIDATION,
            figures=read.best_validation,
            curve=read.validation_curve,
            room=lambda config: room.for_workers(config, "multi_interest"),
            longest=_model_epochs,
        ),
        Target(
            stage="baselines",
            objectives=VALIDATION,
            figures=read.baseline_figures,
            curve=read.baseline_curve,
            room=room.for_baselines,
            longest=_baseline_epochs,
            told=dict,
            why_not=_one_baseline,
        ),
    )
}
"""Stage -> all that a sweep has to know to judge it."""
