"""Answers that were paid for are kept, found by what was asked, and never half there."""

from __future__ import annotations

import pytest

from dig_ray.mining.answer_log import AnswerLog, Marks, answer_key
from dig_ray.mining.engines.contract import Result


def rows(*keys: str, status: str = "ok", raw: str = "{}") -> list[dict]:
    return [Result(key, status=status, raw=raw, calls=1).row() for key in keys]


def test_a_key_is_all_that_decides_an_answer() -> None:
    one = answer_key("p", {"model": "m", "seed": 0}, "e")
    assert one == answer_key("p", {"seed": 0, "model": "m"}, "e") and len(one) == 32
    others = [
        answer_key("q", {"model": "m", "seed": 0}, "e"),
        answer_key("p", {"model": "m", "seed": 1}, "e"),
        answer_key("p", {"model": "m", "seed": 0}, "f"),
        answer_key("p", {"model": "m", "seed": 0}, "e", b"image"),
    ]
    assert len({one, *others}) == 5


@pytest.mark.parametrize("where", ["local", "memory"])
def test_what_is_written_is_read_once_per_key_and_ok_wins(where, tmp_path) -> None:
    folder = str(tmp_path / "log") if where == "local" else f"file://{tmp_path}/log"
    log = AnswerLog(folder)
    assert log.read().num_rows == 0
    log.write(rows("a", status="failed"))
    log.write(rows("a", "b"))
    log.write(rows("b", status="failed"))
    found = {row["key"]: row["status"] for row in log.read().to_pylist()}
    assert found == {"a": "ok", "b": "ok"}


def test_a_damaged_part_costs_its_own_answers_only(tmp_path) -> None:
    log = AnswerLog(str(tmp_path))
    log.write(rows("a"))
    (part,) = tmp_path.iterdir()
    log.write(rows("b"))
    part.write_bytes(part.read_bytes()[:50])
    assert log.read()["key"].to_pylist() == ["b"]


def test_many_parts_become_one_and_say_the_same(tmp_path) -> None:
    log = AnswerLog(str(tmp_path))
    for number in range(70):
        log.write(rows(f"k{number:02d}"))
    before = sorted(log.read(compact=True)["key"].to_pylist())
    assert len(list(tmp_path.iterdir())) == 1
    assert sorted(log.read()["key"].to_pylist()) == before == [f"k{n:02d}" for n in range(70)]


def test_text_that_no_encoding_takes_is_kept_with_replacement(tmp_path) -> None:
    log = AnswerLog(str(tmp_path))
    log.write(rows("a", raw="half \ud800"))
    assert log.read()["raw"].to_pylist() == ["half ?"]


def test_a_row_that_kills_its_process_is_found_in_two_deaths(tmp_path) -> None:
    marks = Marks(str(tmp_path / "marks"))
    assert marks.left() == (set(), set())
    done = marks.begin(["a", "b"])
    marks.begin(["b", "c"])  # this process dies
    marks.end(done)
    assert marks.left() == ({"b", "c"}, set())
    marks.begin(["c"])  # asked alone, and dies
    assert marks.left() == ({"b"}, {"c"})
