"""How the policy's recommendations are made and scored."""

from __future__ import annotations

from pydantic import Field, field_validator

from dig_ray.base import Config, free


class EvaluationConfig(Config):
    """Settings of the evaluation stage.

    Attributes:
        ks: cut-offs of HR, NDCG and MRR; the longest is the length of the lists.
        beam: width of the constrained beam search; at least the longest cut-off.
        n_bootstrap: resamples of users behind each interval; 0 leaves intervals out.
        seed: decides which users are drawn; fixed, so that tables of different runs are paired.
        batch_size: users decoded together.
        num_actors: decoding actors; None takes what the cluster has.
        num_cpus: CPUs of one actor.
        num_gpus: GPUs of one actor; None takes one where there is one.
        unconstrained: also decode without the prefix table and count how often that leaves the catalogue.
    """

    ks: tuple[int, ...] = (1, 5, 10, 20)
    beam: int = Field(50, ge=1)
    n_bootstrap: int = Field(1000, ge=0)
    seed: int = Field(0, ge=0)
    batch_size: int = Field(128, ge=1)
    num_actors: int | None = free(None, ge=1)
    num_cpus: float = free(1.0, gt=0)
    num_gpus: float | None = free(None, ge=0)
    unconstrained: bool = True

    @field_validator("ks")
    @classmethod
    def _rising(cls, ks: tuple[int, ...]) -> tuple[int, ...]:
        if not ks or list(ks) != sorted(set(ks)) or ks[0] < 1:
            raise ValueError("cut-offs are distinct positive numbers in rising order, as in [1, 5, 10, 20]")
        return ks
