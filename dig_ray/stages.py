"""The pipeline's stages, in the order in which they run. Each room declares its own in its ``stages.py``."""

from __future__ import annotations

from dig_ray.baselines.stages import STAGES as BASELINES
from dig_ray.catalog.stages import STAGES as CATALOG
from dig_ray.embedding.stages import STAGES as EMBEDDING
from dig_ray.evaluation.stages import STAGES as EVALUATION
from dig_ray.mining.stages import STAGES as MINING
from dig_ray.multi_interest.stages import STAGES as MULTI_INTEREST
from dig_ray.report.stages import STAGES as REPORT
from dig_ray.semantic_ids.stages import STAGES as SEMANTIC_IDS
from dig_ray.stage_spec import StageSpec
from dig_ray.training.stages import STAGES as TRAINING

STAGES: tuple[StageSpec, ...] = (
    *CATALOG,
    *MINING,
    *EMBEDDING,
    *MULTI_INTEREST,
    *SEMANTIC_IDS,
    *BASELINES,
    *TRAINING,
    *EVALUATION,
    *REPORT,
)
