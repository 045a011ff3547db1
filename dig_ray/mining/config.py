"""What can be set about mining: miners, the judge and budgets. What can be set about a miner stands with its engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from dig_ray.base import Config, InputPath, free
from dig_ray.mining.engines import (
    KeyphraseConfig,
    MinerConfig,
    OpenAIConfig,
    ReplayConfig,
    SimilarityConfig,
    VllmConfig,
)
from dig_ray.mining.engines.settings import EngineConfig, Price, Sampling
from dig_ray.numerics.encoder import MINILM

__all__ = [
    "FIELDS",
    "EngineConfig",
    "KeyphraseConfig",
    "MergeConfig",
    "MinerConfig",
    "MiningConfig",
    "OpenAIConfig",
    "Price",
    "ReplayConfig",
    "RldiConfig",
    "Sampling",
    "SimilarityConfig",
    "VllmConfig",
    "input_files",
]

FIELDS = ("caption", "items", "users", "judge", "clusters")
"""Fields of ``mining`` that name miners."""


class MergeConfig(Config):
    """How several miners' interests of one subject become one list.

    Attributes:
        encoder: ``minilm``, or a sentence-transformers id or directory.
        threshold: cosine from which two texts are one interest; above 1, only the same text is.
    """

    encoder: str = MINILM
    threshold: float = Field(0.9, gt=0, le=2)


class RldiConfig(Config):
    """The classifier that labels interests the judge was not asked about (its features and settings are our choice).

    Attributes:
        share: part of the items that the judge labels itself, chosen by the seed; 1 judges everything and trains the
            classifier for its report only.
        held_out: part of the judged items that the classifier does not see, for its AUC and calibration.
        threshold: probability from which an interest is positive.
        hidden: units of the one hidden layer; 0 is logistic regression.
        encoder: the encoder of interests and evidence; ``minilm``, or a sentence-transformers id or directory.
    """

    share: float = Field(1.0, gt=0, le=1)
    held_out: float = Field(0.2, gt=0, lt=1)
    threshold: float = Field(0.5, gt=0, lt=1)
    hidden: int = Field(32, ge=0, le=1024)
    encoder: str = MINILM


class MiningConfig(Config):
    """What is asked about items and users, and whom.

    Attributes:
        caption: describes each item's picture (CMSA); None leaves captions out.
        items: miners of item descriptors or interests; several are an ensemble (MLIM). None, the default, finds keyphrases without an LLM
            where something reads them.
        users: miners of user interests, from training histories only.
        judge: labels each item interest 0 or 1; None leaves labels and quality out.
        clusters: allocates the items of a user, or of a synthesized one, to named clusters (LDMI); without it they are grouped by their
            vectors, with no LLM.
        item_prompt, user_prompt, caption_prompt, judge_prompt, cluster_prompt: names of prompts that come with the package, or paths of
            YAML files.
            ``descriptors`` is DCIM's, ``item_interests`` MLIM's with its reasoning steps.
        evidence_tokens: tokens, by our estimate, of all text that is shown of one item, or of one user's history.
        user_items: latest events of a history that are shown.
        user_hold_out: latest training events of each user that are not shown to ``users``; a policy that reads their interests while
            it learns to predict such an event needs that.
        cluster_items: latest items of a user that are allocated to clusters.
        image_side: longest side in pixels of a picture that is sent.
        most: interests of one answer at most.
        max_failed: share of asked rows that may fail before the stage is not published.
        copies: what becomes of texts of an answer that are the prompt's own words, a title or a whole sentence of the evidence: ``count``
            says how many there are, ``drop`` leaves them out, ``refuse`` takes no answer that has one. Answers kept before are read by it,
            too.
        self_judging: let a model judge what it mined itself, with a warning.
        merge: how the interests of several miners become one list.
        rldi: the classifier that labels what the judge was not asked about.
    """

    caption: MinerConfig | None = None
    items: tuple[MinerConfig, ...] | None = None
    users: tuple[MinerConfig, ...] = ()
    judge: MinerConfig | None = None
    clusters: MinerConfig | None = None
    item_prompt: InputPath = "descriptors"
    user_prompt: InputPath = "user_interests"
    caption_prompt: InputPath = "caption"
    judge_prompt: InputPath = "judge"
    cluster_prompt: InputPath = "clusters"
    evidence_tokens: int = Field(768, ge=16, le=100_000)
    user_items: int = Field(20, ge=1, le=1000)
    user_hold_out: int = Field(0, ge=0)
    cluster_items: int = Field(50, ge=1, le=200)
    image_side: int = Field(512, ge=16, le=4096)
    most: int = Field(8, ge=1, le=20)
    max_failed: float = free(0.1, ge=0, le=1)
    copies: Literal["count", "drop", "refuse"] = "count"
    self_judging: bool = free(False)
    merge: MergeConfig = MergeConfig()
    rldi: RldiConfig = RldiConfig()

    @model_validator(mode="after")
    def _possible(self) -> MiningConfig:
        for field in ("items", "users"):
            names = [miner.name for miner in getattr(self, field) or ()]
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(
                        f"{field} has two miners of the name {name!r}; tables tell them apart by it"
                    )
        for field in ("items", "users"):
            miners = getattr(self, field) or ()
            for number, miner in enumerate(miners):
                for other in miners[:number]:
                    if other.identity() == miner.identity() and other.recorded == miner.recorded:
                        raise ValueError(
                            f"{field}: miners {other.name} and {miner.name} would give the same answers; set another model or "
                            "sampling.seed for one"
                        )
        for field in FIELDS:
            for miner in self.miners(field):
                miner.check_field(field, self.most)
        if self.judge is not None and not self.item_miners:
            raise ValueError("judge has nothing to label without miners in items")
        if not self.self_judging and (same := self.judged_by_itself()):
            raise ValueError(
                f"judge is the model of miner {same[0]} and would grade its own answers; name another model, "
                "or set mining.self_judging=true"
            )
        return self

    @property
    def item_miners(self) -> tuple[MinerConfig, ...]:
        """The miners of items."""
        return (KeyphraseConfig(),) if self.items is None else self.items

    def miners(self, field: str) -> Sequence[MinerConfig]:
        """The miners that one of ``FIELDS`` names; for ``items`` without any, the one that is taken then."""
        found = self.item_miners if field == "items" else getattr(self, field)
        if found is None:
            return ()
        return found if isinstance(found, tuple) else (found,)

    def judged_by_itself(self) -> list[str]:
        """Names of the miners whose model is the judge's."""
        model = getattr(self.judge, "model", None)
        return [
            miner.name
            for miner in self.item_miners
            if model is not None and getattr(miner, "model", None) == model
        ]


def input_files(config: MiningConfig, field: str) -> dict[str, str | Path]:
    """Files from outside that decide what the miners of ``field`` answer: the prompt and recorded answers, by purpose."""
    from dig_ray.mining.prompts import prompt_file

    files: dict[str, str | Path] = {
        f"{field} prompt": prompt_file(getattr(config, f"{field.removesuffix('s')}_prompt"))
    }
    for miner in config.miners(field):
        if miner.recorded is not None:
            files[f"{field} {miner.name}"] = miner.recorded
    return files
