"""What can be set about supervised fine-tuning."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from dig_ray.base import Config


class SftConfig(Config):
    """Supervised fine-tuning on Ray Train.

    One optimisation step reads ``rows_per_step`` packed rows of ``row_length`` tokens, however many workers share them, so a result does
    not depend on the number of workers.
    """

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
    average_decay: float = Field(
        0.999,
        ge=0,
        lt=1,
        description="moving average of the weights, which is what is validated and published; 0 takes the weights themselves",
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    max_grad_norm: float = Field(1.0, gt=0)
    precision: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False

    eval_every_epochs: int = Field(
        1, ge=1, description="epochs between validations; a checkpoint is kept at each"
    )
    patience: int = Field(
        3, ge=1, description="validations without a better NDCG@10 after which training stops"
    )
    valid_users: int | None = Field(
        None,
        ge=1,
        description="validate on this many users, evenly spaced (all when unset); the test split is never read",
    )
    valid_beam: int = Field(20, ge=10)

    num_workers: int = Field(1, ge=1)
    use_gpu: bool = False
    cpus_per_worker: float | None = Field(
        None, gt=0, description="logical CPUs a worker holds; its share of them when unset"
    )
    threads_per_worker: int | None = Field(
        None, ge=1, description="torch threads; the machine's cores over the workers when unset"
    )
    parallel: Literal["ddp", "fsdp"] = Field(
        "ddp", description="fsdp shards a model that does not fit one GPU over all workers"
    )
    max_failures: int = Field(2, ge=0, description="worker deaths survived before giving up")

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
