"""Ranking metrics against hand-worked values and against slow, obvious code."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dig_ray.errors import UserError
from dig_ray.numerics import ranking


def test_ranks_and_metrics_by_hand():
    recs = np.array([[3, 1, 2], [0, 4, -1], [5, 6, 7], [-1, -1, -1]], dtype=np.int32)
    ranks = ranking.rank_of_target(recs, np.array([3, 4, 0, 1]))
    assert ranks.tolist() == [0, 1, -1, -1]
    assert ranking.hit_rate(ranks, 1).tolist() == [1, 0, 0, 0]
    np.testing.assert_allclose(ranking.ndcg(ranks, 2), [1, 1 / np.log2(3), 0, 0])
    np.testing.assert_allclose(ranking.mrr(ranks, 2), [1, 0.5, 0, 0])
    assert ranking.mean_metrics(ranks, (1, 2))["HR@2"] == 0.5


def test_no_cases_and_empty_lists_score_zero():
    assert ranking.mean_metrics(np.zeros(0, np.int64), (10,))["NDCG@10"] == 0.0
    assert ranking.rank_of_target(np.zeros((2, 0), np.int32), np.array([0, 1])).tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("recs", "word"),
    [
        ([[0, 1], [1, 1]], "twice"),
        ([[0, 9], [1, 2]], "outside the catalogue"),
        ([[0, -2], [1, 2]], "outside the catalogue"),
        ([[0, 1]], "1 rows but there are 2 cases"),
        ([[-1, 1], [1, 2]], "padding"),
        ([[0.5, 1], [1, 2]], "integer"),
    ],
)
def test_dishonest_lists_are_refused(recs, word):
    with pytest.raises(UserError, match=word):
        ranking.check_recs(np.array(recs), n_cases=2, n_items=9)
    ranking.check_recs(np.array([[0, -1], [-1, -1]]), n_cases=2, n_items=9)


@settings(deadline=None, max_examples=80)
@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 12)),
        elements=st.sampled_from([-np.inf, -1.5, -0.0, 0.0, 1e-30, 2.0, 2.0000002, 3e30]),
    ),
    st.integers(1, 15),
)
def test_top_k_equals_a_stable_sort(scores, k):
    items, values = ranking.top_k(scores, k)
    for row, got, value in zip(scores, items, values, strict=True):
        want = [i for i in sorted(range(len(row)), key=lambda i: (-row[i], i)) if row[i] != -np.inf][:k]
        assert got[: len(want)].tolist() == want
        assert (got[len(want) :] == -1).all()
        assert value[: len(want)].tolist() == [row[i] for i in want]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(-1, 25), min_size=1, max_size=30), st.integers(1, 20))
def test_metrics_are_ordered(ranks, k):
    r = np.array(ranks)
    hit, gain, reciprocal = (f(r, k) for f in ranking.METRICS.values())
    assert ((hit >= gain) & (gain >= reciprocal) & (reciprocal >= 0)).all()
    assert (ranking.hit_rate(r, k + 1) >= hit).all()


def test_a_target_whose_score_is_no_number_is_behind_all_others():
    torch = pytest.importorskip("torch")
    from dig_ray.numerics.exact_ranks import ranks_among_all

    scores = torch.tensor([[0.1, 0.3, 0.3, 0.2], [float("nan")] * 4, [float("nan"), 1.0, 2.0, 0.5]])
    ranks = ranks_among_all(lambda low, high: scores[low:high], np.array([2, 1, 1]), 2)
    assert ranks.tolist() == [1, 4, 2]


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 12), st.integers(1, 15), st.integers(1, 4), st.integers(0, 2**31 - 1))
def test_ranks_among_all_are_places_in_the_sorted_list(cases, items, values, seed):
    torch = pytest.importorskip("torch")
    from dig_ray.numerics.exact_ranks import ranks_among_all

    rng = np.random.default_rng(seed)
    scores = rng.integers(values, size=(cases, items)).astype(np.float32)  # few values: many ties
    targets = rng.integers(items, size=cases)
    order = np.lexsort((np.broadcast_to(np.arange(items), scores.shape), -scores))
    want = [int(np.flatnonzero(row == target)[0]) for row, target in zip(order, targets, strict=True)]
    found = ranks_among_all(lambda low, high: torch.from_numpy(scores[low:high]), targets, 5)
    assert found.tolist() == want
    places = ranking.tie_places(map(str, range(items)), seed)
    by_hash = ranks_among_all(lambda low, high: torch.from_numpy(scores[low:high]), targets, 5, places)
    listed, _ = ranking.top_k(scores, items, places)
    assert by_hash.tolist() == ranking.rank_of_target(listed, targets).tolist()


def test_places_of_equals_come_from_seed_and_id_alone():
    names = [f"item {n}" for n in range(500)]
    places = ranking.tie_places(names, 7)
    assert sorted(places) == list(range(500))
    backwards = ranking.tie_places(names[::-1], 7)[::-1]
    assert places.tolist() == backwards.tolist()
    without = ranking.tie_places(names[1:], 7)
    assert (np.argsort(without) == [p - 1 for p in np.argsort(places) if p]).all()
    assert ranking.tie_places(names, 8).tolist() != places.tolist()
    assert abs(np.corrcoef(places, np.arange(500))[0, 1]) < 0.15
