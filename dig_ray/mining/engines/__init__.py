"""Engines behind one contract: requests in, results out, whatever answers them.

One file is one engine: its settings, what has to be known of it, and its run. A new one is a file and its line in ``MinerConfig``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from dig_ray.mining.engines.contract import Job
from dig_ray.mining.engines.keyphrase import KeyphraseConfig
from dig_ray.mining.engines.openai import OpenAIConfig
from dig_ray.mining.engines.replay import ReplayConfig
from dig_ray.mining.engines.similarity import SimilarityConfig
from dig_ray.mining.engines.vllm import VllmConfig

if TYPE_CHECKING:
    import pyarrow as pa

MinerConfig = Annotated[
    OpenAIConfig | VllmConfig | ReplayConfig | KeyphraseConfig | SimilarityConfig,
    Field(discriminator="engine"),
]


def run_engine(job: Job, requests: pa.Table) -> None:
    """Have the engine of the job's miner answer every request: the function ``run`` of the module that defines the miner's settings.

    Args:
        job: the miner's work.
        requests: rows of ``contract.request_schema``.

    Raises:
        UserError: the engine cannot work; its ``run`` says when.
        SpendLimit: no more money may be spent.
    """
    import_module(type(job.miner).__module__).run(job, requests)
