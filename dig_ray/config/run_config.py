"""The tree itself: a run's config is one field for each room, and a few of its own."""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from dig_ray.base import Config, InputPath, free
from dig_ray.baselines.config import BaselinesConfig
from dig_ray.catalog.config import CatalogConfig
from dig_ray.config.fit_together import first_fault
from dig_ray.embedding.config import FusionConfig, ImageEmbeddingConfig, TextEmbeddingConfig
from dig_ray.evaluation.config import EvaluationConfig
from dig_ray.guards.redaction import hide
from dig_ray.mining.config import MiningConfig
from dig_ray.multi_interest.config import MultiInterestConfig
from dig_ray.on_ray.session import RayConfig
from dig_ray.recommender.config import RecommenderConfig
from dig_ray.semantic_ids.config import SemanticIdConfig
from dig_ray.training.config import SftConfig
from dig_ray.training.grpo_config import GrpoConfig

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
"""What the name of a run, a comparison or a sweep may be: it stands in file names."""


class RunConfig(Config):
    """Everything that decides a run. One field per room, plus the run's own name, seed, store and Ray.

    Attributes:
        name: the experiment's name, as it stands in reports and file names.
        seed: seeds every stage that draws random numbers.
        store: where artifacts live: a local directory or a URI such as ``s3://bucket/prefix``.
        ray: where Ray comes from.
        catalog: which items and interactions are read, and how they are filtered and split.
        mining: which models say what items are for and what users want.
        embedding: how the items' text becomes vectors.
        image_embedding: how their pictures become vectors.
        fusion: pictures join the text before quantization; without it nothing looks at them.
        multi_interest: a multi-interest retriever (ComiRec, LDMI) beside the policy, or before it where it hands its interests on.
        semantic_ids: how vectors become Semantic IDs.
        recommender: the policy: its backbone, its tasks and its distribution over Semantic IDs.
        sft: supervised training of the policy.
        grpo: reinforcement learning after SFT; without it the SFT policy is the last one.
        evaluation: how policies are decoded, and which metrics are taken.
        baselines: what the policies are compared with.

    Raises:
        ValueError: the store's address holds a password, or parts of the tree do not go together (``dig_ray.config.fit_together``).
    """

    name: str = Field(default="run", pattern=NAME_PATTERN)
    seed: int = Field(default=0, ge=0, lt=2**32)
    store: InputPath = free("runs", min_length=1)
    ray: RayConfig = free(RayConfig())
    catalog: CatalogConfig = CatalogConfig()
    mining: MiningConfig = MiningConfig()
    embedding: TextEmbeddingConfig = TextEmbeddingConfig()
    image_embedding: ImageEmbeddingConfig = ImageEmbeddingConfig()
    fusion: FusionConfig | None = None
    multi_interest: MultiInterestConfig | None = None
    semantic_ids: SemanticIdConfig = SemanticIdConfig()
    recommender: RecommenderConfig = RecommenderConfig()
    sft: SftConfig = SftConfig()
    grpo: GrpoConfig | None = None
    evaluation: EvaluationConfig = EvaluationConfig()
    baselines: BaselinesConfig = BaselinesConfig()

    @field_validator("store")
    @classmethod
    def _without_password(cls, store: str) -> str:
        if "://" in store and hide(store, secrets=()) != store:
            raise ValueError(
                "an address holds no user, password or key, which every log would show; set them in the environment, as the package that "
                "opens the address reads them (AWS_ACCESS_KEY_ID ..., FSSPEC_...)"
            )
        return store

    @model_validator(mode="after")
    def _fit_together(self) -> RunConfig:
        fault = first_fault(self)
        if fault is not None:
            raise ValueError(fault)
        return self
