"""Lists out of several interests, exact and by a graph."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dig_ray.base import Stage
from dig_ray.errors import UserError
from dig_ray.multi_interest.config import MultiInterestConfig
from dig_ray.multi_interest.retrieval import FaissIndex, merge, top_items, users_at_once
from dig_ray.multi_interest.stage import train_model


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 4), st.integers(1, 12))
@settings(deadline=None, max_examples=50)
def test_the_best_of_all_interests(seed, rows, interests, k):
    rng = np.random.default_rng(seed)
    queries = rng.integers(-2, 3, (rows, interests, 3)).astype(np.float32)
    keys = rng.integers(-2, 3, (9, 3)).astype(np.float32)
    without = np.stack([rng.integers(rows, size=6), rng.integers(9, size=6)], axis=1)
    hidden = {(int(a), int(b)) for a, b in without}
    items, scores = top_items(queries, keys, k, without)
    for row in range(rows):
        best = {
            item: max(float(queries[row, n] @ keys[item]) for n in range(interests))
            for item in range(9)
            if (row, item) not in hidden
        }
        wanted = sorted(best, key=lambda item: (-best[item], item))[:k]
        assert [i for i in items[row].tolist() if i >= 0] == wanted
        assert scores[row, : len(wanted)].tolist() == [best[i] for i in wanted]
    # each interest's own list, merged, is the same
    own = (queries.reshape(-1, 3) @ keys.T).reshape(rows, interests, 9)
    lists = np.tile(np.arange(9), (rows, interests))
    merged, best_scores = merge(lists, own.reshape(rows, -1), k, without)
    assert merged.tolist() == items.tolist()
    assert best_scores.tolist() == scores.tolist()


def test_fewer_users_are_scored_together_where_the_catalogue_is_large():
    assert users_at_once(4, 12_101) == 1024
    assert 4 * users_at_once(4, 1_000_000) * 1_000_000 * 4 <= 1 << 29
    assert users_at_once(8, 1 << 30) == 1


def test_without_faiss_nobody_trains_for_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "faiss", None)
    stage = Stage("multi_interest", "x", 0, tmp_path, str(tmp_path / "work"), log=print)
    with pytest.raises(UserError, match="needs the package faiss-cpu"):
        train_model(MultiInterestConfig(search="faiss"), stage, tmp_path / "nothing is read yet")


def test_a_graph_finds_nearly_what_an_exact_search_does():
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    keys = rng.standard_normal((3000, 16)).astype(np.float32)
    queries = rng.standard_normal((40, 4, 16)).astype(np.float32)
    without = np.stack([np.repeat(np.arange(40), 5), rng.integers(3000, size=200)], axis=1)
    exact, _ = top_items(queries, keys, 20, without)
    found, _ = FaissIndex(keys).top_items(queries, 20, without)
    same = np.mean([len(set(a) & set(b)) / 20 for a, b in zip(exact.tolist(), found.tolist(), strict=True)])
    assert same > 0.95
    hidden = {(int(a), int(b)) for a, b in without}
    assert not any((row, item) in hidden for row, one in enumerate(found.tolist()) for item in one)
