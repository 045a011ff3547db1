"""The ``replay`` engine: answers recorded before, judged as strictly as fresh ones."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

from dig_ray.errors import UserError
from dig_ray.mining.answer_log import write_rows
from dig_ray.mining.engines.contract import Job, Result, judge_answer
from dig_ray.mining.progress import Meter

if TYPE_CHECKING:
    import pyarrow as pa


def run(job: Job, requests: pa.Table) -> None:
    """Look every row's subject up in the recorded table.

    Raises:
        UserError: the table cannot be read, lacks a column, or names a subject twice.
    """
    recorded = read_recorded(job.miner.path, job.miner.id_column, job.miner.answer_column)
    meter = Meter(job.board, job.miner.name, job.stage)
    rows = []
    for key, subject in zip(requests["key"].to_pylist(), requests["subject_id"].to_pylist(), strict=True):
        result = Result(key)
        answer = recorded.get(subject)
        if answer is None:
            result.reason = "not_recorded: the table has no answer for this subject"
        else:
            result.raw = json.dumps({"caption": answer}) if job.miner.form == "text" else answer
            read, result.reason = judge_answer(job.kind, result.raw, job.most)
            result.status = "failed" if read is None else "ok"
        meter.add(result)
        rows.append(result.row())
    write_rows(job.log, rows)
    meter.flush()


def read_recorded(path: str, id_column: str, answer_column: str) -> dict[str, str]:
    """Subject id -> recorded answer; subjects without one are left out.

    Raises:
        UserError: see ``run``.
    """
    from dig_ray.catalog.tables import read_table

    table = read_table(path, Counter())
    for column in (id_column, answer_column):
        if column not in table.column_names:
            raise UserError(
                f"{path}: there is no column {column!r}; it has {', '.join(table.column_names)}; "
                "set id_column and answer_column of the replay miner"
            )
    ids = [str(value) for value in table[id_column].to_pylist()]
    answers = table[answer_column].to_pylist()
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        twice = next(i for i in ids if i in seen or seen.add(i))  # type: ignore[func-returns-value]
        raise UserError(f"{path}: {id_column} {twice!r} stands twice; keep one answer for each subject")
    return {subject: str(answer) for subject, answer in zip(ids, answers, strict=True) if answer is not None}
