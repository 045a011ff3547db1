"""What can be set about training a policy, and about supervised fine-tuning; GRPO's settings stand in ``grpo_config``."""

from __future__ import annotations

import difflib
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, ValidationError, model_validator

from dig_ray.on_ray.workers import WorkersConfig


class TrainingConfig(WorkersConfig):
    """What training a policy goes by, some of which may change on the way.

    Attributes:
        changes: epochs (steps of RL) after which other values hold -> key -> value, such as ``{4: {learning_rate: 0.0005}}``.
    """

    CHANGEABLE: ClassVar[tuple[str, ...]] = ("learning_rate", "weight_decay", "adam_beta2", "max_grad_norm")
    BETWEEN: ClassVar[str] = ""
    """The key that says how far apart checkpoints are."""

    precision: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False
    valid_users: int | None = Field(
        None,
        ge=1,
        description="validate on this many users, evenly spaced (all when unset); the test split is never read",
    )
    valid_beam: int = Field(20, ge=10)
    changes: dict[int, dict[str, float]] = {}
    patience: int = Field(
        3,
        ge=1,
        description="validations without a better NDCG@10 after which training stops; the best policy is kept",
    )

    @model_validator(mode="after")
    def _changes_are_possible(self) -> Self:
        between = getattr(self, self.BETWEEN)
        for time, values in sorted(self.changes.items()):
            if time < 1 or time % between:
                raise ValueError(
                    f"changes: {time} is no positive multiple of {self.BETWEEN}={between}; values change where a checkpoint is kept"
                )
            for key in values:
                if key not in self.CHANGEABLE:
                    near = difflib.get_close_matches(key, self.CHANGEABLE, 1, 0.0)[0]
                    raise ValueError(
                        f"changes: {key} cannot change while a policy is trained; did you mean {near}? "
                        f"These can: {', '.join(self.CHANGEABLE)}"
                    )
            try:
                self.at(time)
            except ValidationError as error:
                wrong = error.errors()[0]
                where = ".".join(map(str, wrong["loc"])) or "these values"
                raise ValueError(f"changes: after {time}, {where}: {wrong['msg']}") from None
        return self

    def at(self, time: int) -> Self:
        """What holds after so many epochs (steps of RL), with all changes up to then made and none to come.

        Raises:
            ValidationError: a changed value is impossible.
        """
        tree: dict[str, Any] = self.model_dump()
        for _, values in sorted((when, values) for when, values in self.changes.items() if when <= time):
            for key, value in values.items():
                *above, last = key.split(".")
                node = tree
                for part in above:
                    node = node[part]
                node[last] = value
        return type(self).model_validate({**tree, "changes": {}})

    def parts(self) -> list[tuple[Self, int | None]]:
        """(what holds, until when) from the beginning to the end, where it is None."""
        times = sorted(self.changes)
        return [(self.at(begin), end) for begin, end in zip([0, *times], [*times, None], strict=True)]


class SftConfig(TrainingConfig):
    """Supervised fine-tuning on Ray Train.

    One optimisation step reads ``rows_per_step`` packed rows of ``row_length`` tokens, however many workers share them, so a result does
    not depend on the number of workers.
    """

    CHANGEABLE = (*TrainingConfig.CHANGEABLE, "label_smoothing")
    BETWEEN = "eval_every_epochs"

    epochs: int = Field(20, ge=1)
    rows_per_step: int = Field(
        32, ge=1, description="packed rows an optimisation step reads, over all workers"
    )
    row_length: int = Field(256, ge=16, description="tokens of a packed row")
    gradient_accumulation: int = Field(1, ge=1, description="parts a worker's share of a step is read in")
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    adam_beta2: float = Field(0.98, gt=0, lt=1)
    warmup_steps: int = Field(100, ge=0)
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    hold_out: int = Field(
        0,
        ge=0,
        description="latest training events of each user that SFT never sees, for reinforcement learning to roll out to",
    )
    average_decay: float = Field(
        0.999,
        ge=0,
        lt=1,
        description="moving average of the weights, which is what is validated and published; 0 takes the weights themselves",
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    max_grad_norm: float = Field(1.0, gt=0)
    eval_every_epochs: int = Field(
        1, ge=1, description="epochs between validations; a checkpoint is kept at each"
    )
    parallel: Literal["ddp", "fsdp"] = Field(
        "ddp", description="fsdp shards a model that does not fit one GPU over all workers"
    )

    @model_validator(mode="after")
    def _possible(self) -> SftConfig:
        if self.parallel == "fsdp" and not (self.use_gpu and self.num_workers > 1):
            raise ValueError(
                "parallel=fsdp shards a model over several GPUs; set use_gpu=true and num_workers to at least 2, or parallel=ddp"
            )
        if self.parallel == "fsdp" and self.average_decay > 0:
            raise ValueError(
                "parallel=fsdp shards the weights, and their moving average is not sharded; set average_decay=0"
            )
        parts = self.num_workers * self.gradient_accumulation
        if self.rows_per_step % parts:
            raise ValueError(
                f"rows_per_step={self.rows_per_step} does not divide by num_workers x gradient_accumulation = {parts}; "
                f"use {max(parts, self.rows_per_step // parts * parts)}"
            )
        return self
