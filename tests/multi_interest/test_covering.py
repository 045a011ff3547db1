"""Which users are merged: neighbours, cliques, and the choice that covers most."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dig_ray.multi_interest import covering


def flat(sets: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in sets])]).astype(np.int64)
    return offsets, np.array([x for one in sets for x in one], np.int32)


SETS = st.lists(st.lists(st.integers(0, 11), unique=True, max_size=6), min_size=1, max_size=12)


def plain_greedy(sets: list[list[int]], budget: int) -> list[int]:
    covered: set[int] = set()
    chosen: list[int] = []
    while len(chosen) < budget:
        gains = [len(set(one) - covered) if n not in chosen else 0 for n, one in enumerate(sets)]
        best = int(np.argmax(gains))
        if not gains[best]:
            break
        chosen.append(best)
        covered |= set(sets[best])
    return chosen


@given(SETS, st.integers(1, 8))
@settings(deadline=None)
def test_lazy_greedy_is_plain_greedy(sets, budget):
    found = covering.cover(*flat(sets), 12, budget)
    assert found.chosen.tolist() == plain_greedy(sets, budget)
    assert found.covered == len(set().union(*(sets[n] for n in found.chosen.tolist()), set()))


@given(SETS, st.integers(1, 4))
@settings(deadline=None, max_examples=60)
def test_greedy_stays_above_its_bound(sets, budget):
    best = max(len(set().union(*chosen)) for chosen in itertools.combinations(sets, min(budget, len(sets))))
    assert covering.cover(*flat(sets), 12, budget).covered >= (1 - 1 / np.e) * best - 1e-9


def plain_likeness(histories: list[list[int]], n_items: int) -> np.ndarray:
    users = len(histories)
    having = np.zeros(n_items)
    for one in histories:
        having[list(set(one))] += 1
    rows = np.zeros((users, n_items))
    for user, one in enumerate(histories):
        items = list(set(one))
        rows[user, items] = np.log(max(users, 2) / having[items]) + 1e-3
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    likeness = rows @ rows.T
    np.fill_diagonal(likeness, 0)
    return likeness


@given(
    st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=5), min_size=2, max_size=12), st.integers(1, 4)
)
@settings(deadline=None, max_examples=60)
def test_neighbours_are_those_of_a_slow_reference(histories, count):
    found = covering.neighbours(*flat(histories), 9, count, users_per_item=100)
    for user, (row, likeness) in enumerate(zip(found, plain_likeness(histories, 9), strict=True)):
        kept = [other for other in row.tolist() if other >= 0]
        best = [value for value in sorted(likeness, reverse=True)[:count] if value > 0]
        assert user not in kept and len(set(kept)) == len(kept)
        assert likeness[kept].tolist() == pytest.approx(best, abs=1e-5)


def test_histories_stay_as_they_were():
    offsets, items = flat([[5, 1, 2], [3, 1]])
    covering.neighbours(offsets, items, 6, 1, 10)
    assert items.tolist() == [5, 1, 2, 3, 1]


def test_of_a_common_item_users_are_drawn_and_the_others_have_them_for_neighbours():
    histories = flat([[0, 1 + user // 2] for user in range(300)])  # two of a kind, and one item that all have
    found = covering.neighbours(*histories, 151, 20, users_per_item=10)
    drawn = set(found[:, 1:][found[:, 1:] >= 0].tolist())
    assert len(drawn) == 10 and min(drawn) < 150 < max(drawn)
    assert found[:, 0].tolist() == [user ^ 1 for user in range(300)]  # a rare item's users are all looked at
    assert (found == covering.neighbours(*histories, 151, 20, users_per_item=10)).all()


def test_cliques_hold_the_user_and_its_neighbours():
    offsets, users = covering.cliques(np.array([[2, -1], [0, 2], [-1, -1]]))
    assert [users[a:b].tolist() for a, b in itertools.pairwise(offsets)] == [[0, 2], [1, 0, 2], [2]]


def test_a_synthesized_user_has_what_most_members_have():
    offsets, items = flat([[5, 1, 2], [1, 3, 1], [2, 1]])
    assert covering.merge_users(np.array([0, 1, 2]), offsets, items, 3).tolist() == [1, 2, 5]


def test_covering_beats_chance_where_cliques_overlap():
    rng = np.random.default_rng(0)
    histories = [(rng.integers(20) * 10 + rng.integers(10, size=6)).tolist() for _ in range(600)]
    bounds, members = covering.cliques(covering.neighbours(*flat(histories), 200, 10, 200))
    best = covering.cover(bounds, members, 600, 40)
    assert best.covered > 1.1 * covering.choose_randomly(bounds, members, 600, 40, 0).covered
    assert best.gains.tolist() == sorted(best.gains.tolist(), reverse=True)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_random_choice_repeats_itself(seed):
    bounds, members = flat([[0, 1], [2], [1, 2], [3]])
    first, second = (covering.choose_randomly(bounds, members, 4, 3, seed) for _ in range(2))
    assert first.chosen.tolist() == second.chosen.tolist()
    assert first.covered == len(
        {x for n in first.chosen.tolist() for x in members[bounds[n] : bounds[n + 1]].tolist()}
    )
