"""Paired differences: seen where they are, not where they are not."""

import numpy as np
import pytest

from dig_ray.errors import UserError
from dig_ray.evaluation.comparison import compare


@pytest.fixture
def world(make_dataset):
    rng = np.random.default_rng(0)
    return make_dataset([rng.integers(0, 50, 4).tolist() for _ in range(800)], 50)


def lists(world, hits):
    """The target first where ``hits``, else two other items."""
    target = world.cases("test").target.astype(np.int64)
    first = np.where(hits, target, (target + 1) % 50)
    return np.stack([first, (target + 2) % 50], axis=1)


def test_a_small_paired_gain_is_found(world):
    base = np.arange(800) % 5 == 0
    better = base | (np.arange(800) % 50 == 1)  # 2 points more, never worse
    out = compare(world, world.cases("test"), lists(world, base), lists(world, better), ks=(1,))["HR@1"]
    assert out["difference"] == pytest.approx(0.02)
    assert out["relative"] == pytest.approx(0.1)
    assert 0 < out["low"] < 0.02 < out["high"] and out["p"] < 0.01
    back = compare(world, world.cases("test"), lists(world, better), lists(world, base), ks=(1,))["HR@1"]
    assert back["low"] == pytest.approx(-out["high"]) and back["p"] == out["p"]


def test_equal_lists_do_not_differ(world):
    recs = lists(world, np.arange(800) % 3 == 0)
    out = compare(world, world.cases("test"), recs, recs, ks=(1, 2))
    assert all(v["difference"] == v["low"] == v["high"] == 0 and v["p"] == 1 for v in out.values())


def test_noise_is_not_called_a_gain(world):
    rng = np.random.default_rng(3)
    out = compare(
        world,
        world.cases("test"),
        lists(world, rng.random(800) < 0.2),
        lists(world, rng.random(800) < 0.2),
        ks=(1,),
    )["HR@1"]
    assert out["low"] < 0 < out["high"] and out["p"] > 0.05


def test_lists_of_other_cases_are_refused(world):
    recs = lists(world, np.ones(800, bool))
    with pytest.raises(UserError, match="799 rows"):
        compare(world, world.cases("test"), recs, recs[:-1], ks=(1,))


def test_only_the_cases_that_are_asked_for_count(world):
    some = np.arange(800) % 4 == 0
    base, better = np.arange(800) % 5 == 0, np.arange(800) % 2 == 0
    cases, recs = world.cases("test"), (lists(world, base), lists(world, better))
    out = compare(world, cases, *recs, ks=(1,), only=some)["HR@1"]
    assert out["a"] == pytest.approx(base[some].mean()) and out["b"] == pytest.approx(better[some].mean())
    with pytest.raises(UserError, match="at least one case"):
        compare(world, cases, *recs, ks=(1,), only=np.zeros(800, bool))
