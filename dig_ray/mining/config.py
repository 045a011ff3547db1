"""What can be set about mining: miners, the judge, budgets and prices."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from dig_ray.base import Config


class Price(Config):
    """US dollars per million tokens."""

    input: float = Field(0.0, ge=0)
    output: float = Field(0.0, ge=0)

    def of(self, tokens_in: int, tokens_out: int) -> float:
        """Dollars for so many tokens."""
        return (tokens_in * self.input + tokens_out * self.output) / 1e6


class Sampling(Config):
    """What decides an answer besides prompt and evidence. Temperature 0 as published for captions and descriptors."""

    temperature: float = Field(0.0, ge=0, le=2)
    max_tokens: int = Field(512, ge=1, le=32_768)
    seed: int = Field(0, ge=0)


class EngineConfig(Config):
    """What all engines have.

    Attributes:
        name: of the miner, as it stands in tables; letters, digits, ``.``, ``_`` and ``-``.
        price: for the dry run, the spend and its limit.
        spend_limit: US dollars after which no call is made any more; the run stops cleanly and goes on when it is raised.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    sampling: Sampling = Sampling()
    price: Price = Price()
    spend_limit: float | None = Field(None, gt=0)


class OpenAIConfig(EngineConfig):
    """Any OpenAI-compatible endpoint: a frontier model's or a vLLM server's.

    Attributes:
        base_url: up to and including ``/v1``.
        model: as the endpoint calls it.
        api_key_env: environment variable that holds the key; the key itself never stands in a config. None sends none.
        response_format: how the endpoint is told the shape of an answer: its JSON schema, any JSON object, or not at all.
        max_in_flight: requests at once, over all actors.
        requests_per_minute: sent at most, over all actors; None leaves it to the endpoint's 429s.
        timeout: seconds for one request; ``deadline``: seconds for one row with all its retries.
        max_tries: sends of one request that meets 429, 5xx, a cut connection or a timeout.
        actors: processes that send; one carries thousands of requests a minute.
        extra_body: further fields of every request.
    """

    engine: Literal["openai"] = "openai"
    base_url: str = Field(pattern=r"^https?://[^\s/]+(/\S*)?$")
    model: str = Field(min_length=1)
    api_key_env: str | None = "OPENAI_API_KEY"
    response_format: Literal["json_schema", "json_object", "none"] = "json_schema"
    max_in_flight: int = Field(64, ge=1, le=4096)
    requests_per_minute: float | None = Field(None, gt=0)
    timeout: float = Field(120.0, gt=0)
    deadline: float = Field(600.0, gt=0)
    max_tries: int = Field(6, ge=1)
    actors: int = Field(1, ge=1)
    extra_body: dict[str, Any] = {}

    @field_validator("api_key_env")
    @classmethod
    def _a_name_not_a_key(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", value):
            raise ValueError(
                "api_key_env is the name of an environment variable, such as OPENAI_API_KEY, never the key itself"
            )
        return value

    @model_validator(mode="after")
    def _enough_in_flight(self) -> OpenAIConfig:
        if self.max_in_flight < self.actors:
            raise ValueError(
                f"max_in_flight={self.max_in_flight} leaves nothing for some of actors={self.actors}"
            )
        return self


class VllmConfig(EngineConfig):
    """A model run by vLLM through ray.data.llm, on GPUs or a CPU.

    Attributes:
        model: Hugging Face id or directory; ``revision`` pins it.
        replicas: engines side by side; ``tensor_parallel``: GPUs (or CPU processes) of one engine.
        device: ``auto`` takes GPUs when the cluster has some.
        max_model_len: tokens of prompt and answer together.
        batch_size, max_concurrent_batches: rows a batch and batches in flight per engine; many small ones keep it busy.
        engine_kwargs: further settings of the engine.
    """

    engine: Literal["vllm"] = "vllm"
    model: str = Field(min_length=1)
    revision: str | None = None
    replicas: int = Field(1, ge=1)
    tensor_parallel: int = Field(1, ge=1)
    device: Literal["auto", "gpu", "cpu"] = "auto"
    max_model_len: int = Field(4096, ge=64)
    batch_size: int = Field(64, ge=1)
    max_concurrent_batches: int = Field(8, ge=1)
    engine_kwargs: dict[str, Any] = {}


class ReplayConfig(EngineConfig):
    """Answers recorded before, from a table with columns ``subject_id`` and ``answer`` (names can be set)."""

    engine: Literal["replay"] = "replay"
    path: str = Field(min_length=1)
    id_column: str = "subject_id"
    answer_column: str = "answer"


class KeyphraseConfig(EngineConfig):
    """No LLM: phrases of the text itself that stand nearest to it in the embedding's space. Named "no LLM" in every report."""

    engine: Literal["keyphrase"] = "keyphrase"
    name: str = Field("keyphrase", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    phrases: int = Field(6, ge=1, le=20)
    longest: int = Field(3, ge=1, le=5, description="words of a phrase")
    diversity: float = Field(0.5, ge=0, le=1)


MinerConfig = Annotated[
    OpenAIConfig | VllmConfig | ReplayConfig | KeyphraseConfig, Field(discriminator="engine")
]
