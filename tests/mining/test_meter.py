"""Lines while rows are asked: each says something new, and it is true."""

from __future__ import annotations

import time
from collections import Counter
from types import SimpleNamespace

import pytest

from dig_ray.mining import watch
from dig_ray.mining.engines.meter import MiningBoard, Totals, progress_line
from dig_ray.mining.miner import Asked


def test_a_line_says_what_there_is() -> None:
    totals = Totals(ok=90, failed=10, calls=120, tokens_in=900, tokens_out=100, cost=0.5)
    line = progress_line("gpt", 1000, totals, 10.0)
    assert line == "gpt: 100/1,000 rows, 10 rows/s, 100 tokens/s, 10% failed, $0.50, about 90 s left"
    totals.tried_again.update({"status_429": 1200, "timeout": 3})
    assert progress_line("gpt", 1000, totals, 10.0).endswith("tried again: status_429 1,200, timeout 3")
    quiet = progress_line("gpt", 1000, totals, 40.0, 30.0)
    assert "no new answer for 30 s" in quiet and "left" not in quiet


def test_nothing_yet_is_said_with_its_time_and_its_trouble() -> None:
    trouble = Totals(tried_again=Counter(status_503=7))
    assert progress_line("judge", 500, Totals(), 20.2) == "judge: no answer to 500 rows yet after 20 s"
    assert progress_line("judge", 500, trouble, 31.0).endswith("after 31 s, tried again: status_503 7")


@pytest.mark.usefixtures("ray_here")
def test_a_slow_miner_never_says_the_same_twice(monkeypatch) -> None:
    import ray

    monkeypatch.setattr(watch, "SECONDS_BETWEEN_LINES", 1.05)
    board = ray.remote(num_cpus=0)(MiningBoard).remote()

    @ray.remote(num_cpus=0)
    def slow(board):
        time.sleep(2.5)
        ray.get(board.add.remote("judge", Totals(ok=3)))
        ray.get([board.say.remote("judge: learnt"), board.say.remote("judge: learnt")])
        time.sleep(3.2)
        return ""

    asked = Asked(SimpleNamespace(name="judge"), "judgement", ("p", 1, "h"), [])
    lines: list[str] = []
    assert watch.watch({slow.remote(board): (asked, 10, Totals())}, board, lines.append) == []
    assert len(lines) >= 5 and len(set(lines)) == len(lines) and lines.count("judge: learnt") == 1
    assert any("no answer to 10 rows yet" in line for line in lines)
    assert any("3/10 rows" in line and "no new answer for" in line for line in lines)
    assert asked.asked_now.ok == 3
