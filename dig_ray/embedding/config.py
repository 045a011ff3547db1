"""What can be set about embedding: text, pictures, and how the two become one vector."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from dig_ray.base import Config, InputPath, free
from dig_ray.numerics.encoder import MINILM


class TextEmbeddingConfig(Config):
    """Which encoder reads which item text, and on how many actors.

    ``model``: ``"minilm"`` is all-MiniLM-L6-v2 (384 dimensions) out of an installed package, so it works offline; anything
    else is a sentence-transformers id or a local directory. ``path``: vectors brought along instead, a Parquet file with ``item_id`` and
    ``vector``.

    ``fields`` are joined by new lines in their order. DeepInterestGR-2's enriched text is ``[title, description, caption, interests]``:
    ``caption`` and ``interests`` are what mining found, the interests in their order and without confidences. ``interests: positive``
    keeps those that the judge or its classifier labelled 1 (DeepInterestGR-1's curated interests); ``min_quality`` leaves out all interests
    of items whose quality is lower or unknown (our choice).
    """

    model: InputPath = MINILM
    path: InputPath | None = free(None, min_length=1)
    fields: tuple[str, ...] = ("title", "brand", "categories", "description")
    interests: Literal["all", "positive"] = "all"
    min_quality: float = Field(0.0, ge=0, le=1)
    batch_size: int = Field(64, ge=1)
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    normalize: bool = True
    max_seq_length: int | None = Field(
        None, ge=8, description="tokens read per text; the model's own limit when unset"
    )
    prompt: str = Field("", description="put before every text (some encoders ask for an instruction)")
    rows_per_part: int = free(
        512, ge=1, description="rows per part file: at most this many are encoded again after a kill"
    )
    num_actors: int = free(1, ge=1)
    num_cpus: float = free(
        0.5, gt=0, description="logical CPUs per actor; a whole one each can leave none to read with"
    )
    num_gpus: float = free(0.0, ge=0)
    trust_remote_code: bool = False

    @field_validator("fields")
    @classmethod
    def _fields_given(cls, fields: tuple[str, ...]) -> tuple[str, ...]:
        if not fields or len(set(fields)) < len(fields):
            raise ValueError("name at least one text column, each once")
        return fields

    @model_validator(mode="after")
    def _something_to_curate(self) -> TextEmbeddingConfig:
        for key, value in (("interests", self.interests), ("min_quality", self.min_quality)):
            if value not in ("all", 0.0) and "interests" not in self.fields:
                raise ValueError(
                    f"{key}={value} curates interests that embedding.fields leaves out; add interests to the fields"
                )
        return self

    @property
    def curated(self) -> bool:
        """Whether the judge's labels decide which interests are read."""
        return self.interests == "positive" or self.min_quality > 0


class ImageEmbeddingConfig(Config):
    """Which frozen image tower sees the pictures, and on how many actors.

    Attributes:
        model: an open_clip model, ``hf-hub:ORG/NAME``, or ``local-dir:FOLDER`` with ``open_clip_config.json`` and weights. The default
            is the published ViT-L/14. ``pixels`` is no CLIP: the picture reduced to 8 x 8 colours, which needs no weights; every report
            then says so.
        pretrained: a tag that open_clip knows for the model, or a file of weights. ``random`` leaves the tower untrained: for tests, and as
            a control; every report then says so.
        feature: ``pooled`` is what the tower gives before the projection into the space shared with text, as published (1,024 numbers for
            ViT-L/14); ``projected`` is after it (768).
        dtype: in which the tower keeps its weights and computes; vectors are stored as float32.
        batch_size: pictures encoded together.
        path: vectors brought along instead, a Parquet file with ``item_id`` and ``vector``; items it lacks count as without a picture.
        cache_dir: where downloaded weights are kept; open_clip's own place when unset.
        num_actors: encoders at most.
        num_cpus: logical CPUs of an encoder.
        num_gpus: GPUs of an encoder.
        decode_cpus: logical CPUs of a task that decodes and resizes.
    """

    model: str = Field("ViT-L-14", min_length=1)
    pretrained: InputPath = Field("openai", min_length=1)
    feature: Literal["pooled", "projected"] = "pooled"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batch_size: int = free(32, ge=1)
    path: InputPath | None = free(None, min_length=1)
    cache_dir: InputPath | None = free(None)
    num_actors: int = free(1, ge=1)
    num_cpus: float = free(0.5, gt=0)
    num_gpus: float = free(0.0, ge=0)
    decode_cpus: float = free(0.5, gt=0)


class FusionConfig(Config):
    """How text and picture become one vector: CMSA's two matrices (METHOD: published), and what they are fitted to (our choice).

    Attributes:
        target: ``reconstruction`` keeps as much of both vectors as the dimensions allow; ``cooccurrence`` goes on from there and pulls
            items together that stand near each other in training histories.
        dimensions: how many numbers a fused vector has; as many as the text's when unset.
        missing: what stands in for the image feature of an item without a picture: ``text`` the mean of all others, so that its
            text alone sets it apart; ``zero`` a vector of zeros, so that such items also resemble each other.
        image_weight: share of the picture beside the text, whose weight is 1.
        steps: the steps of training towards ``cooccurrence``, at most; it stops earlier when held-out pairs get no better.
        batch_size: pairs in a step; each pair's other items are its negatives.
        learning_rate: Adam's, relative to how large a matrix's entries are.
        temperature: by what cosines are divided in the contrast.
        window: how many events apart two items of one history still make a pair.
    """

    target: Literal["reconstruction", "cooccurrence"] = "reconstruction"
    dimensions: int | None = Field(None, ge=2)
    missing: Literal["text", "zero"] = "text"
    image_weight: float = Field(1.0, gt=0)
    steps: int = Field(1000, ge=1)
    batch_size: int = Field(512, ge=2)
    learning_rate: float = Field(1e-3, gt=0)
    temperature: float = Field(0.1, gt=0)
    window: int = Field(3, ge=1)
