"""What can be set about text embedding."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from dig_ray.base import Config
from dig_ray.encoder import MINILM


class TextEmbeddingConfig(Config):
    """Which encoder reads which item text, and on how many actors.

    ``model``: ``"minilm"`` is all-MiniLM-L6-v2 (384 dimensions) out of an installed package, so it works offline; anything
    else is a sentence-transformers id or a local directory.
    """

    model: str = MINILM
    fields: tuple[str, ...] = ("title", "brand", "categories", "description")
    batch_size: int = Field(64, ge=1)
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    normalize: bool = True
    max_seq_length: int | None = Field(
        None, ge=8, description="tokens read per text; the model's own limit when unset"
    )
    prompt: str = Field("", description="put before every text (some encoders ask for an instruction)")
    rows_per_part: int = Field(
        512, ge=1, description="rows per part file: at most this many are encoded again after a kill"
    )
    num_actors: int = Field(1, ge=1)
    num_cpus: float = Field(
        0.5, gt=0, description="logical CPUs per actor; a whole one each can leave none to read with"
    )
    num_gpus: float = Field(0.0, ge=0)
    trust_remote_code: bool = False

    @field_validator("fields")
    @classmethod
    def _fields_given(cls, fields: tuple[str, ...]) -> tuple[str, ...]:
        if not fields or len(set(fields)) < len(fields):
            raise ValueError("name at least one text column, each once")
        return fields
