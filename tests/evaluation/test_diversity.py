"""Variety of lists by categories, against the definition written out."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dig_ray.evaluation.diversity import categories_of, interest_coverage, list_diversity
from dig_ray.evaluation.metrics import by_category, evaluate

NAMES = ["Tools > Saws", "Tools > Drills", "Garden", "Kitchen"]


def with_categories(categories):
    return SimpleNamespace(items=pa.table({"categories": pa.array(categories, pa.list_(pa.string()))}))


def slow_diversity(recs, categories):
    lists = []
    for row in recs:
        known = [set(categories[item]) for item in row if item >= 0 and categories[item]]
        pairs = [not a & b for a, b in itertools.combinations(known, 2)]
        if pairs:
            lists.append(np.mean(pairs))
    return float(np.mean(lists)) if lists else None


def slow_coverage(recs, histories, categories):
    shares = []
    for row, history in zip(recs, histories, strict=True):
        had = {name for item in history for name in categories[item]}
        got = {name for item in row if item >= 0 for name in categories[item]}
        if had:
            shares.append(len(had & got) / len(had))
    return float(np.mean(shares)) if shares else None


@given(st.data())
def test_both_follow_their_definition(data):
    items = data.draw(st.integers(2, 8))
    categories = data.draw(
        st.lists(st.lists(st.sampled_from(NAMES), max_size=3), min_size=items, max_size=items)
    )
    cases = data.draw(st.integers(1, 5))
    item = st.integers(0, items - 1)
    histories = data.draw(st.lists(st.lists(item, max_size=6), min_size=cases, max_size=cases))
    k = data.draw(st.integers(1, 5))
    lists = data.draw(st.lists(st.lists(item, max_size=k, unique=True), min_size=cases, max_size=cases))
    recs = np.full((cases, k), -1)
    for row, found in zip(recs, lists, strict=True):
        row[: len(found)] = found
    found = categories_of(with_categories(categories))
    if not any(categories):
        assert found is None
        return
    ends = np.cumsum([len(history) for history in histories])
    where = SimpleNamespace(start=ends - [len(history) for history in histories], end=ends)
    events = np.array([one for history in histories for one in history], np.int32)
    assert list_diversity(recs, found) == pytest.approx(slow_diversity(recs, categories))
    assert interest_coverage(recs, events, where, found) == pytest.approx(
        slow_coverage(recs, histories, categories)
    )


def test_a_catalogue_without_categories_has_neither(make_dataset):
    dataset = make_dataset([[0, 1, 2, 3], [3, 2, 1, 0]], 5)
    recs = np.array([[3, 4], [0, 1]])
    assert by_category(dataset, dataset.cases("test"), recs) == {
        "diversity@10": None,
        "interest_coverage@10": None,
    }
    assert evaluate(dataset, dataset.cases("test"), recs, ks=(1, 2), n_bootstrap=0)["diversity@10"] is None
