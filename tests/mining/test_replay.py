"""Recorded answers: which cells are answers, and under which id."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dig_ray.errors import UserError
from dig_ray.mining.engines.contract import judge_answer
from dig_ray.mining.engines.replay import read_recorded


def recorded(folder, cells: list[str], form: str) -> dict[str, str]:
    """JSON lines with these cells as the answers of 1, 2, ..."""
    path = folder / "answers.jsonl"
    path.write_text("".join(f'{{"id": {n + 1}.0, "says": {cell}}}\n' for n, cell in enumerate(cells)))
    return read_recorded(str(path), "id", "says", form)


@pytest.mark.parametrize("cell", ["null", "NaN", '"nan"', '"None"', '"<NA>"'])
@pytest.mark.parametrize("form", ["text", "json"])
def test_what_was_not_recorded_is_no_answer(tmp_path, cell, form):
    assert set(recorded(tmp_path, [cell, '"a mug"', "[]"], form)) == {"2", "3"}


@pytest.mark.parametrize(
    "cell", ['"a cup"', '{"caption": "a cup"}', '{"text": "a cup"}', '"{\\"text\\": \\"a cup\\"}"']
)
def test_captions(tmp_path, cell):
    answer, reason = judge_answer("caption", recorded(tmp_path, [cell], "text")["1"])
    assert answer is not None and answer.texts == ("a cup",) and not reason


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ('["red", "cup"]', "wrong_type: caption is a list, not text"),
        ('{"en": "a cup"}', "wrong_type: caption is an object, not text"),
        ('{"text": "a", "confidence": 1}', "wrong_type: caption is an object, not text"),
        ("5", "wrong_type: caption is a number, not text"),
        ("true", "wrong_type: caption is true or false, not text"),
        ("\"['red', 'cup']\"", "wrong_type: caption is a list, not text"),
        ('" "', "empty"),
    ],
)
def test_what_is_no_caption_fails_with_its_reason(tmp_path, cell, reason):
    answer, why = judge_answer("caption", recorded(tmp_path, [cell, '"x"'], "text")["1"])
    assert answer is None and why.startswith(reason)


def test_objects_are_judged_as_the_json_they_are(tmp_path):
    good = {"descriptors": [{"descriptor": "tea", "confidence": 0.5}]}
    cells = [
        json.dumps(good),
        json.dumps(json.dumps(good)),
        '{"descriptors": [{"descriptor": "tea", "confidence": NaN}]}',
    ]
    found = recorded(tmp_path, cells, "json")
    assert [judge_answer("descriptors", found[n])[1].split(":")[0] for n in "123"] == ["", "", "not_finite"]
    table = pa.table({"subject_id": [1, 2], "answer": pa.array([good, {"descriptors": None, "note": "x"}])})
    pq.write_table(table, tmp_path / "a.parquet")
    found = read_recorded(str(tmp_path / "a.parquet"), "subject_id", "answer")
    assert json.loads(found["1"]) == good and json.loads(found["2"]) == {"note": "x"}


def test_a_judges_numbers_with_gaps_are_whole(tmp_path):
    pq.write_table(
        pa.table({"subject_id": ["a#0", "a#1", "a#2"], "answer": [1.0, None, 0.5]}), tmp_path / "a.parquet"
    )
    found = read_recorded(str(tmp_path / "a.parquet"), "subject_id", "answer")
    assert found == {"a#0": "1", "a#2": "0.5"}
    assert judge_answer("judgement", found["a#0"])[0].label == 1


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (["a", None], "column subject_id is empty in data row 2"),
        (["a", "nan"], "column subject_id is empty .written as nan. in data row 2"),
        ([1.5, 2.0], "is a fraction in data row 1, which is no id"),
        (["a", "a"], "subject_id 'a' stands in data rows 1 and 2"),
        ([["a"], ["b"]], "which is no id"),
    ],
)
def test_ids_are_those_of_the_catalogue(tmp_path, ids, words):
    pq.write_table(pa.table({"subject_id": ids, "answer": ["x", "y"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=words):
        read_recorded(str(tmp_path / "a.parquet"), "subject_id", "answer")
