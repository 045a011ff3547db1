"""What can be set about a sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator, model_validator

from dig_ray.base import Config, InputPath
from dig_ray.config import NAME_PATTERN
from dig_ray.experiments.sweeps.targets import TARGETS, Direction
from dig_ray.guards.redaction import hide

if TYPE_CHECKING:
    TargetName = str
    PolicyName = str
else:
    TargetName = Literal[tuple(TARGETS)]
    PolicyName = Literal[tuple(name for name, target in TARGETS.items() if target.goes_on)]


class AshaConfig(Config):
    """Asynchronous successive halving (Li et al. 2018): at ``grace``, ``grace * reduction``, ... only the best 1 / ``reduction`` go on.

    Attributes:
        grace: epochs (steps of RL) before a trial can be stopped.
        reduction: of so many trials one goes on.
        most: epochs at which a trial is complete; the config's own by default.
    """

    grace: int = Field(1, ge=1)
    reduction: float = Field(3.0, gt=1)
    most: int | None = Field(None, ge=1)


class PbtConfig(Config):
    """Population based training (Jaderberg et al. 2017): now and then the worst take up the best ones' weights, and settings near theirs.

    Attributes:
        interval: epochs (steps of RL) between.
        generations: stretches that members are trained in, the last one to the end of the run; as many as its epochs have room for by
            default, and to be given for RL.
        quantile: share of the members that is replaced, and that is copied from.
        resample: chance that a value is drawn anew; otherwise it is multiplied by .8 or 1.2, or moves to the next choice.
    """

    interval: int = Field(ge=1)
    generations: int | None = Field(None, ge=2)
    quantile: float = Field(0.25, gt=0, le=0.5)
    resample: float = Field(0.25, ge=0, le=1)


class FinalistsConfig(Config):
    """The best trials, and the base run, are taken further.

    Attributes:
        count: how many trials there are, beside the base run.
        target: the stage they are taken to.
        settings: ``key=value`` for them alone, such as fewer epochs.
    """

    count: int = Field(4, ge=1)
    target: PolicyName = "sft"
    settings: tuple[str, ...] = ()


class SweepConfig(Config):
    """A search over any keys of a run's config.

    Attributes:
        name: the sweep's name.
        base: the run that is varied: a config's name or file.
        settings: ``key=value`` laid over the base, for all trials.
        space: config key -> distribution, see ``sweeps.space``.
        target: the stage whose result is judged; validation only, never the test split. Of ``baselines`` one has to be chosen.
        objectives: figure -> ``max`` or ``min``, the first decides; see ``sweeps.targets``. None: the target's first.
        samples: trials; ignored by a grid.
        search: ``grid``, ``random``, or ``optuna`` (TPE; several objectives make it multi-objective).
        scheduler: ASHA; None lets every trial end.
        pbt: population based training of ``samples`` members, which are drawn at random; the space holds what may change on the way.
        seeds: every trial runs with each, one after the other, and reports the mean.
        finalists: taken further; None for none.
        include_base: the base run's own values are the first trial.
        seed: the seed of the search.
        max_concurrent: trials at once; from the cluster's processors and GPUs by default.
        retries: the retries of a trial that crashed; an error that a person can mend is not tried again.
        mlflow: tracking URI or folder for MLflow beside TensorBoard's logs.
    """

    name: str = Field(default="sweep", pattern=NAME_PATTERN)
    base: str = Field(min_length=1)
    settings: tuple[str, ...] = ()
    space: dict[str, str] = Field(min_length=1)
    target: TargetName = "sft"
    objectives: dict[str, Direction] | None = Field(None, min_length=1)
    samples: int = Field(20, ge=1)
    search: Literal["grid", "random", "optuna"] = "random"
    scheduler: AshaConfig | None = None
    pbt: PbtConfig | None = None
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    finalists: FinalistsConfig | None = None
    include_base: bool = True
    seed: int = Field(0, ge=0)
    max_concurrent: int | None = Field(None, ge=1)
    retries: int = Field(2, ge=0)
    mlflow: InputPath | None = Field(None, min_length=1)

    @field_validator("mlflow")
    @classmethod
    def _without_password(cls, where: str | None) -> str | None:
        if where is not None and "://" in where and hide(where, secrets=()) != where:
            raise ValueError(
                "an address holds no user, password or token, which every log would show; set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, in the environment"
            )
        return where

    @model_validator(mode="after")
    def _possible(self) -> SweepConfig:
        known = TARGETS[self.target].objectives
        for name, direction in (self.objectives or {}).items():
            if name not in known:
                raise ValueError(
                    f"objectives: {name} is never reported by {self.target}; it reports {', '.join(known)}"
                )
            if direction != known[name]:
                raise ValueError(
                    f"objectives: {name} is better when it is {known[name]}imal, not {direction}imal"
                )
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)} name one twice; keep each once")
        if self.scheduler is not None and len(self.seeds) > 1:
            raise ValueError(
                "a scheduler stops a trial by its first seed, so it takes one seed; give one, or remove scheduler"
            )
        if self.pbt is not None:
            self._check_pbt()
        if self.finalists is not None and self.target == self.finalists.target:
            raise ValueError(
                f"finalists.target={self.finalists.target} is where every trial goes already; remove finalists"
            )
        return self

    def _check_pbt(self) -> None:
        if not TARGETS[self.target].goes_on:
            policies = " or ".join(name for name, target in TARGETS.items() if target.goes_on)
            raise ValueError(
                f"pbt changes how a policy is trained on the way; set target to {policies}, or remove pbt"
            )
        if TARGETS[self.target].longest is None and self.pbt is not None and self.pbt.generations is None:
            raise ValueError(
                "pbt.generations: how many steps RL has is not known before it runs; give the number of generations"
            )
        for name, given in (
            ("scheduler", self.scheduler is not None),
            ("finalists", self.finalists is not None),
            ("more than one of seeds", len(self.seeds) > 1),
            (f"search: {self.search}", self.search != "random"),
        ):
            if given:
                raise ValueError(
                    f"pbt goes with random search, one seed and every member to its end; remove {name}, or pbt"
                )
        if self.samples < 2:
            raise ValueError(
                f"pbt: a population of samples={self.samples} has nobody to learn from; raise it to at least 2"
            )

    @property
    def directions(self) -> dict[str, Direction]:
        """Figure -> which way is better; the first decides."""
        if self.objectives is not None:
            return dict(self.objectives)
        return TARGETS[self.target].main
