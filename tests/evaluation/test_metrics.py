"""What a results table says, checked by hand on small worlds and once at Beauty's size."""

import json
import time

import numpy as np
import pytest

from dig_ray.errors import UserError
from dig_ray.evaluation.case_histories import histories
from dig_ray.evaluation.comparison import compare
from dig_ray.evaluation.intervals import bootstrap_means
from dig_ray.evaluation.metrics import beyond_accuracy, evaluate
from dig_ray.evaluation.recommendations import read_recommendations, write_recommendations


@pytest.fixture
def world(make_dataset):
    # targets (test): 3, 0, 4; the second repeats an item of its history; item 4 never occurs in training
    return make_dataset([[0, 1, 2, 3], [0, 1, 1, 0], [3, 0, 0, 4]], 6)


def test_figures_by_hand(world):
    recs = np.array([[3, 0], [1, 0], [2, 5]])
    out = evaluate(world, world.cases("test"), recs, ks=(1, 2), n_bootstrap=50)
    assert out["n_cases"] == 3
    assert out["metrics"]["HR@1"]["mean"] == pytest.approx(1 / 3)
    assert out["metrics"]["NDCG@2"]["mean"] == pytest.approx((1 + 1 / np.log2(3)) / 3)
    assert out["metrics"]["MRR@2"]["mean"] == pytest.approx(0.5)
    assert out["coverage@10"] == pytest.approx(5 / 6)
    by_popularity = {row["slice"]: row for row in out["slices"]["popularity"]}
    assert by_popularity["cold (0)"]["n"] == 1 and by_popularity["cold (0)"]["metrics"]["HR@2"]["mean"] == 0
    assert sum(row["n"] for rows in out["slices"].values() for row in rows) == 3 * 3
    new, repeat = out["slices"]["target"]
    assert (new["slice"], new["n"], repeat["slice"], repeat["n"]) == ("new to the user", 2, "repeat", 1)
    assert repeat["metrics"]["HR@1"]["mean"] == 0 and new["metrics"]["HR@1"]["mean"] == pytest.approx(0.5)
    json.dumps(out, allow_nan=False)


def test_two_runs_are_bit_equal_and_seeds_matter(chains):
    cases = chains.cases("test")
    recs = np.random.default_rng(1).permuted(np.tile(np.arange(41), (60, 1)), axis=1)[:, :20]
    first, again, other = (json.dumps(evaluate(chains, cases, recs, seed=s)) for s in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize(
    ("recs", "word"),
    [
        (np.array([[0, 0]] * 3), "twice"),
        (np.array([[0, 6]] * 3), "outside the catalogue"),
        (np.array([[0, 1]] * 2), "2 rows but there are 3"),
    ],
)
def test_lists_that_cannot_be_scored(world, recs, word):
    with pytest.raises(UserError, match=word):
        evaluate(world, world.cases("test"), recs, ks=(1, 2))


def test_lists_shorter_than_a_cut_off_count_with_what_they_have_and_are_counted(world, tmp_path):
    cases = world.cases("test")
    short = np.array([[3, -1], [1, -1], [4, -1]])
    whole = np.pad(short, ((0, 0), (0, 18)), constant_values=-1)
    write_recommendations(tmp_path / "lists.parquet", world, cases, whole)
    back = read_recommendations(tmp_path / "lists.parquet", world, cases)
    assert back.shape == (3, 1)
    direct, again, narrow = (
        evaluate(world, cases, recs, ks=(1, 20), n_bootstrap=20) for recs in (whole, back, short)
    )
    assert direct == again == narrow
    assert direct["short_lists"] == 3 and direct["list_length"] == 1
    assert direct["metrics"]["HR@20"]["mean"] == direct["metrics"]["HR@1"]["mean"] == pytest.approx(2 / 3)
    apart = compare(world, cases, back, np.array([[3, 0, 1]] * 3), ks=(1, 5, 20), n_bootstrap=20)
    assert apart["HR@20"]["a"] == pytest.approx(2 / 3) and apart["HR@20"]["b"] == pytest.approx(2 / 3)


def test_lists_of_nothing_at_all_are_misses(world):
    out = evaluate(world, world.cases("test"), np.full((3, 0), -1), ks=(1, 5), n_bootstrap=5)
    assert out["short_lists"] == 3 and out["list_length"] == 0 and out["metrics"]["HR@5"]["mean"] == 0


def test_interval_is_about_two_standard_errors(make_dataset):
    rng = np.random.default_rng(0)
    values = (rng.random(4000) < 0.2).astype(float)[:, None]
    samples = bootstrap_means(np.arange(4000), values, np.ones((4000, 1), bool), 1000, seed=0)[:, 0, 0]
    expected = np.sqrt(0.2 * 0.8 / 4000)
    assert samples.std() == pytest.approx(expected, rel=0.1)
    assert samples.mean() == pytest.approx(values.mean(), abs=4 * expected / np.sqrt(1000))


def test_a_user_is_drawn_with_all_cases():
    # two users who differ entirely: a resample of users can only be 0, 1/2 or 1; one of cases could be anything
    users = np.repeat([7, 3], 10)
    values = (users == 7).astype(float)[:, None]
    samples = bootstrap_means(users, values, np.ones((20, 1), bool), 200, seed=0)
    assert set(np.unique(samples)) == {0.0, 0.5, 1.0}


def test_gini_and_novelty_extremes():
    counts = np.array([7, 1, 0, 0])
    even = beyond_accuracy(np.array([[0, 1], [2, 3]]), counts)
    assert even["gini@10"] == pytest.approx(0) and even["coverage@10"] == 1
    one = beyond_accuracy(np.array([[0], [0]]), counts)
    assert one["gini@10"] == pytest.approx(3 / 4)
    assert one["novelty@10"] == pytest.approx(-np.log2(8 / 12))
    nothing = beyond_accuracy(np.array([[-1], [-1]]), counts)
    assert nothing == {"coverage@10": 0.0, "gini@10": None, "novelty@10": None}


def test_history_is_all_that_precedes_the_target(world):
    row, item, age = histories(world.events, world.cases("test"), 1, 3, max_length=2)
    assert row.tolist() == [0, 0, 1, 1] and item.tolist() == [1, 1, 0, 0] and age.tolist() == [0, 1, 0, 1]


def test_twenty_two_thousand_cases_take_seconds(make_dataset):
    rng = np.random.default_rng(0)
    world = make_dataset([rng.integers(0, 12_000, 4).tolist() for _ in range(22_000)], 12_000)
    recs = (rng.integers(0, 12_000, (22_000, 1)) + np.arange(20)) % 12_000
    began = time.perf_counter()
    evaluate(world, world.cases("test"), recs)
    assert time.perf_counter() - began < 30  # 1.7 s on a quiet core
