"""The quality report says what a person would count by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dig_ray.semantic_ids.quality import (
    code_usage,
    draw_quality,
    gini,
    neighbour_recall,
    quality_report,
    report_lines,
)
from dig_ray.semantic_ids.sid_catalog import SidCatalog


def test_usage_of_even_and_single_codes():
    even = code_usage(np.arange(8).repeat(3), 8)
    assert even["used"] == 8
    assert even["entropy_bits"] == pytest.approx(3.0)
    assert even["perplexity"] == pytest.approx(8.0)
    assert even["gini"] == pytest.approx(0.0)
    single = code_usage(np.zeros(10, dtype=int), 4)
    assert (single["used"], single["entropy_bits"], single["perplexity"]) == (1, 0.0, 1.0)
    assert single["gini"] == pytest.approx(0.75)


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=20))
def test_gini_is_the_mean_difference(counts):
    c = np.asarray(counts, dtype=float)
    wanted = 0.0 if c.sum() == 0 else np.abs(c[:, None] - c[None]).sum() / (2 * len(c) * c.sum())
    assert gini(c) == pytest.approx(wanted, abs=1e-12)


def test_collisions_are_counted_before_and_after_the_suffix():
    codes = np.asarray([[0, 0], [0, 0], [0, 0], [0, 1], [1, 1], [1, 1]])
    report = quality_report(SidCatalog.from_codes(list("abcdef"), codes, (2, 2)))
    collisions = report["collisions"]
    assert collisions["items_sharing_full_code"] == 5
    assert collisions["collision_rate"] == pytest.approx(5 / 6)
    assert (collisions["shared_buckets"], collisions["largest_bucket"]) == (2, 3)
    assert (collisions["suffix_tokens"], collisions["items_sharing_after_suffix"]) == (3, 0)
    assert [row["distinct"] for row in report["prefixes"]] == [2, 3]
    assert report["prefixes"][0]["random_share"] == pytest.approx((4 * 3 + 2 * 1) / 30)


def test_neighbour_recall_against_brute_force():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((80, 6)).astype(np.float32)
    catalog = SidCatalog.from_codes([str(i) for i in range(80)], rng.integers(0, 4, (80, 2)), (4, 4))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    wanted = np.zeros(2)
    for item in range(80):
        near = [j for j in np.argsort(-(unit @ unit[item])) if j != item][:5]
        for length in (1, 2):
            same = [np.array_equal(catalog.codes[item, :length], catalog.codes[j, :length]) for j in near]
            wanted[length - 1] += np.mean(same) / 80
    assert neighbour_recall(catalog, vectors, 5, 1000, 0) == pytest.approx(wanted.tolist())


def test_report_is_drawn_and_told(tmp_path):
    rng = np.random.default_rng(0)
    catalog = SidCatalog.from_codes([str(i) for i in range(60)], rng.integers(0, 4, (60, 3)), (4, 4, 4))
    report = quality_report(catalog, rng.standard_normal((60, 8)).astype(np.float32), [0.5, 0.4, 0.3])
    draw_quality(report, tmp_path / "q.png")
    assert (tmp_path / "q.png").read_bytes()[:4] == b"\x89PNG"
    assert len(report_lines(report)) == 4


def test_one_item_and_no_vectors(tmp_path):
    report = quality_report(SidCatalog.from_codes(["only"], np.asarray([[0, 0]]), (2, 2)))
    assert report["collisions"]["collision_rate"] == 0
    draw_quality(report, tmp_path / "q.png")
