"""Asking miners about subjects: what is known is not asked, several miners work side by side, and all that comes is kept.

Answers live in the store's answer log, one folder for each (prompt, model), beyond any artifact: whoever asks the same again, in this run
after a kill or in another one, finds them. A failure of the way there (an endpoint that was down) is asked again by the next run; a
bad answer is not.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from dig_ray.base import Stage
from dig_ray.errors import UserError
from dig_ray.manifest import hash_json
from dig_ray.mining.answer_log import AnswerLog, answer_key
from dig_ray.mining.answers import Kind
from dig_ray.mining.deaths import Marks
from dig_ray.mining.engines.contract import Job, SpendLimit, identity, request_schema, worth_asking
from dig_ray.mining.evidence import Evidence
from dig_ray.mining.progress import Board, Totals, progress_line
from dig_ray.mining.prompts import Prompt

if TYPE_CHECKING:
    import pyarrow as pa

SECONDS_BETWEEN_LINES = 10.0
Picture = tuple[bytes, str]


@dataclass
class Asked:
    """What one miner was asked and answered.

    Attributes:
        miner: its settings.
        kind: of its answers: a keyphrase miner gives descriptors whatever the prompt asks for.
        prompt: name, version and hash, as they stand in rows.
        keys: one per evidence; "" where there was nothing to ask about.
        answers: key -> row of the answer log.
        asked_now: sums over what this run asked.
    """

    miner: Any
    kind: Kind
    prompt: tuple[str, int, str]
    keys: list[str]
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked_now: Totals = field(default_factory=Totals)

    def totals(self) -> Totals:
        """Sums over all answers, whenever they were given."""
        totals = Totals()
        for key in dict.fromkeys(self.keys):
            if key in self.answers:
                totals.add(self.answers[key])
        return totals


def plan(
    miner: Any, prompt: Prompt, evidence: Sequence[Evidence], pictures: Mapping[str, Picture] | None
) -> Asked:
    """Keys of every question; nothing is asked.

    Args:
        miner: engine settings.
        prompt: the instructions.
        evidence: of every subject.
        pictures: subject id -> picture, for prompts about pictures; a subject without one is not asked about.
    """
    settings = identity(miner)
    kind, about = prompt.kind, (prompt.name, prompt.version, prompt.hash)
    if miner.engine == "keyphrase":
        kind, about = "descriptors", ("no LLM", 0, "")
    recorded = ""
    if miner.engine == "replay":
        from dig_ray.manifest import hash_input_files

        recorded = hash_json(hash_input_files({"recorded": miner.path}))
    keys = []
    for one in evidence:
        picture = None if pictures is None else pictures.get(one.subject_id)
        if (one.empty and pictures is None) or (pictures is not None and picture is None):
            keys.append("")
        elif recorded:
            keys.append(answer_key(recorded, settings, one.subject_id))
        else:
            keys.append(answer_key(about[2], settings, one.text, picture[0] if picture else None))
    return Asked(miner, kind, about, keys)


def folder_name(asked: Asked) -> str:
    """The answer log's folder of a (prompt, model)."""
    return f"{asked.kind}-{hash_json([asked.prompt[2], identity(asked.miner)])[:16]}"


def load_known(asked: Asked, kept: str) -> pa.Table:
    """Fill in what the log knows; the log's table."""
    log = AnswerLog(f"{kept}/answers/{folder_name(asked)}").read(compact=True)
    wanted = set(asked.keys)
    asked.answers = {
        row["key"]: row
        for batch in log.to_batches(max_chunksize=65_536)
        for row in batch.to_pylist()
        if row["key"] in wanted
    }
    return log


def ask(
    plans: Sequence[Asked],
    prompt: Prompt,
    evidence: Sequence[Evidence],
    stage: Stage,
    pictures: Mapping[str, Picture] | None = None,
    most: int = 8,
) -> None:
    """Ask what is not known yet, all miners side by side, and fill in every plan's answers.

    Raises:
        UserError: an engine cannot work, a spend limit was reached, or another run is asking the same; answers that came are kept.
    """
    import ray

    with ExitStack() as locks:
        jobs: list[tuple[Asked, Job, pa.Table]] = []
        for asked in plans:
            name = folder_name(asked)
            locks.enter_context(stage.hold(f"answers-{name}"))
            log = load_known(asked, stage.kept)
            todo = _requests(asked, evidence, pictures)
            if not todo.num_rows:
                stage.log(f"{asked.miner.name}: all {len(set(asked.keys) - {''}):,} answers were there")
                continue
            marks = f"{stage.work}/marks-{name}"
            Marks(marks).clear()
            spent = sum(log["cost"].to_pylist()) if log.num_rows else 0.0
            where = f"{stage.kept}/answers/{name}"
            secret = os.environ.get(getattr(asked.miner, "api_key_env", None) or "")
            jobs.append(
                (
                    asked,
                    Job(
                        asked.miner, asked.kind, prompt.system, most, where, marks, spent=spent, secret=secret
                    ),
                    todo,
                )
            )
        if not jobs:
            return
        board = ray.remote(num_cpus=0)(Board).remote()
        run = ray.remote(num_cpus=0, max_retries=0)(_run_engine)
        pending = {}
        for asked, job, todo in jobs:
            known = len(set(asked.keys) - {""}) - todo.num_rows
            there = f"; {known:,} were there" if known else ""
            stage.log(f"{asked.miner.name}: asking about {todo.num_rows:,} rows{there}")
            named = run.options(name=f"mine {asked.miner.name}")
            with_board = Job(**{**vars(job), "board": board})
            pending[named.remote(with_board, ray.put(todo))] = (asked, todo.num_rows)
        stopped = _watch(pending, board, stage.log)
        for asked, _, _ in jobs:
            load_known(asked, stage.kept)
    if stopped:
        raise UserError("; ".join(stopped))


def _requests(asked: Asked, evidence: Sequence[Evidence], pictures: Mapping[str, Picture] | None) -> pa.Table:
    import pyarrow as pa

    rows: dict[str, dict[str, Any]] = {}
    for key, one in zip(asked.keys, evidence, strict=True):
        if key and key not in rows and worth_asking(asked.answers.get(key)):
            picture = pictures.get(one.subject_id) if pictures is not None else None
            rows[key] = {
                "key": key,
                "subject_id": one.subject_id,
                "evidence": one.text,
                "image": picture[0] if picture else None,
                "media": picture[1] if picture else None,
            }
    return pa.Table.from_pylist(list(rows.values()), schema=request_schema())


def _run_engine(job: Job, requests: pa.Table) -> str:
    """In a task of its own: one miner's engine to its end; "" or the sentence that says why it stopped."""
    from dig_ray.cluster import find_user_error, quiet_ray_data

    quiet_ray_data()
    engine = import_module(f"dig_ray.mining.engines.{job.miner.engine}")
    try:
        engine.run(job, requests)
    except SpendLimit:
        limit = job.miner.spend_limit
        return (
            f"miner {job.miner.name}: its spend_limit of ${limit:g} is reached; what was answered is kept, "
            "raise the limit and run the same command to go on"
        )
    except Exception as error:
        sentence = find_user_error(error)
        if sentence is None:
            raise
        return sentence
    return ""


def _watch(pending: dict[Any, tuple[Asked, int]], board: Any, say: Callable[[str], None]) -> list[str]:
    """Wait for all engines, with a line for each now and then; the sentences of those that stopped early."""
    import ray

    begun = time.monotonic()
    stopped = []
    crashed: BaseException | None = None
    while pending:
        ready, _ = ray.wait(list(pending), num_returns=1, timeout=SECONDS_BETWEEN_LINES)
        totals: dict[str, Totals] = ray.get(board.read.remote())
        elapsed = time.monotonic() - begun
        for task, (asked, todo) in list(pending.items()):
            asked.asked_now = totals.get(asked.miner.name, Totals())
            if task in ready or not ready:
                say(progress_line(asked.miner.name, todo, asked.asked_now, elapsed))
        for task in ready:
            asked, _ = pending.pop(task)
            try:
                sentence = ray.get(task)
            except Exception as error:  # the others go on: what they are asked is paid for
                crashed = crashed or error
                continue
            if sentence:
                stopped.append(sentence)
    if crashed is not None:
        raise crashed
    return stopped
