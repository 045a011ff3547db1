"""What every engine has: settings, and the facts that the rest of mining asks of it instead of knowing it by name."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from dig_ray.base import Config, free
from dig_ray.mining.answers import Kind

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""What a miner's name looks like."""


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

    def attempt(self, number: int) -> dict[str, Any]:
        """How the ``number``-th answer of a row is sampled: from the second on warmer and with another seed, since the first was bad."""
        return {
            "temperature": self.temperature if number == 0 else max(0.3, self.temperature),
            "max_tokens": self.max_tokens,
            "seed": self.seed + number,
        }


class EngineConfig(Config):
    """What all engines have. An engine overrides what is different with it.

    A setting is one of three kinds: it decides an answer, and then another value asks anew; it stands in ``only_stage``, and then another
    value makes the stage's tables anew from the answers that are there; or it is marked as free, and then nothing is made anew.

    Attributes:
        name: the miner's name, as it stands in tables; letters, digits, ``.``, ``_`` and ``-``.
        sampling: how a model draws its answers.
        price: US dollars per million tokens, for the dry run, the spend and its limit.
        llm: whether a language model gave the answers, now or when they were recorded; reports call the others "no LLM".
        asks_model: whether that model is asked in this run, which takes calls and tokens.
        kind: what its answers are, where that is the same whatever a prompt asks for.
        only_stage: settings that count for the stage that asks, and decide no answer.
    """

    name: str = Field(pattern=NAME)
    sampling: Sampling = Sampling()
    price: Price = free(Price())

    llm: ClassVar[bool] = True
    asks_model: ClassVar[bool] = True
    kind: ClassVar[Kind | None] = None
    only_stage: ClassVar[tuple[str, ...]] = ("name",)

    def identity(self) -> dict[str, Any]:
        """What of the settings decides an answer, JSON-able: the model and how it is asked, not where it runs or what it costs."""
        return {name: value for name, value in self.counted().items() if name not in self.only_stage}

    @property
    def answered_by(self) -> str:
        """What answers, as tables and reports name it: the model, or what stands for one."""
        return str(getattr(self, "model", self.name))

    @property
    def recorded(self) -> str | None:
        """Path of the table that holds the answers; None where they are made in this run."""
        return None

    def check_field(self, field: str, most: int) -> None:
        """Refuse what the engine cannot answer.

        Args:
            field: the field of ``mining`` that names the miner: ``caption``, ``items``, ``users``, ``judge`` or ``clusters``.
            most: interests that one answer may have.

        Raises:
            ValueError: the engine cannot do what this field asks for; the sentence says what can.
        """

    def check_machine(self, local: bool) -> None:
        """Refuse what would stop the engine at its start; it takes milliseconds and loads no model.

        Args:
            local: whether workers run on this machine, with its environment, packages and files; else only what the driver reads is
                looked at.

        Raises:
            UserError: a key, a package, a model's directory or a recorded table is not there.
        """
