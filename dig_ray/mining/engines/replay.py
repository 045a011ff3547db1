"""The ``replay`` engine: answers recorded before, judged as strictly as fresh ones.

What a table may hold as an answer, by the miner's ``form``:

* ``json``: the text that the model wrote, as it stands; or the object, list or number itself (a cell of JSON lines or of Parquet), which is
  written as JSON again before it is judged;
* ``text``: a bare caption; or an object whose only field is a text called ``caption`` or ``text``. Other objects, lists and numbers are
  answers that failed, and stand in the quarantine.

Null, NaN, and the words that pandas writes for them are "not recorded". Ids follow the rule of the catalogue's, so that 5863.0
in a table with gaps finds the item ``5863``.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from dig_ray.errors import UserError
from dig_ray.mining.answer_log import write_rows
from dig_ray.mining.engines.contract import Job, Result, judge_answer
from dig_ray.mining.progress import Meter

if TYPE_CHECKING:
    import pyarrow as pa


def run(job: Job, requests: pa.Table) -> None:
    """Look every row's subject up in the recorded table.

    Raises:
        UserError: the table cannot be read, lacks a column, has a row without an id, or names a subject twice.
    """
    miner = job.miner
    recorded = read_recorded(miner.path, miner.id_column, miner.answer_column, miner.form)
    meter = Meter(job.board, miner.name, job.stage)
    rows = []
    for key, subject in zip(requests["key"].to_pylist(), requests["subject_id"].to_pylist(), strict=True):
        result = Result(key)
        answer = recorded.get(subject)
        if answer is None:
            result.reason = "not_recorded: the table has no answer for this subject"
        else:
            result.raw = answer
            read, result.reason = judge_answer(job.kind, result.raw, job.most)
            result.status = "failed" if read is None else "ok"
        meter.add(result)
        rows.append(result.row())
    write_rows(job.log, rows)
    meter.flush()


def read_recorded(path: str, id_column: str, answer_column: str, form: str = "json") -> dict[str, str]:
    """Subject id -> recorded answer, as the JSON text that is judged; subjects without one are left out.

    Raises:
        UserError: see ``run``.
    """
    from dig_ray.catalog.columns.cells import Column, column_of, distinct, is_missing, is_text
    from dig_ray.catalog.columns.id_cells import every_id, places_once
    from dig_ray.catalog.readers.tables import read_table
    from dig_ray.catalog.text import as_strings

    table = read_table(path, Counter())
    for column in (id_column, answer_column):
        if column not in table.column_names:
            raise UserError(
                f"{path}: there is no column {column!r}; it has {', '.join(table.column_names)}; "
                "set id_column and answer_column of the replay miner"
            )
    ids = every_id(table, id_column, path)
    places_once(
        ids,
        lambda one, first, second: (
            f"{path}: {id_column} {one!r} stands in data rows {first} and {second}; keep one answer for each subject"
        ),
    )
    answers = column_of(table, answer_column)
    if is_text(answers.kind):
        answers = Column(answers.name, as_strings(answers.cells, Counter()), answers.json)
    values, places = distinct(answers)
    written = [None if is_missing(value) else _written(value, form, answers.json) for value in values]
    found = {}
    for subject, place in zip(ids, places.tolist(), strict=True):
        if place >= 0 and (answer := written[place]) is not None:
            found[subject] = answer
    return found


def _written(value: Any, form: str, json_cell: bool) -> str | None:
    """A cell as the JSON text that is judged, None where nothing was recorded."""
    from dig_ray.catalog.columns.cells import NAN_WORDS
    from dig_ray.catalog.readers.literals import is_container_text, read_literal

    if isinstance(value, str):
        if value.strip() in NAN_WORDS:
            return None
        if form != "text":
            return value
        if is_container_text(value):
            with contextlib.suppress(ValueError):  # a caption in brackets
                value = read_literal(value)
    elif not json_cell:
        value = _as_json(value)
    if form == "text":
        only = next(iter(value.items())) if isinstance(value, dict) and len(value) == 1 else ("", None)
        if only[0] in ("caption", "text") and isinstance(only[1], str):
            value = only[1]
        value = {"caption": value}
    return json.dumps(value, ensure_ascii=False, default=str)


def _as_json(value: Any) -> Any:
    """An Arrow value as JSON has it: a field that others of its column have is not there, and a whole float is a whole number."""
    if isinstance(value, dict):
        return {key: _as_json(entry) for key, entry in value.items() if entry is not None}
    if isinstance(value, (list, tuple)):
        return [_as_json(entry) for entry in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
