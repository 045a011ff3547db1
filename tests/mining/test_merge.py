"""Merging several miners' interests."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dig_ray.mining.answers import fold
from dig_ray.mining.merge import merge


def test_confidence_is_the_mean_over_all_miners_and_support_counts_them() -> None:
    merged = merge([[("trail running", 0.9), ("gift", 0.2)], [("Trail  Running", 0.6)], []])
    assert [(i.text, i.support, i.miners) for i in merged] == [
        ("trail running", 2, (0, 1)),
        ("gift", 1, (0,)),
    ]
    assert merged[0].confidence == pytest.approx(0.5) and merged[1].confidence == pytest.approx(0.2 / 3)


def test_near_texts_join_the_most_confident_one_and_chains_do_not_grow() -> None:
    angle = {"a": 0.0, "b": 0.4, "c": 0.8}  # b is near a and near c, a and c are not near

    def vectors(texts: list[str]) -> np.ndarray:
        return np.array([[np.cos(angle[t]), np.sin(angle[t])] for t in texts])

    answers = [[("a", 0.9), ("b", 0.5), ("c", 0.4)]]
    assert [i.text for i in merge(answers, 0.9, vectors)] == ["a", "c"]
    assert [i.text for i in merge(answers, 1.1, vectors)] == ["a", "b", "c"]


def test_a_miner_that_says_it_twice_in_other_words_counts_once() -> None:
    same = lambda texts: np.ones((len(texts), 1))  # noqa: E731
    (only,) = merge([[("x", 0.8), ("y", 0.6)], [("z", 0.4)]], 0.9, same)
    assert only.text == "x" and only.support == 2 and only.confidence == pytest.approx(0.6)


_answers = st.lists(
    st.lists(st.tuples(st.text("abc", min_size=1, max_size=2), st.floats(0, 1)), max_size=4),
    min_size=1,
    max_size=4,
)


@given(_answers)
def test_every_text_is_there_once_and_bounds_hold(answers: list[list[tuple[str, float]]]) -> None:
    merged = merge(answers)
    assert {fold(i.text) for i in merged} == {fold(t) for a in answers for t, _ in a}
    assert len({fold(i.text) for i in merged}) == len(merged)
    for i in merged:
        assert 0 <= i.confidence <= 1 and 1 <= i.support == len(i.miners) <= len(answers)
    if len(answers) == 1:  # a single miner's order is its own
        assert [fold(i.text) for i in merged] == list(dict.fromkeys(fold(t) for t, _ in answers[0]))
    else:
        assert [i.confidence for i in merged] == sorted((i.confidence for i in merged), reverse=True)


def test_nothing_mined_is_nothing() -> None:
    assert merge([[], []]) == []
