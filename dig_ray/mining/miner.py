"""Asking miners about subjects: what is known is not asked, several miners work side by side, and all that comes is kept.

Answers live in the store's answer log, one folder for each (prompt, model), beyond any artifact: whoever asks the same again, in this run
after a kill or in another one, finds them. A failure of the way there (an endpoint that was down) is asked again, in a second pass and by
every later run that asks at all; a bad answer is not.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from dig_ray.artifacts.manifest import hash_input_files, hash_json
from dig_ray.base import Stage
from dig_ray.errors import UserError
from dig_ray.mining.answer_log import AnswerKeys, AnswerLog
from dig_ray.mining.answers import MOST, Kind
from dig_ray.mining.deaths import Marks
from dig_ray.mining.engines import run_engine
from dig_ray.mining.engines.contract import Job, Secret, SpendLimit, request_schema, worth_asking
from dig_ray.mining.engines.meter import MiningBoard, Totals
from dig_ray.mining.evidence import Evidence
from dig_ray.mining.item_pictures import Pictures
from dig_ray.mining.prompts import Prompt
from dig_ray.mining.spend import endpoint_name, total_paid
from dig_ray.mining.watch import watch
from dig_ray.on_ray.session import beside_the_driver

if TYPE_CHECKING:
    import pyarrow as pa

CRASHES = 3
"""Deaths of a process that runs an engine, after which a run gives up."""


@dataclass
class Asked:
    """What one miner was asked and answered.

    Attributes:
        miner: its settings.
        kind: what its answers are: a keyphrase miner gives descriptors whatever the prompt asks for.
        prompt: name, version and hash, as they stand in rows.
        keys: one per evidence; "" where there was nothing to ask about.
        most: entries that an answer may have.
        answers: key -> row of the answer log.
        asked_now: sums over what this run asked.
    """

    miner: Any
    kind: Kind
    prompt: tuple[str, int, str]
    keys: list[str]
    most: int = MOST
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked_now: Totals = field(default_factory=Totals)

    def figures(self) -> dict[str, Any]:
        """What a stage's stats say of the miner, whenever its answers were given."""
        miner = self.miner
        return {"engine": miner.engine, "llm": miner.llm, "all": self.totals().as_dict()}

    def totals(self) -> Totals:
        """Sums over all answers, whenever they were given."""
        totals = Totals()
        for key in dict.fromkeys(self.keys):
            if key in self.answers:
                totals.add(self.answers[key])
        return totals


def plan(
    miner: Any,
    prompt: Prompt,
    evidence: Sequence[Evidence],
    pictures: Pictures | None,
    most: int = MOST,
) -> Asked:
    """Keys of every question; nothing is asked.

    Args:
        miner: settings of its engine.
        prompt: the instructions.
        evidence: one per subject.
        pictures: the subjects' pictures, for prompts about pictures; a subject without one is not asked about.
        most: entries that an answer may have.
    """
    about = (
        (prompt.name, prompt.version, prompt.hash) if miner.llm else ("no LLM", 0, _code_version(type(miner)))
    )
    recorded = hash_json(hash_input_files({"recorded": miner.recorded})) if miner.recorded else ""
    key_of = AnswerKeys(recorded or about[2], miner.identity() | {"most": most})
    keys = []
    for one in evidence:
        mark = None if pictures is None else pictures.marks.get(one.subject_id)
        if (one.empty and pictures is None) or (pictures is not None and mark is None):
            keys.append("")
        elif recorded:
            keys.append(key_of(one.subject_id))
        else:
            keys.append(key_of(one.text, mark))
    return Asked(miner, miner.kind or prompt.kind, about, keys, most)


def _code_version(engine: type) -> str:
    """Changes with the code of an engine without prompt, as a prompt's hash does with its words."""
    from importlib.metadata import PackageNotFoundError, version

    from dig_ray.artifacts.code_version import code_hash

    try:
        packages = [version(name) for name in ("keybert", "sentence-transformers", "scikit-learn")]
    except PackageNotFoundError:
        packages = []
    return hash_json([code_hash((engine.__module__,)), packages])[:12]


def folder_name(asked: Asked) -> str:
    """The answer log's folder of a (prompt, model)."""
    return f"{asked.kind}-{hash_json([asked.prompt[2], asked.miner.identity()])[:16]}"


def damage(notes: Counter[str]) -> str:
    """What was wrong with the files of a log, and what becomes of it."""
    means = {
        "files_unreadable": "{} files cannot be read, and their answers are asked for again",
        "lines_unreadable": "{} lines are no answers and are left out; what they were about is asked again",
        "numbers_impossible": "{} answers have counts or costs that cannot be, which count as 0",
        "payments_ignored": "{} entries are no payments and are left out",
    }
    return "; ".join(means[name].format(f"{count:,}") for name, count in sorted(notes.items()))


def answer_log(asked: Asked, kept: str) -> AnswerLog:
    """Where a miner's answers to a prompt are kept."""
    return AnswerLog(f"{kept}/answers/{folder_name(asked)}")


def load_known(asked: Asked, kept: str, compact: bool = False, notes: Counter[str] | None = None) -> None:
    """Fill in what the log knows; ``notes`` as in :meth:`AnswerLog.read`."""
    log = answer_log(asked, kept).read(compact, notes)
    wanted = set(asked.keys)
    asked.answers = {
        row["key"]: row
        for batch in log.to_batches(max_chunksize=65_536)
        for row in batch.to_pylist()
        if row["key"] in wanted
    }


def ask(
    plans: Sequence[Asked],
    prompt: Prompt,
    evidence: Sequence[Evidence],
    stage: Stage,
    pictures: Pictures | None = None,
) -> None:
    """Ask what is not known yet, all miners side by side, and fill in every plan's answers.

    Raises:
        UserError: an engine cannot work, a spend limit was reached, or answers did not arrive in the
            store; those that did are kept.
    """
    with ExitStack() as locks:
        for name in sorted({folder_name(asked) for asked in plans}):  # two recorded miners may share one
            locks.enter_context(stage.hold(f"answers-{name}"))
        for asked in plans:
            answer_log(asked, stage.kept).check_writable()
            notes: Counter[str] = Counter()
            load_known(asked, stage.kept, compact=True, notes=notes)
            if notes:
                stage.log(f"{asked.miner.name}: in {answer_log(asked, stage.kept).folder}, {damage(notes)}")
        for again in (False, True):
            one = partial(_one_pass, plans, prompt, evidence, stage, pictures, again)
            stopped = _outliving(one, plans, stage)
            if stopped:
                raise UserError("; ".join(stopped))
        for asked in plans:
            lost = len(set(asked.keys) - {""} - set(asked.answers))
            if lost:
                raise UserError(
                    f"miner {asked.miner.name}: {lost:,} answers did not arrive in {stage.kept}; on several machines the store must be a "
                    "place that all of them see, a shared directory or a URI such as s3://bucket/runs"
                )


def _outliving(run: Callable[[], list[str]], plans: Sequence[Asked], stage: Stage) -> list[str]:
    """A pass, and another for what is missing where the process beside the driver that ran an engine died."""
    from ray.exceptions import WorkerCrashedError

    for _ in range(CRASHES):
        try:
            return run()
        except WorkerCrashedError:
            stage.log("a process that ran an engine died; asking for what is missing")
            for asked in plans:
                load_known(asked, stage.kept)
    return run()


def _one_pass(
    plans: Sequence[Asked],
    prompt: Prompt,
    evidence: Sequence[Evidence],
    stage: Stage,
    pictures: Pictures | None,
    again: bool,
) -> list[str]:
    """Ask every row that is worth asking; the sentences of the miners that stopped early. A second pass says why it is one."""
    jobs: list[tuple[Asked, Job, pa.Table]] = []
    same_model = Counter(_served_by(asked.miner) for asked in plans)
    for asked in plans:
        todo = _requests(asked, evidence, pictures)
        count = len(set(asked.keys) - {""})
        if not todo.num_rows:
            if not again:
                stage.log(f"{asked.miner.name}: all {count:,} answers were there")
            continue
        if again:
            stage.log(
                f"{asked.miner.name}: asking again about {todo.num_rows:,} rows that could not be reached"
            )
        else:
            there = f"; {count - todo.num_rows:,} were there" if count > todo.num_rows else ""
            stage.log(f"{asked.miner.name}: asking about {todo.num_rows:,} rows{there}")
        marks = f"{stage.work}/marks-{folder_name(asked)}"
        Marks(marks).clear()
        key = os.environ.get(getattr(asked.miner, "api_key_env", None) or "")
        url = getattr(asked.miner, "base_url", None)
        payments = f"{stage.kept}/payments/{endpoint_name(url)}" if url else ""
        job = Job(
            miner=asked.miner,
            kind=asked.kind,
            system=prompt.system,
            most=asked.most,
            log=answer_log(asked, stage.kept).folder,
            marks=marks,
            pace=1 / same_model[_served_by(asked.miner)],
            spent=_paid_before(asked, payments, stage),
            payments=payments,
            secret=Secret(key) if key else None,
            stage=stage.name,
            known=any(row["status"] == "ok" for row in asked.answers.values()),
            second=again or asked.answers.keys() >= set(todo["key"].to_pylist()),
        )
        jobs.append((asked, job, todo))
    if not jobs:
        return []
    import ray

    here = beside_the_driver()
    board = ray.remote(num_cpus=0)(MiningBoard).options(scheduling_strategy=here).remote()
    run = ray.remote(num_cpus=0, max_retries=0)(_run_engine)
    pending = {}
    for asked, job, todo in jobs:
        task = run.options(name=f"mine {asked.miner.name}", scheduling_strategy=here).remote(
            replace(job, board=board), ray.put(todo)
        )
        pending[task] = (asked, todo.num_rows, asked.asked_now)
    before = {asked.miner.name: asked.asked_now for asked, _, _ in jobs}
    stopped = watch(pending, board, stage.log)
    for asked, _, _ in jobs:
        load_known(asked, stage.kept)
        guessed = asked.asked_now.estimated - before[asked.miner.name].estimated
        if guessed:
            calls = asked.asked_now.calls - before[asked.miner.name].calls
            stage.log(
                f"{asked.miner.name}: usage is missing or impossible in {guessed:,} of {calls:,} calls; tokens and cost are our estimate"
            )
    return stopped


def _paid_before(asked: Asked, payments: str, stage: Stage) -> float:
    """US dollars that earlier runs spent at a miner's endpoint, where a limit counts them."""
    if getattr(asked.miner, "spend_limit", None) is None:
        return 0.0
    notes: Counter[str] = Counter()
    spent = total_paid(payments, notes)
    if notes:
        stage.log(f"{asked.miner.name}: in {payments}, {damage(notes)}")
    return spent


def _served_by(miner: Any) -> tuple[str, str]:
    """Whose rate limit a miner lives under; miners without an endpoint have one each."""
    url = getattr(miner, "base_url", None)
    return (miner.name, "") if url is None else (endpoint_name(url), miner.model)


def _requests(asked: Asked, evidence: Sequence[Evidence], pictures: Pictures | None) -> pa.Table:
    import pyarrow as pa

    todo: dict[str, Evidence] = {}
    for key, one in zip(asked.keys, evidence, strict=True):
        if key and key not in todo and worth_asking(asked.answers.get(key)):
            todo[key] = one
    shown = pictures.load({one.subject_id for one in todo.values()}) if pictures is not None else {}
    rows = []
    for key, one in todo.items():
        image, media = shown.get(one.subject_id, (None, None))
        rows.append(
            {
                "key": key,
                "subject_id": one.subject_id,
                "evidence": one.text,
                "image": image,
                "media": media,
            }
        )
    return pa.Table.from_pylist(rows, schema=request_schema())


def _run_engine(job: Job, requests: pa.Table) -> str:
    """In a task of its own: one miner's engine to its end; "" or the sentence that says why it stopped."""
    from dig_ray.on_ray.session import find_user_error, quiet_ray_data

    quiet_ray_data()
    try:
        run_engine(job, requests)
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
