"""The ``openai`` engine: an OpenAI-compatible endpoint, asked by actors of Ray Data with many requests in flight each.

An actor gets its whole share of rows at once, so that no batch ends in waiting for its slowest row, and writes each answer down as it
comes. When it dies, Ray gives its rows to another one, which reads what was written and asks the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from dig_ray.base import free
from dig_ray.errors import UserError
from dig_ray.mining.answer_log import AnswerLog
from dig_ray.mining.engines.contract import Job, Result, SpendLimit, worth_asking
from dig_ray.mining.engines.meter import Meter
from dig_ray.mining.engines.settings import EngineConfig, Price
from dig_ray.mining.keys import read_key
from dig_ray.mining.spend import Purse, endpoint_name
from dig_ray.on_ray.telemetry import named

if TYPE_CHECKING:
    import pyarrow as pa


class OpenAIConfig(EngineConfig):
    """Any OpenAI-compatible endpoint: a frontier model's or a vLLM server's.

    Attributes:
        base_url: up to and including ``/v1``.
        model: the model's name, as the endpoint calls it.
        api_key_env: environment variable that holds the key; the key itself never stands in a config. None sends none.
        response_format: how the endpoint is told the shape of an answer: ``json_schema``, ``json_object`` (with the schema in it where the
            endpoint takes that, as llama.cpp's server does), or ``none``. ``auto`` begins with ``json_schema`` and learns at the first rows
            what the endpoint takes.
        max_in_flight: requests at once, over all actors.
        requests_per_minute: sent at most, over all actors; None leaves it to the endpoint's 429s. Miners of one run that ask the same model
            of the same endpoint share both evenly.
        timeout: seconds for one request.
        deadline: seconds for one row with all its retries.
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
    base_url: str = free()
    model: str = Field(min_length=1)
    api_key_env: str | None = free("OPENAI_API_KEY")
    response_format: Literal["auto", "json_schema", "json_object", "none"] = "auto"
    max_in_flight: int = free(64, ge=1, le=4096)
    requests_per_minute: float | None = free(None, gt=0)
    timeout: float = free(120.0, gt=0)
    deadline: float = free(600.0, gt=0)
    max_tries: int = free(6, ge=1)
    spend_limit: float | None = free(None, gt=0)
    hopeless_rows: int = free(20, ge=0)
    actors: int = free(1, ge=1)
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = free("max_tokens")
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

    def identity(self) -> dict[str, Any]:
        """As for every engine; ``auto`` begins as ``json_schema``, and its answers are judged alike."""
        found = super().identity()
        if found["response_format"] == "auto":
            found["response_format"] = "json_schema"
        return found

    def check_machine(self, local: bool) -> None:
        """The endpoint's key is set, and such that a header can carry it."""
        if local:
            read_key(self.name, self.api_key_env)


def run(job: Job, requests: pa.Table) -> None:
    """Ask every row.

    Raises:
        UserError: the key is not set or refused, the address or model is unknown, or enough rows failed alike.
        SpendLimit: the limit was reached.
    """
    import ray
    from ray.data import ActorPoolStrategy

    actors = min(job.miner.actors, requests.num_rows)
    size = -(-requests.num_rows // actors)
    shares = [requests.slice(start, size) for start in range(0, requests.num_rows, size)]
    outcomes = ray.data.from_arrow(shares).map_batches(
        named(Asker, f"Mine({job.miner.name})"),
        fn_constructor_kwargs={"job": job, "share": 1 / len(shares)},
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=len(shares)),
        num_cpus=0.1,  # it waits, nearly always
    )
    outcomes.set_name(job.stage)
    # all of them first: what the others have in flight is paid for
    stopped = sorted({outcome["stopped"] for outcome in outcomes.iter_rows()} - {""})
    if stopped == ["spend"]:
        raise SpendLimit
    if stopped:
        raise UserError(next(said for said in stopped if said != "spend"))


class Asker:
    """One actor. A UserError travels back as data: Ray would wrap it until nobody finds its sentence."""

    def __init__(self, job: Job, share: float) -> None:
        self.job, self.share = job, share

    def __call__(self, rows: pa.Table) -> Iterator[dict[str, Any]]:
        from dig_ray.mining.engines.chat_client import ChatClient

        job = self.job
        log = AnswerLog(job.log)
        before = log.read()
        keys = set(rows["key"].to_pylist())
        # what an actor answered that died at these rows
        known = {row["key"] for row in before.to_pylist() if row["key"] in keys and not worth_asking(row)}
        secret = job.secret.reveal() if job.secret is not None else None
        endpoint = endpoint_name(job.miner.base_url)
        purse = Purse(job.miner.spend_limit, job.spent, job.payments, job.board, endpoint)
        meter = Meter(job.board, job.miner.name, job.stage)
        lenient = job.second and job.known
        miner = job.miner.model_copy(update={"hopeless_rows": 0}) if lenient else job.miner
        client = ChatClient(
            miner, self.share * job.pace, job.most, secret, purse, meter.say, meter.trouble, job.known
        )
        stopped = ""
        with log.writer() as journal:

            def keep(result: Result) -> None:
                journal.append(result.row())
                meter.add(result)

            todo = (job.request(row) for row in iterate(rows) if row["key"] not in known)
            try:
                client.ask_all(todo, keep)
            except SpendLimit:
                stopped = "spend"
            except UserError as error:
                stopped = str(error)
        purse.close()
        meter.flush()
        yield {"stopped": [stopped]}


def iterate(rows: pa.Table) -> Iterator[dict[str, Any]]:
    """Rows one after another, without all of them as Python objects at once."""
    for batch in rows.to_batches(max_chunksize=256):
        yield from batch.to_pylist()
