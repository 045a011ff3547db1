"""A comparison's figures with repeats and without them, recomputed by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from dig_ray.evaluation.recommendations import write_recommendations
from dig_ray.experiments.comparison_figures import compare_variants
from dig_ray.report.comparison_tables import page_tables
from dig_ray.report.page import render_page


def compared(world: ModuleType, root: Path, data: Any, hits: dict[str, np.ndarray]) -> dict[str, Any]:
    """Variants whose policy puts the target first where ``hits``, and nothing else into its lists."""
    cases = data.cases("test")
    artifacts = {}
    for variant, hit in hits.items():
        paths = world.write_run(root / variant, data, names=("policy",), n_bootstrap=0)
        for rule, found in (("seen", hit), ("unseen", hit & ~repeats(data))):
            recs = np.full((len(cases), 20), -1)
            recs[found, 0] = cases.target[found]
            write_recommendations(
                paths["recommend"] / f"recommendations_policy_{rule}.parquet", data, cases, recs
            )
        artifacts[variant, 0] = paths
    return compare_variants("c", dict.fromkeys(hits, ((), "policy")), artifacts, (1, 5, 10, 20), 50)


def repeats(data: Any) -> np.ndarray:
    cases = data.cases("test")
    return np.array(
        [
            data.events[end] in data.events[start:end]
            for start, end in zip(cases.start, cases.end, strict=True)
        ]
    )


@pytest.fixture(scope="module")
def report(world: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], np.ndarray]:
    data = world.dataset(30, 200)
    repeat = repeats(data)
    every_third = np.arange(len(repeat)) % 3 == 0
    hits = {"base": repeat | every_third, "new only": ~repeat | every_third}
    return compared(world, tmp_path_factory.mktemp("comparison"), data, hits), repeat


def test_cases_with_new_targets_and_repeats_stand_apart(report) -> None:
    found, repeat = report
    base, other = found["variants"]
    assert found["repeats"]["n"] == repeat.sum() and found["repeats"]["share"] == pytest.approx(repeat.mean())
    third = np.arange(len(repeat)) % 3 == 0
    parts = base["by_target"]["seen"]
    assert parts["repeat"]["HR@1"]["mean"] == 1
    assert parts["new to the user"]["HR@1"]["mean"] == pytest.approx(third[~repeat].mean())
    assert parts["new to the user"]["HR@1"]["low"] <= third[~repeat].mean()
    assert base["results"]["seen"]["HR@1"]["mean"] == pytest.approx((repeat | third).mean())
    new = other["minus_first_new"]["seen"]["HR@1"]
    assert new["difference"] == pytest.approx(1 - third[~repeat].mean()) and new["low"] > 0
    assert other["minus_first"]["seen"]["HR@1"]["difference"] < new["difference"]
    # a repeat cannot stand in a list without seen items: a miss, counted
    assert base["by_target"]["unseen"]["repeat"]["HR@1"]["mean"] == 0
    assert other["results"]["unseen"]["HR@1"]["mean"] == pytest.approx((~repeat).mean())


def test_the_page_shows_them_for_the_rule_that_allows_seen_items(report) -> None:
    found, _ = report
    tables = page_tables(found)
    unseen, seen = tables["rules"]
    assert [table.caption for table in seen["by_target"]] == [
        "Where the target is new to the user",
        "Difference from base, where the target is new to the user",
        "Where the target is in the history already",
    ]
    assert (seen["rule"], unseen["rule"], unseen["by_target"]) == ("seen", "unseen", [])
    page = render_page("comparison.html", comparison=found | {"items": []}, tables=tables, thumbnails={})
    assert "each counts as a miss" in page and page.count("are in the user’s history already") == 2


def test_without_repeats_nothing_is_said_of_them(world: ModuleType, tmp_path: Path) -> None:
    data = world.dataset(900, 60)
    data = dataclasses.replace(data, events=np.arange(data.n_events, dtype=np.int32), split_hash="")
    assert not repeats(data).any()
    found = compared(world, tmp_path, data, {"one": np.ones(60, bool), "two": np.zeros(60, bool)})
    assert found["repeats"] is None and "by_target" not in found["variants"][0]
    page = render_page(
        "comparison.html", comparison=found | {"items": []}, tables=page_tables(found), thumbnails={}
    )
    assert "history already" not in page and "new to the user" not in page


def test_variety_stands_beside_accuracy(report) -> None:
    found, _ = report
    assert set(found["variants"][0]["beyond"]["seen"]) >= {"coverage@10", "diversity@10"}
    tables = page_tables(found)
    columns = tables["rules"][0]["beyond"].columns
    page = render_page("comparison.html", comparison=found | {"items": []}, tables=tables, thumbnails={})
    assert [bar["label"] for bar in tables["rules"][0]["bars"]] == ["base", "new only"]
    assert "Coverage" in columns and "Beyond accuracy, at 10, mean over the seeds" in page
