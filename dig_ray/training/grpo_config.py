"""What can be set about GRPO, the second half of training a policy. What its rewards go by stands in ``rewards``.

A file of its own, so that a change of a reward makes no SFT policy anew.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from dig_ray.training.config import TrainingConfig
from dig_ray.training.reward_evidence import Evidence
from dig_ray.training.rewards import REWARDS, RewardsConfig


class GrpoConfig(TrainingConfig):
    """Reinforcement learning after SFT: GRPO on Ray Train. Names are TRL's where TRL has the thing.

    Attributes:
        num_generations: rollouts of a prompt, G; at most the catalogue's items.
        method: how they are made: ``sample`` draws without duplicates, ``independent`` with, ``beam`` takes the likeliest, ``mixed`` takes
            half from the beams and draws the others.
        add_target: the target takes the place of the last rollout where it was not drawn.
        temperature: the temperature of rollouts, and of the probabilities in ratio, KL and entropy.
        prompts: histories before every event of the training split, before each user's last one, or before those that SFT held out
            (``sft.hold_out``): what a policy has fitted already has little left to teach it.
        max_prompts: rollouts are made of at most so many prompts, evenly spaced; of all when unset.
        prompts_per_step: prompts that an optimisation step reads, over all workers.
        gradient_accumulation: parts that a worker's share of a step is read in, to spare memory.
        num_iterations: optimisation steps that are made on one set of rollouts.
        loss_type: ``published`` with ratios of whole sequences, or one of TRL's losses under its name.
        importance_sampling_level: whether ratios are of tokens or of sequences, in TRL's losses; ``published`` does not read it.
        scale_rewards: ``published`` divides by the population standard deviation + 1e-6; the others are TRL's.
        epsilon, epsilon_high: ratios are clipped to ``[1 - epsilon, 1 + epsilon_high]``; the upper one is the lower one when unset.
        beta: weight of the Kullback-Leibler divergence from the SFT policy; 0 leaves it out.
        eval_every_steps: steps between validations by decoding; a checkpoint is kept at each.
    """

    CHANGEABLE = (
        *TrainingConfig.CHANGEABLE,
        "temperature",
        "epsilon",
        "epsilon_high",
        "beta",
        *(f"rewards.{row.weight}" for row in REWARDS),
    )
    BETWEEN = "eval_every_steps"

    num_generations: int = Field(8, ge=2)
    method: Literal["sample", "independent", "beam", "mixed"] = "sample"
    add_target: bool = False
    temperature: float = Field(1.0, gt=0)
    rewards: RewardsConfig = RewardsConfig()
    prompts: Literal["all", "last", "held_out"] = "all"
    max_prompts: int | None = Field(None, ge=1)
    epochs: int = Field(1, ge=1)
    prompts_per_step: int = Field(64, ge=1)
    gradient_accumulation: int = Field(1, ge=1)
    num_iterations: int = Field(1, ge=1)
    loss_type: Literal["published", "grpo", "bnpo", "dr_grpo", "dapo", "luspo"] = "published"
    importance_sampling_level: Literal["token", "sequence"] = "token"
    scale_rewards: Literal["published", "group", "batch", "none"] = "published"
    epsilon: float = Field(0.2, gt=0, lt=1)
    epsilon_high: float | None = Field(None, gt=0)
    beta: float = Field(0.001, ge=0)
    learning_rate: float = Field(1e-4, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    adam_beta2: float = Field(0.98, gt=0, lt=1)
    warmup_steps: int = Field(10, ge=0)
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "constant_with_warmup"
    max_grad_norm: float = Field(1.0, gt=0)
    eval_every_steps: int = Field(50, ge=1)

    @model_validator(mode="after")
    def _possible(self) -> GrpoConfig:
        parts = self.num_workers * self.gradient_accumulation
        if self.prompts_per_step % parts:
            raise ValueError(
                f"prompts_per_step={self.prompts_per_step} does not divide by num_workers x gradient_accumulation = {parts}; "
                f"use {max(parts, self.prompts_per_step // parts * parts)}"
            )
        if self.eval_every_steps % self.num_iterations:
            raise ValueError(
                f"eval_every_steps={self.eval_every_steps} must be a multiple of num_iterations={self.num_iterations}, so that a "
                "checkpoint never cuts a set of rollouts"
            )
        weights = (*(row.tells_apart for row in self.rewards.asked), *self.rewards.custom.values())
        if not any(weights):
            raise ValueError(
                "rewards: every weight that can tell rollouts apart is 0, so nothing would be learnt"
            )
        return self

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        """What its rewards ever read, each kind once."""
        asked = {row for settings, _ in self.parts() for row in settings.rewards.asked}
        return tuple(dict.fromkeys(row.reads for row in REWARDS if row in asked and row.reads is not None))
