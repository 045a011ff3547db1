"""The ``openai`` engine: an OpenAI-compatible endpoint, asked by actors of Ray Data with many requests in flight each.

An actor gets its whole share of rows at once, so that no batch ends in waiting for its slowest row, and writes each answer down as it
comes. When it dies, Ray gives its rows to another one, which reads what was written and asks the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dig_ray.errors import UserError
from dig_ray.mining.answer_log import AnswerLog
from dig_ray.mining.engines.chat_client import ChatClient
from dig_ray.mining.engines.contract import Job, Result, SpendLimit, worth_asking
from dig_ray.mining.progress import Meter
from dig_ray.mining.spend import Purse, endpoint_name
from dig_ray.telemetry import named

if TYPE_CHECKING:
    import pyarrow as pa


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
