"""What can be set about multi-interest models: the capsules, what LDMI adds to them, and how they train.

Published are the two levels of LDMI, its alignment module and the max covering of users; the forms of both losses, the graph of users and
every default here are our choice.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from dig_ray.base import Config
from dig_ray.numerics.schedule import ScheduleConfig
from dig_ray.on_ray.workers import WorkersConfig


class VectorClustersConfig(Config):
    """No LLM: a user's items grouped by their vectors, average linkage over cosine distance, cut where chance begins.

    Attributes:
        quantile: share of random pairs of the catalogue's items that lie nearer to each other than the cut; groups whose mean distance
            lies above the cut stay apart. So how many groups a user has follows from the user's items.
    """

    quantile: float = Field(0.1, gt=0, lt=1)


class AlignmentConfig(Config):
    """The individual level: interests are pulled to the semantic clusters that are softly assigned to them.

    Attributes:
        weight: lambda_align, the factor of this level in the loss; 0 leaves the level out.
        temperature: what cosines are divided by in the softmax that assigns clusters to interests; less makes it harder.
    """

    weight: float = Field(0.0, ge=0)
    temperature: float = Field(0.1, gt=0)


class CrowdConfig(Config):
    """The crowd level: cliques of users who behave alike, merged into synthesized users whose clusters disentangle item vectors.

    Attributes:
        weight: lambda_con, the factor of this level in the loss; 0 leaves the level out.
        temperature: what cosines of items are divided by in the contrast.
        budget: synthesized users that are made at most.
        neighbours: users that join a user in its clique, the ones most like it (they need not be like each other).
        users_per_item: users of one item that are looked at for neighbours; where more have it, so many are drawn by chance.
        choose: ``cover`` takes the cliques that cover most users (greedily), ``random`` any.
        max_items: items of a synthesized user at most, the ones that most of its members have.
        per_step: synthesized users that an optimisation step contrasts, over all workers.
    """

    weight: float = Field(0.0, ge=0)
    temperature: float = Field(0.2, gt=0)
    budget: int = Field(1000, ge=1)
    neighbours: int = Field(10, ge=1, le=1000)
    users_per_item: int = Field(200, ge=2)
    choose: Literal["cover", "random"] = "cover"
    max_items: int = Field(50, ge=2, le=200)
    per_step: int = Field(16, ge=1)


class MultiInterestConfig(WorkersConfig, ScheduleConfig):
    """A multi-interest retriever: K vectors per user, each looks for items of its own.

    With both weights of ``alignment`` and ``crowd`` at 0 it is the base model (ComiRec).

    Attributes:
        routing: ``capsules`` routes dynamically (MIND, ComiRec-DR), ``attention`` is self-attentive (ComiRec-SA).
        interests: vectors of a user, K.
        rounds: rounds of dynamic routing; the gradient goes through the last one only.
        agreement: factor of ``u_kj . v_k`` in the routing's logits; 1 as published, more makes an event go to fewer interests.
        width: length of the vectors of items and of interests, D.
        hidden: units of the attention's hidden layer.
        max_length: events of a history that are read, the latest ones.
        recency: learn a weight for each age of an event, beside what it is.
        temperature: scores are cosines divided by it; they are dot products when it is unset.
        negatives: items sampled for the softmax of a step, with log-Q correction; the whole catalogue when unset.
        negatives_power: power of its training frequency that an item is drawn by as a negative.
        search: how the top of each interest is found: ``exact``, or ``faiss``'s HNSW graph for large catalogues.
        top_k: items of a list.
        batch_targets: events that an optimisation step predicts, about, over all workers.
        hold_out: latest training events of each user that are left out of clusters and of what interests stand for; the model trains on
            them. A policy that reads the interests while it learns to predict such an event needs that.
    """

    alignment: AlignmentConfig = AlignmentConfig()
    crowd: CrowdConfig = CrowdConfig()
    vector_clusters: VectorClustersConfig = VectorClustersConfig()
    routing: Literal["capsules", "attention"] = "capsules"
    interests: int = Field(4, ge=1, le=64)
    rounds: int = Field(3, ge=1, le=10)
    agreement: float = Field(1.0, gt=0)
    width: int = Field(64, ge=2)
    hidden: int = Field(256, ge=1)
    max_length: int = Field(20, ge=1)
    recency: bool = True
    dropout: float = Field(0.2, ge=0, lt=1)
    temperature: float | None = Field(None, gt=0)
    negatives: int | None = Field(None, ge=1)
    negatives_power: float = Field(1.0, ge=0, le=1)
    search: Literal["exact", "faiss"] = "exact"
    top_k: int = Field(50, ge=1)
    batch_targets: int = Field(1024, ge=1)
    hold_out: int = Field(0, ge=0)

    @property
    def model_name(self) -> str:
        """As it stands in tables."""
        if self.alignment.weight or self.crowd.weight:
            return "ldmi"
        return "comirec_dr" if self.routing == "capsules" else "comirec_sa"

    @property
    def clusters_users(self) -> bool:
        """Whether users' own items are grouped."""
        return self.alignment.weight > 0

    @property
    def clusters_crowd(self) -> bool:
        """Whether synthesized users are made."""
        return self.crowd.weight > 0

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.batch_targets < self.num_workers:
            raise ValueError(
                f"batch_targets={self.batch_targets} leaves nothing for some of num_workers={self.num_workers}"
            )
        return self
