"""What can be set about Semantic IDs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from dig_ray.base import Config, InputPath, free


class CollaborativeConfig(Config):
    """Collaborative evidence in the vectors that are quantized; see :mod:`dig_ray.embedding.collaborative`.

    Attributes:
        weight: its share beside the text, whose weight is 1; 0 leaves it out.
        dimensions: how many numbers a collaborative vector has.
        window: how many events apart two items of one history still co-occur.
        distance_power: a pair ``d`` events apart counts ``d ** -distance_power``.
    """

    weight: float = Field(0.0, ge=0)
    dimensions: int = Field(64, ge=2)
    window: int = Field(8, ge=1)
    distance_power: float = Field(0.5, ge=0)


class KMeansConfig(Config):
    """Residual k-means. Our choice: fit on a sample of 65,536 rows, k-means++ start, 20 Lloyd steps at most."""

    iterations: int = Field(20, ge=1)
    sample: int = Field(65_536, ge=256, description="rows used for fitting; encoding uses every row")
    init: Literal["kmeans++", "random"] = "kmeans++"


class RQVAEConfig(Config):
    """RQ-VAE with the reference settings of MiniOneRec and LC-Rec (METHOD.md section 4); epochs are our choice."""

    hidden: tuple[int, ...] = (2048, 1024, 512, 256, 128, 64)
    latent: int = Field(32, ge=1)
    commitment: float = Field(0.25, ge=0)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    epochs: int = Field(100, ge=1)
    batch_size: int = Field(1024, ge=1)
    kmeans_init: bool = True
    input_dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of a row's evidence that training hides from the encoder (our choice)",
    )
    restart_after: int = Field(
        1, ge=0, description="epochs a code may go unused before it is restarted; 0 never restarts"
    )
    checkpoint_seconds: float = free(30.0, gt=0, description="how often training state is kept for a resume")


class SemanticIdConfig(Config):
    """How vectors become Semantic IDs.

    ``method``: ``residual_kmeans`` (the default: no training run, and as good downstream), ``rqvae``, or ``file`` (SIDs
    brought along as Parquet with ``item_id`` and a list column of codes: numbers, or tokens such as ``<a_12>``).
    ``missing_items`` (method=file): items that the file has no codes for are an ``error``, or share one ``own_code`` that no other item
    has, one code more at every level, and are told apart by the collision suffix (our choice: they stay in the catalogue and can be
    recommended, and no code of theirs claims a likeness that nobody measured).
    ``scale`` is applied to the vectors before either quantizer: ``none``, ``center``, ``standardise`` (every dimension to
    mean 0, variance 1: keeps an RQ-VAE on unit-norm vectors from collapsing) or ``whiten`` (PCA to equal variances,
    ``whiten_dim`` of them).
    ``vectors``: ``items``, which the embedding or the fusion makes, or ``multi_interest``, item vectors that LDMI disentangled.
    """

    method: Literal["residual_kmeans", "rqvae", "file"] = "residual_kmeans"
    vectors: Literal["items", "multi_interest"] = "items"
    levels: int = Field(3, ge=1, le=25)
    codebook_size: int | tuple[int, ...] = 256
    scale: Literal["auto", "none", "center", "standardise", "whiten"] = "auto"
    whiten_dim: int | None = Field(None, ge=2)
    collaborative: CollaborativeConfig = CollaborativeConfig()
    kmeans: KMeansConfig = KMeansConfig()
    rqvae: RQVAEConfig = RQVAEConfig()
    spread_last_level: bool = Field(
        False,
        description="give items that would share a full code the nearest free code of the last level instead",
    )
    path: InputPath | None = free(None, description="method=file: the semantic_ids Parquet")
    codes_column: str = "codes"
    missing_items: Literal["error", "own_code"] = "error"
    neighbours: int = Field(10, ge=1, description="true neighbours per item in the quality report")
    neighbour_sample: int = Field(
        2_000, ge=1, description="items whose neighbours are looked up in the quality report"
    )
    device: str = Field("auto", description="torch device; auto takes a GPU when there is one")

    @model_validator(mode="after")
    def _fits(self) -> SemanticIdConfig:
        if isinstance(self.codebook_size, tuple) and len(self.codebook_size) != self.levels:
            raise ValueError(
                f"codebook_size has {len(self.codebook_size)} entries for levels={self.levels}; give one per level, or one number"
            )
        if min(self.sizes) < 2:
            raise ValueError(f"codebook_size={self.codebook_size}: every level needs at least 2 codes")
        if (self.method == "file") != (self.path is not None):
            raise ValueError("method=file needs path, and path needs method=file")
        if self.missing_items != "error" and self.method != "file":
            raise ValueError(
                f"missing_items={self.missing_items} is for method=file; other methods code every item"
            )
        if self.whiten_dim is not None and self.scale != "whiten":
            raise ValueError("whiten_dim is only used with scale=whiten")
        return self

    @property
    def sizes(self) -> tuple[int, ...]:
        """Codes per level."""
        if isinstance(self.codebook_size, tuple):
            return self.codebook_size
        return (self.codebook_size,) * self.levels
