"""Answers that were paid for are kept, found by what was asked, and never half there."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dig_ray.errors import UserError
from dig_ray.mining.answer_log import AnswerKeys, AnswerLog, schema, write_rows
from dig_ray.mining.deaths import Marks
from dig_ray.mining.engines.contract import Result
from dig_ray.mining.engines.meter import Totals
from dig_ray.mining.miner import damage


def rows(*keys: str, status: str = "ok", raw: str = "{}") -> list[dict]:
    return [Result(key, status=status, raw=raw, calls=1).row() for key in keys]


def write(folder: str, *keys: str, **more: str) -> None:
    with AnswerLog(folder).writer() as journal:
        for row in rows(*keys, **more):
            journal.append(row)


def test_a_key_is_all_that_decides_an_answer() -> None:
    one = AnswerKeys("p", {"model": "m", "seed": 0})("e")
    assert one == AnswerKeys("p", {"seed": 0, "model": "m"})("e") and len(one) == 32
    others = [
        AnswerKeys("q", {"model": "m", "seed": 0})("e"),
        AnswerKeys("p", {"model": "m", "seed": 1})("e"),
        AnswerKeys("p", {"model": "m", "seed": 0})("f"),
        AnswerKeys("p", {"model": "m", "seed": 0})("e", b"image"),
    ]
    assert len({one, *others}) == 5


@pytest.fixture(params=["local", "uri"])
def folder(request, tmp_path) -> str:
    return str(tmp_path / "log") if request.param == "local" else f"file://{tmp_path}/log"


def test_what_is_written_is_read_once_per_key_and_ok_wins(folder) -> None:
    assert AnswerLog(folder).read().num_rows == 0
    write(folder, "a", status="failed")
    write(folder, "a", "b")
    write_rows(folder, rows("b", status="failed"))
    found = {row["key"]: row["status"] for row in AnswerLog(folder).read().to_pylist()}
    assert found == {"a": "ok", "b": "ok"}


def test_a_bad_answer_outlives_rows_that_were_never_reached(folder) -> None:
    for reason in ("status_500", "not_json: no JSON", "timeout: no response"):
        row = rows("a", status="failed")[0]
        write_rows(folder, [row | {"reason": reason}])
    assert AnswerLog(folder).read()["reason"].to_pylist() == ["not_json: no JSON"]


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_asked(tmp_path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match="answers cannot be kept there"):
        AnswerLog(str(tmp_path / "file" / "log")).check_writable()
    AnswerLog(str(tmp_path / "log")).check_writable()
    assert list((tmp_path / "log").iterdir()) == []


def test_what_is_flushed_can_be_read_while_the_writer_lives(folder) -> None:
    with AnswerLog(folder).writer() as journal:
        journal.append(rows("a")[0])
        journal.flush()
        assert AnswerLog(folder).read()["key"].to_pylist() == ["a"]


def test_a_local_answer_survives_its_process_without_any_flush(tmp_path) -> None:
    child = os.fork()
    if child == 0:
        AnswerLog(str(tmp_path)).writer().append(rows("a")[0])
        os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    assert AnswerLog(str(tmp_path)).read()["key"].to_pylist() == ["a"]


def test_a_damaged_file_costs_its_own_answers_only(tmp_path) -> None:
    write_rows(str(tmp_path), rows("a"))
    (part,) = tmp_path.iterdir()
    part.write_bytes(part.read_bytes()[:50])
    write(str(tmp_path), "b", "c", "d")
    (journal,) = tmp_path.glob("*.jsonl")
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(lines[0] + b'{"key": nonsense\n[1]\n{"status": "ok"}\n' + lines[1] + lines[2][:20])
    assert AnswerLog(str(tmp_path)).read()["key"].to_pylist() == ["b", "c"]


ROW = {
    "status": "ok",
    "reason": "",
    "raw": "{}",
    "tokens_in": 1,
    "tokens_out": 1,
    "calls": 1,
    "cost": 0.0,
    "seconds": 0.1,
}
POISON = [
    '"tokens_in": 10000000000000000000',
    '"tokens_in": 1' + "0" * 400,
    '"tokens_in": 1' + "0" * 5000,
    '"tokens_out": Infinity',
    '"tokens_out": "many"',
    '"cost": {}',
    '"calls": 99999999999',
    '"raw": 5',
    '"raw": "\\ud800"',
    '"reason": null',
    '"status": "perhaps"',
    '"key": null',
    '"key": ' + "[" * 100_000,
]


@pytest.mark.parametrize("poison", POISON, ids=lambda text: text[:30])
def test_no_line_makes_a_log_unreadable(poison, tmp_path) -> None:
    good = [json.dumps({"key": key, **ROW}) for key in "abc"]
    bad = json.dumps({"key": "bad", **ROW})[:-1] + f", {poison}}}"
    (tmp_path / "answers-1.jsonl").write_text("\n".join([good[0], bad, *good[1:]]) + "\n")
    notes: Counter[str] = Counter()
    assert AnswerLog(str(tmp_path)).read(notes=notes)["key"].to_pylist() == ["a", "b", "c"]
    assert notes == {"lines_unreadable": 1} and "1 lines are no answers" in damage(notes)


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.text(max_size=60).map(lambda text: json.dumps({"key": text, **ROW}).encode()),
        )
    )
)
def test_any_bytes_in_a_journal_leave_its_good_lines(lines) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "answers-1.jsonl").write_bytes(
            b"\n".join([json.dumps({"key": "good", **ROW}).encode(), *lines, b""])
        )
        Path(folder, "answers-2.parquet").write_bytes(b"".join(lines))
        assert "good" in AnswerLog(folder).read()["key"].to_pylist()


def test_numbers_that_cannot_be_count_as_0_and_their_answers_stay(tmp_path) -> None:
    odd = [{"tokens_in": -5}, {"cost": -6.0}, {"cost": 1e300}, {"tokens_out": 2**62}, {"seconds": -1.0}, {}]
    write_rows(str(tmp_path), [{"key": str(n), **ROW, **more} for n, more in enumerate(odd)])
    notes: Counter[str] = Counter()
    rows = AnswerLog(str(tmp_path)).read(notes=notes).to_pylist()
    assert len(rows) == 6 and notes == {"numbers_impossible": 5}
    totals = Totals()
    for row in rows:
        totals.add(row)
    assert totals.ok == 6 and totals.tokens_in == 5 and totals.tokens_out == 5 and totals.cost == 0


def test_parts_of_earlier_versions_are_read(tmp_path) -> None:
    columns = pa.schema([field for field in schema() if field.name != "estimated"])
    pq.write_table(
        pa.Table.from_pylist([{"key": "a", **ROW}], schema=columns), tmp_path / "answers-1.parquet"
    )
    (tmp_path / "answers-2.jsonl").write_text(json.dumps({"key": "b", **ROW}) + "\n")
    write(str(tmp_path), "c")
    assert sorted(AnswerLog(str(tmp_path)).read()["key"].to_pylist()) == ["a", "b", "c"]


def test_many_old_files_become_one_and_say_the_same(tmp_path) -> None:
    for number in range(70):
        write(str(tmp_path), f"k{number:02d}")
    log = AnswerLog(str(tmp_path))
    before = sorted(log.read(compact=True)["key"].to_pylist())
    assert len(list(tmp_path.iterdir())) == 70  # a living process may still write to any of them
    for path in tmp_path.iterdir():
        os.utime(path, (time.time() - 3600,) * 2)
    log.read(compact=True)
    assert len(list(tmp_path.iterdir())) == 1
    assert sorted(log.read()["key"].to_pylist()) == before == [f"k{n:02d}" for n in range(70)]


def test_text_that_no_encoding_takes_is_kept_with_replacement(folder) -> None:
    write(folder, "a", raw="half \ud800, \u2028 and \n a line")
    assert AnswerLog(folder).read()["raw"].to_pylist() == ["half ?, \u2028 and \n a line"]


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_row_that_kills_its_process_is_found_in_two_deaths(tmp_path, scheme) -> None:
    marks = Marks(f"{scheme}{tmp_path}/marks")
    assert marks.left() == (set(), set())
    done = marks.begin(["a", "b"])
    marks.begin(["b", "c"])  # this process dies
    marks.end(done)
    assert marks.left() == ({"b", "c"}, set())
    marks.begin(["c"], alone=True)  # and so does the next one
    assert marks.left() == ({"b"}, {"c"})
    marks.clear()
    assert marks.left() == (set(), set())
