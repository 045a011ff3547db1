"""What can be set about the policy: its backbone, its tasks and how it reads a history."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from dig_ray.base import Config, InputPath, free

TASKS = (
    "next_sid",
    "title_to_sid",
    "sid_to_title",
    "interests_to_sid",
    "sid_to_interests",
    "user_interests_to_sid",
)
INTEREST_TASKS = {
    "item_interests": ("interests_to_sid", "sid_to_interests"),
    "user_interests": ("user_interests_to_sid",),
}
"""What was mined -> the tasks that read it."""


class DecoderConfig(Config):
    """Size of the from-scratch decoder (Phi-3 architecture: RMSNorm, rotary positions, SwiGLU, residual dropout)."""

    hidden_size: int = Field(128, ge=8)
    num_layers: int = Field(4, ge=1)
    num_heads: int = Field(4, ge=1)
    ffn_size: int = Field(512, ge=8)
    dropout: float = Field(
        0.2, ge=0, lt=1, description="on the output of every attention and feed-forward block"
    )
    embedding_dropout: float = Field(0.2, ge=0, lt=1)
    attention_dropout: float = Field(0.0, ge=0, lt=1)
    codebook_init: float = Field(
        0.05,
        ge=0,
        description="SID tokens start as their codebook vectors with this deviation; 0 starts them at random",
    )
    tie_embeddings: bool = Field(
        False,
        description="read and predict tokens with one matrix; apart (the default), an item in the history does not raise its own score",
    )
    text_vocabulary: int = Field(
        4096, ge=300, description="byte-pair tokens, learnt only when a text task is on"
    )

    @model_validator(mode="after")
    def _heads_divide(self) -> DecoderConfig:
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError(
                f"hidden_size={self.hidden_size} must be an even multiple of num_heads={self.num_heads} (rotary positions)"
            )
        return self


class LoraConfig(Config):
    """Low-rank adapters; the SID tokens' own rows always train."""

    rank: int = Field(16, ge=1)
    alpha: float = Field(32, gt=0)
    dropout: float = Field(0.05, ge=0, lt=1)
    target_modules: str | tuple[str, ...] = "all-linear"


class RecommenderConfig(Config):
    """The policy.

    ``backbone``: ``"decoder"`` is a small causal decoder trained from scratch; anything else is a Hugging Face causal LM by id or
    directory, whose vocabulary gains the SID tokens.
    """

    backbone: InputPath = "decoder"
    revision: str | None = None
    decoder: DecoderConfig = DecoderConfig()
    lora: LoraConfig | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32",
        description="of the backbone's weights and arithmetic; see recommender.backbone for what trains",
    )
    trust_remote_code: bool = free(
        False, description="run Python code that comes with the backbone, as the user who runs this"
    )
    max_history: int = Field(20, ge=1, description="items of history the policy reads, the latest ones")
    normalizer: Literal["trie", "head"] = Field(
        "trie",
        description="probabilities sum to one over the catalogue's continuations, or over every SID token",
    )
    tasks: dict[str, float] = Field(
        default={"next_sid": 1.0}, description="SFT task and how many times its documents are seen an epoch"
    )
    user_interests: Literal["mined", "multi_interest"] = Field(
        "mined",
        description="whose interests of a user the task user_interests_to_sid reads: the miners' or LDMI's",
    )
    max_text_tokens: int = Field(
        64, ge=4, description="tokens of a title or an interest text that a task reads or writes"
    )

    def reads(self, mined: str) -> str | None:
        """A task of this config that reads ``item_interests`` or ``user_interests``; None where none does."""
        return next((task for task in INTEREST_TASKS[mined] if self.tasks.get(task, 0) > 0), None)

    @model_validator(mode="after")
    def _known_tasks(self) -> RecommenderConfig:
        unknown = sorted(set(self.tasks) - set(TASKS))
        if unknown:
            raise ValueError(f"tasks: {unknown[0]!r} is unknown; choose from {', '.join(TASKS)}")
        if self.tasks.get("next_sid", 0) <= 0:
            raise ValueError("tasks: next_sid must have a positive weight, it is what the policy is for")
        if any(w < 0 for w in self.tasks.values()):
            raise ValueError("tasks: a weight is negative; use 0 or leave the task out")
        if self.lora is not None and self.backbone == "decoder":
            raise ValueError(
                "lora adapts a pretrained model; the from-scratch decoder has nothing to adapt, remove lora"
            )
        return self
