"""What can be set about mining: miners, the judge, budgets and prices."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from dig_ray.base import Config, InputPath
from dig_ray.encoder import MINILM


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
    """What all engines have.

    Attributes:
        name: of the miner, as it stands in tables; letters, digits, ``.``, ``_`` and ``-``.
        price: for the dry run, the spend and its limit.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    sampling: Sampling = Sampling()
    price: Price = Price()


class OpenAIConfig(EngineConfig):
    """Any OpenAI-compatible endpoint: a frontier model's or a vLLM server's.

    Attributes:
        base_url: up to and including ``/v1``.
        model: as the endpoint calls it.
        api_key_env: environment variable that holds the key; the key itself never stands in a config. None sends none.
        response_format: how the endpoint is told the shape of an answer: ``json_schema``, ``json_object`` (with the schema in it where the
            endpoint takes that, as llama.cpp's server does), or ``none``. ``auto`` begins with ``json_schema`` and learns at the first rows
            what the endpoint takes.
        max_in_flight: requests at once, over all actors.
        requests_per_minute: sent at most, over all actors; None leaves it to the endpoint's 429s. Miners of one run that ask the same model
            of the same endpoint share both evenly.
        timeout: seconds for one request; ``deadline``: seconds for one row with all its retries.
        max_tries: sends of one request that meets 429, 5xx, a cut connection or a timeout.
        spend_limit: US dollars that may be spent at this endpoint, by ``price``, over all miners, prompts and runs that share a store;
            then no call is made any more, the run stops cleanly, and goes on when the limit is raised. Calls in flight are finished. Where
            the endpoint does not say what it used, our own estimate of tokens is counted.
        hopeless_rows: rows that may fail alike before one was answered; twice as many, or twice ``max_in_flight``, in a row later on. Then
            the run ends, and they count as not asked. 0 never ends a run.
        actors: processes that send; one carries hundreds of requests a second.
        max_tokens_field: what the endpoint calls the longest answer; reasoning models ask for ``max_completion_tokens``.
        omit: fields of a request that the endpoint does not take, such as ``temperature`` or ``seed``.
        extra_body: further fields of every request.
    """

    engine: Literal["openai"] = "openai"
    base_url: str
    model: str = Field(min_length=1)
    api_key_env: str | None = "OPENAI_API_KEY"
    response_format: Literal["auto", "json_schema", "json_object", "none"] = "auto"
    max_in_flight: int = Field(64, ge=1, le=4096)
    requests_per_minute: float | None = Field(None, gt=0)
    timeout: float = Field(120.0, gt=0)
    deadline: float = Field(600.0, gt=0)
    max_tries: int = Field(6, ge=1)
    spend_limit: float | None = Field(None, gt=0)
    hopeless_rows: int = Field(20, ge=0)
    actors: int = Field(1, ge=1)
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    omit: tuple[Literal["temperature", "seed", "max_tokens"], ...] = ()
    extra_body: dict[str, Any] = {}

    @field_validator("base_url")
    @classmethod
    def _an_address(cls, value: str) -> str:
        """An address without secrets; what is refused is not repeated."""
        if re.match(r"[^/]*//[^/]*@", value) or re.search(r"[?#]", value):
            raise ValueError(
                "base_url holds a user, a key or parameters, and addresses stand in files and reports; give the bare address, such as "
                "https://host/v1, and the key in the environment variable that api_key_env names"
            )
        if not re.fullmatch(r"https?://[^\s/]+(/\S*)?", value):
            raise ValueError(
                "base_url is no address of an endpoint; it begins with http:// or https:// and goes up to /v1, such as http://127.0.0.1:8000/v1"
            )
        return value

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
        if self.spend_limit is not None and self.price == Price():
            raise ValueError(
                f"spend_limit={self.spend_limit:g} without a price limits nothing; set price.input and price.output"
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
        kv_cache_gib: memory for keys and values of one engine, in GiB, beside the model's weights. None leaves a GPU to vLLM
            (``engine_kwargs.gpu_memory_utilization``, .92 of it) and takes a quarter of what is free on a CPU's machine, at most 32,
            shared between the replicas; what stands in ``engine_kwargs`` or VLLM_CPU_KVCACHE_SPACE goes before.
        engine_kwargs: further settings of the engine. Those of ``MEMORY_AND_SPEED`` decide no answer.
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
    kv_cache_gib: float | None = Field(None, gt=0)
    engine_kwargs: dict[str, Any] = {}


class ReplayConfig(EngineConfig):
    """Answers recorded before, from a table (Parquet, CSV or JSON lines).

    Attributes:
        path: of the table.
        id_column, answer_column: item or user id, and what the model wrote; a subject without an answer fails. A recorded judge is asked
            about ``ITEM#N``, the N-th interest of an item's merged list, counted from 0.
        form: ``json`` when answers are what the prompt asks for, ``text`` when they are bare captions.
    """

    engine: Literal["replay"] = "replay"
    path: InputPath = Field(min_length=1)
    id_column: str = "subject_id"
    answer_column: str = "answer"
    form: Literal["json", "text"] = "json"


class KeyphraseConfig(EngineConfig):
    """No LLM: phrases of the text itself that stand nearest to it in a text encoder's space. Named "no LLM" in every report.

    Attributes:
        encoder: ``minilm``, or a sentence-transformers id or directory.
        phrases: at most, per subject.
        longest: words of a phrase at most, stop words not counted.
        candidates: phrases of a text that are looked at, from its beginning on.
        diversity: 0 takes the nearest phrases, 1 the most different ones (maximal marginal relevance).
        actors, num_cpus, num_gpus: the pool that extracts.
    """

    engine: Literal["keyphrase"] = "keyphrase"
    name: str = Field("keyphrase", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    phrases: int = Field(6, ge=1, le=20)
    longest: int = Field(3, ge=1, le=5)
    candidates: int = Field(64, ge=1, le=4096)
    diversity: float = Field(0.5, ge=0, le=1)
    encoder: str = MINILM
    actors: int = Field(1, ge=1)
    num_cpus: float = Field(0.5, gt=0)
    num_gpus: float = Field(0.0, ge=0)


class SimilarityConfig(EngineConfig):
    """No LLM: a judge that labels an interest 1 where it stands near its item's text in a text encoder's space (our choice).

    Attributes:
        encoder: ``minilm``, or a sentence-transformers id or directory.
        threshold: cosine from which the label is 1.
    """

    engine: Literal["similarity"] = "similarity"
    name: str = Field("similarity", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    encoder: str = MINILM
    threshold: float = Field(0.5, gt=-1, lt=1)


MinerConfig = Annotated[
    OpenAIConfig | VllmConfig | ReplayConfig | KeyphraseConfig | SimilarityConfig,
    Field(discriminator="engine"),
]

NO_LLM = ("keyphrase", "similarity")
"""Engines that ask no language model."""


MEMORY_AND_SPEED = (
    "async_scheduling",
    "block_size",
    "cpu_offload_gb",
    "disable_log_stats",
    "distributed_executor_backend",
    "enable_chunked_prefill",
    "enable_prefix_caching",
    "enforce_eager",
    "gpu_memory_utilization",
    "kv_cache_memory_bytes",
    "max_num_batched_tokens",
    "max_num_seqs",
    "max_parallel_loading_workers",
    "pipeline_parallel_size",
    "swap_space",
    "tensor_parallel_size",
)
"""Of ``engine_kwargs``: how much memory an engine takes and how fast it is."""


def identity(miner: EngineConfig) -> dict[str, Any]:
    """What of a miner's settings decides its answers: the model and how it is asked, not where it runs or what it costs.

    ``max_model_len`` of vLLM is none of it: a prompt that is too long has no answer, and failed rows are asked again.
    """
    settings = miner.model_dump(mode="json")
    decides = {
        "openai": ("engine", "model", "sampling", "response_format", "omit", "extra_body"),
        "vllm": ("engine", "model", "revision", "sampling", "engine_kwargs"),
        "replay": ("engine", "id_column", "answer_column", "form"),
        "keyphrase": ("engine", "encoder", "phrases", "longest", "candidates", "diversity"),
        "similarity": ("engine", "encoder", "threshold"),
    }[settings["engine"]]
    found = {name: settings[name] for name in decides}
    if found.get("response_format") == "auto":  # it begins so, and answers are judged alike
        found["response_format"] = "json_schema"
    if "engine_kwargs" in found:
        given = found["engine_kwargs"].items()
        found["engine_kwargs"] = {key: value for key, value in given if key not in MEMORY_AND_SPEED}
    return found


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
        share: of the items the judge labels itself, chosen by the seed; 1 judges everything and trains the classifier for its report only.
        held_out: of the judged items the classifier does not see, for its AUC and calibration.
        threshold: probability from which an interest is positive.
        hidden: units of the one hidden layer; 0 is logistic regression.
        encoder: for interests and evidence.
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
        evidence_tokens: of all text shown of one item, or of one user's history.
        user_items: latest events of a history that are shown.
        user_hold_out: of each user, so many latest training events are not shown to ``users``; a policy that reads their interests while
            it learns to predict such an event needs that.
        cluster_items: latest items of a user that are allocated to clusters.
        image_side: longest side in pixels of a picture that is sent.
        most: interests of one answer at most.
        max_failed: share of asked rows that may fail before the stage is not published.
        copies: of texts of an answer that are the prompt's own words, a title or a whole sentence of the evidence: ``count`` says how many
            there are, ``drop`` leaves them out, ``refuse`` takes no answer that has one. Answers kept before are read by it, too.
        self_judging: let a model judge what it mined itself, with a warning.
        merge, rldi: see there.
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
    max_failed: float = Field(0.1, ge=0, le=1)
    copies: Literal["count", "drop", "refuse"] = "count"
    self_judging: bool = False
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
                    recorded = isinstance(miner, ReplayConfig) and miner.path != getattr(other, "path", None)
                    if identity(other) == identity(miner) and not recorded:
                        raise ValueError(
                            f"{field}: miners {other.name} and {miner.name} would give the same answers; set another model or "
                            "sampling.seed for one"
                        )
        for field in ("caption", "judge", "clusters"):
            if isinstance(getattr(self, field), KeyphraseConfig):
                raise ValueError(f"{field} needs a model; engine keyphrase only finds phrases of a text")
        for miner in (*self.item_miners, *self.users, *filter(None, [self.caption, self.clusters])):
            if isinstance(miner, SimilarityConfig):
                raise ValueError("engine similarity only labels interests; set it as judge")
            if isinstance(miner, KeyphraseConfig) and miner.phrases > self.most:
                raise ValueError(
                    f"miner {miner.name} finds phrases={miner.phrases}, and an answer may have most={self.most} interests; set phrases to "
                    f"{self.most} or less, or raise most"
                )
        for miner in (*self.item_miners, *self.users, *filter(None, [self.judge, self.clusters])):
            if isinstance(miner, ReplayConfig) and miner.form == "text":
                raise ValueError(f"miner {miner.name}: form=text is for captions; all else is JSON")
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
    found = getattr(config, field)
    for miner in found if isinstance(found, tuple) else [found] if found is not None else []:
        if isinstance(miner, ReplayConfig):
            files[f"{field} {miner.name}"] = miner.path
    return files
