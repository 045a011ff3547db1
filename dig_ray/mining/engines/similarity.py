"""The ``similarity`` engine: no LLM. Labels an interest by how near it stands to its item's text in a text encoder's space.

A stand-in for a judge where there is no model, so that labels, quality and rewards that read them can be tried everywhere (our choice). It
cannot tell what is specific or actionable; every report names it "no LLM".
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from dig_ray.mining.answer_log import write_rows
from dig_ray.mining.engines.contract import Job, Result
from dig_ray.mining.engines.keyphrase import check_encoder, plain_text
from dig_ray.mining.engines.meter import Meter
from dig_ray.mining.engines.settings import NAME, EngineConfig
from dig_ray.numerics.encoder import MINILM

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 4096
"""Interests labelled at once: what is done again after a death."""


class SimilarityConfig(EngineConfig):
    """No LLM: a judge that labels an interest 1 where it stands near its item's text in a text encoder's space (our choice).

    Attributes:
        encoder: ``minilm``, or a sentence-transformers id or directory.
        threshold: cosine from which the label is 1.
    """

    engine: Literal["similarity"] = "similarity"
    name: str = Field("similarity", pattern=NAME)
    encoder: str = MINILM
    threshold: float = Field(0.5, gt=-1, lt=1)

    llm: ClassVar[bool] = False
    asks_model: ClassVar[bool] = False
    only_stage: ClassVar[tuple[str, ...]] = ("name", "sampling")

    @property
    def answered_by(self) -> str:
        """That it is no LLM, the cosine and the encoder."""
        return f"no LLM (cosine from {self.threshold:g} on, {self.encoder})"

    def check_field(self, field: str, most: int) -> None:
        """It is a judge."""
        if field != "judge":
            raise ValueError("engine similarity only labels interests; set it as judge")

    def check_machine(self, local: bool) -> None:
        """The encoder is there."""
        if local:
            check_encoder(self.name, self.encoder)


def run(job: Job, requests: pa.Table) -> None:
    """Label 1 from ``threshold`` on, 0 below.

    Raises:
        UserError: the encoder cannot be loaded.
    """
    import numpy as np

    from dig_ray.mining.text_vectors import encode_on_ray

    meter = Meter(job.board, job.miner.name, job.stage)
    for start in range(0, requests.num_rows, ROWS):
        part = requests.slice(start, ROWS)
        asked = [json.loads(one) for one in part["evidence"].to_pylist()]
        pairs = [(one["descriptor"], plain_text(one["record"])) for one in asked]
        vectors = encode_on_ray(
            [text for pair in pairs for text in pair],
            job.miner.encoder,
            f"encoder of miner {job.miner.name}",
            lambda line: None,
        )
        rows = []
        for key, (interest, record) in zip(part["key"].to_pylist(), pairs, strict=True):
            near = float(np.dot(vectors[interest], vectors[record]))
            result = Result(key, status="ok", raw=str(int(near >= job.miner.threshold)))
            meter.add(result)
            rows.append(result.row())
        write_rows(job.log, rows)
        meter.flush()
