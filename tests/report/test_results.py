"""Tables, charts, tree and choice of examples, without a page around them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dig_ray.report import charts, figure_text, results
from dig_ray.report.example_users import pick, picture
from dig_ray.report.gather import gather
from dig_ray.report.sid_tree import prefix_words, tree
from dig_ray.semantic_ids.sid_catalog import SidCatalog


def test_figures_are_written_alike() -> None:
    assert [figure_text.metric(v) for v in (0.0648, 1.0, 0.0, None)] == [".0648", "1.0000", ".0000", "–"]
    assert figure_text.metric(-0.00123, signed=True) == "−.0012"
    assert figure_text.metric(0.5, signed=True) == "+.5000"
    assert figure_text.metric(-0.00001, signed=True) == ".0000"
    assert figure_text.interval(0.1, 0.2) == ".1000–.2000" and figure_text.interval(None, None) == ""


@pytest.fixture(scope="module")
def metrics(finished: dict[str, Path]) -> dict[str, Any]:
    data = gather("n", 0, {}, finished)
    assert data.metrics is not None
    return dict(data.metrics)


def test_every_figure_of_the_evaluation_stands_in_the_table(metrics: dict[str, Any]) -> None:
    found = results.by_rule(metrics, "seen")
    assert list(found) == ["policy", "popularity", "repeat_last", "item_knn", "sasrec"]
    table = results.accuracy_table(found)
    assert table.columns == ["@1", "@5", "@10", "@20"]
    for (_, rows), short in zip(table.groups, ("HR", "NDCG", "MRR"), strict=True):
        for row, (name, result) in zip(rows, found.items(), strict=True):
            assert row.policy == (name == "policy")
            for cell, k in zip(row.cells, (1, 5, 10, 20), strict=True):
                entry = result["metrics"][f"{short}@{k}"]
                assert float(cell.text) == pytest.approx(entry["mean"], abs=5e-5)
                assert cell.interval == figure_text.interval(entry["low"], entry["high"])


def test_what_chance_decided_is_told() -> None:
    ties = {"popularity": {"unseen": 0.25}, "item_knn": {"unseen": 0.0001}, "sasrec": {"unseen": 0.0}}
    told: dict[str, Any] = {name: {"ties": share} for name, share in ties.items()}
    manifests = {"baselines": {"stats": told | {"rows": 3}}}
    assert "popularity 25.0%" in results.chance(manifests, "unseen").lower()
    assert "knn" not in results.chance(manifests, "unseen").lower()
    assert results.chance(manifests, "seen") == results.chance({}, "seen") == ""


def test_the_best_of_each_column_is_marked(metrics: dict[str, Any]) -> None:
    table = results.accuracy_table(results.by_rule(metrics, "unseen"))
    for _, rows in table.groups:
        for column in range(4):
            top = max(float(row.cells[column].text) for row in rows)
            for row in rows:
                assert (row.cells[column].mark == "best") == (float(row.cells[column].text) == top > 0)
    assert results.best_of([0.0, 0.0]) == [False, False]
    assert results.best_of([0.3]) == [False]
    assert results.best_of([None, 0.2, 0.20001]) == [False, True, True]


def test_a_difference_is_only_called_one_when_its_interval_leaves_zero_out() -> None:
    assert results.direction({"low": 0.001, "high": 0.2}) == "up"
    assert results.direction({"low": -0.2, "high": -0.001}) == "down"
    assert results.direction({"low": -0.1, "high": 0.1}) == "flat"
    assert results.direction({"low": None, "high": None}) == "flat"


def test_the_verdict_names_the_strongest_baseline(metrics: dict[str, Any]) -> None:
    text = results.verdict(metrics, "seen")
    found = results.by_rule(metrics, "seen")
    best = max((n for n in found if n != "policy"), key=lambda n: found[n]["metrics"]["NDCG@10"]["mean"])
    assert results.label(best) in text and "NDCG@10" in text and "paired 95% interval" in text
    alone = {"results": {"policy": metrics["results"]["policy"]}, "policy_minus": {}}
    assert "baseline" not in results.verdict(alone, "seen")
    assert results.verdict({"results": {"sasrec": metrics["results"]["sasrec"]}}, "seen") == ""


def test_repeats_are_a_slice_with_differences_of_their_own(metrics: dict[str, Any]) -> None:
    found = results.by_rule(metrics, "seen")
    some = results.repeats(found)
    assert some is not None and 0 < some["n"] < metrics["test_users"]
    table = results.slice_tables(found)[-1]
    assert table.caption.endswith("by whether the target is in the history")
    assert [row.label for row in table.groups[0][1]] == ["new to the user", "repeat"]
    new = metrics["policy_minus_new"]["item_knn"]["seen"]["HR@10"]
    own = found["policy"]["slices"]["target"][0]["metrics"]["HR@10"]["mean"]
    assert new["b"] == pytest.approx(own) and new["difference"] == pytest.approx(new["b"] - new["a"])


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_inside_and_few(low: float, span: float) -> None:
    found = charts.ticks(low, low + span)
    assert len(found) <= 8
    slack = 1e-6 * max(abs(low), span)
    assert all(low - slack <= tick <= low + span + slack for tick in found)


def test_curves_with_gaps() -> None:
    assert charts.training([]) is None
    assert charts.training([{"train_runtime": 3.0, "epoch": 1.0}]) is None
    log: list[dict[str, Any]] = [
        {"loss": math.nan, "epoch": 0.5},
        {"loss": 2.0, "epoch": 1.0},
        {"eval_ndcg@10": 0.2, "epoch": 1.0},
        {"eval_ndcg@10": 0.2, "eval_hr@10": 0.3, "epoch": 2.0},
    ]
    found = charts.training(log)
    assert found is not None and found["best"] == 1.0  # the first of equals, as the trainer keeps it
    assert [row["best"] for row in found["rows"]] == [True, False]
    assert found["rows"][0]["loss"] == 2.0 and found["rows"][0]["hr"] is None
    for drawn in found["charts"]:
        for line in drawn["lines"]:
            for point in line["path"].split():
                x, y = map(float, point.split(","))
                assert 0 <= x <= charts.WIDTH and 0 <= y <= charts.HEIGHT


def test_a_change_within_chance_is_drawn_as_small_as_it_is() -> None:
    log = [{"step": 16 * n, "eval_ndcg@10": 0.137 + 0.0013 * (n == 2), "eval_hr@10": 0.27} for n in range(5)]
    found = charts.reinforcement(log)
    assert found is not None and found["best"] == 32 and found["helped"]
    drawn = found["charts"][0]
    heights = [y for _, y in drawn["lines"][1]["dots"]]
    assert 0 < max(heights) - min(heights) < charts.HEIGHT / 10
    assert all(label.startswith(".1") and len(label) <= 5 for _, label in drawn["y"])


def test_the_tree_holds_every_item_in_order() -> None:
    codes = np.array([[1, 0], [0, 1], [1, 0], [0, 0]], np.int32)
    sids = SidCatalog.from_codes(["p", "q", "r", "s"], codes, (2, 2))
    found = tree(sids, ["P", "Q", "R", "S"], np.array([4, 3, 2, 1]))
    assert found["items"] == [[0, 0, -1, "S", 1], [0, 1, -1, "Q", 3], [1, 0, 0, "P", 4], [1, 0, 1, "R", 2]]
    fewer = tree(sids, ["P", "Q", "R", "S"], np.array([4, 3, 2, 1]), most=2)
    assert [item[3] for item in fewer["items"]] == ["Q", "P"] and fewer["total"] == 4


def test_words_say_what_is_special_about_a_prefix() -> None:
    codes = np.array([[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]], np.int32)
    titles = ["Blue shampoo", "Red Shampoo", "A shampoo bar", "Blue comb", "Red comb", "Comb bar"]
    words = prefix_words(codes, titles)
    assert words == {"0": "shampoo", "1": "comb"}


def test_examples_are_half_hits_and_the_same_every_time() -> None:
    ranks = np.array([-1, 3, 12, 0] * 100)
    chosen = pick(ranks)
    assert chosen == pick(ranks) == sorted(set(chosen)) and len(chosen) == 10
    assert sum(0 <= ranks[i] < 10 for i in chosen) == 5
    assert len(pick(np.array([0, 1, -1]))) == 3
    assert pick(np.array([-1] * 30 + [2])).count(30) == 1
    assert len(pick(np.zeros(50, np.int64))) == 10
    assert pick(np.array([], np.int64)) == []


def test_only_small_raster_pictures_are_shown() -> None:
    assert (picture(b"\x89PNG\r\n\x1a\nrest") or "").startswith("data:image/png;base64,")
    for raw in (b"<svg onload='alert(1)'>", b"", None, b"\x89PNG\r\n\x1a\n" + b"0" * 10_000):
        assert picture(raw) is None
