"""Rewards, advantages and the objective against the published check values, and what a bad reward function gets to hear."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dig_ray.semantic_ids.sid_catalog import SidCatalog
from dig_ray.training import rewards as r
from dig_ray.training.grpo_objective import advantages, k3, policy_objective, published_objective
from dig_ray.training.reward_sum import RewardError, weighted_rewards
from dig_ray.training.rollout_batch import RolloutBatch, batch_of_items, batch_of_tokens

LAMBDA_VALID, LAMBDA_PREF, ALPHA = 0.2, 0.3, 0.5


@pytest.fixture(scope="module")
def sids() -> SidCatalog:
    """Item 0 is alone; 1 shares its first code; 2 and 3 share all codes and have suffixes; 4 is apart."""
    codes = np.array([[0, 0, 0], [0, 1, 1], [1, 2, 0], [1, 2, 0], [2, 2, 2]])
    return SidCatalog.from_codes([f"i{n}" for n in range(5)], codes, (3, 3, 3))


def qarm(sids: SidCatalog, tokens: list[int], target: int, q: np.ndarray, variant: str = "gated") -> float:
    batch = batch_of_tokens(sids, [[tokens]], [target])
    functions = {
        "exact": (r.exact, 1.0),
        "valid": (r.valid, LAMBDA_VALID),
        "prefix": (r.prefix, LAMBDA_PREF),
        "quality": (r.quality(q, variant), ALPHA),
    }
    return float(weighted_rewards(functions, batch).total[0, 0])


def test_the_published_rewards(sids: SidCatalog) -> None:
    q = np.array([0.8, 1.0, 0.5, 0.5, 1.0])
    hit = sids.tokens_of(0)
    assert qarm(sids, hit, 0, q) == pytest.approx(1.9)
    assert qarm(sids, sids.tokens_of(1), 0, q) == pytest.approx(
        0.3
    )  # its own quality of 1 counts for nothing
    assert qarm(sids, sids.tokens_of(3), 2, q) == pytest.approx(0.5)  # all codes, another suffix
    assert qarm(sids, hit[:2], 0, q) == pytest.approx(0.2)
    assert qarm(sids, [*hit, 9, 9], 0, q) == pytest.approx(0.3)
    assert qarm(sids, [], 0, q) == 0.0


def test_the_variants_of_quality(sids: SidCatalog) -> None:
    q = np.array([0.8, 1.0, 0.5, 0.5, 1.0])
    near = sids.tokens_of(1)
    assert qarm(sids, near, 0, q, "ungated") == pytest.approx(0.3 + 0.5 * 1.0)
    assert qarm(sids, near, 0, q, "graded") == pytest.approx(0.3 + 0.5 * 1.0 / 3)
    assert qarm(sids, sids.tokens_of(0), 0, q, "ungated") == pytest.approx(1.9)
    assert qarm(sids, sids.tokens_of(0)[:2], 0, q, "ungated") == pytest.approx(0.2)


def test_quality_moves_a_hits_advantage_by_as_little_as_published() -> None:
    """One hit among eight valid rollouts, of whose misses two share one code and two share two."""
    misses = 0.2 + 0.3 / 3 * np.array([0, 0, 0, 1, 1, 2, 2])
    low, high = (advantages(np.concatenate([[1.5 + 0.5 * q], misses])[None])[0, 0] for q in (0.0, 1.0))
    assert (low, high) == (pytest.approx(2.597, abs=5e-4), pytest.approx(2.621, abs=5e-4))
    alone = [advantages(np.array([[1.2 + 0.5 * q] + [0.2] * 7]))[0, 0] for q in (0.0, 1.0)]
    assert alone[0] == pytest.approx(alone[1], abs=1e-4)  # {hit, miss}: normalization removes it


def test_advantages_are_the_published_ones() -> None:
    edge = 1 / (np.sqrt(2 / 3) + 1e-6)
    np.testing.assert_allclose(advantages(np.array([[1.0, 2.0, 3.0]])), [[-edge, 0, edge]], atol=1e-12)
    assert (advantages(np.full((2, 3), 0.1 + 0.2)) == 0).all()
    values = np.array([[1.0, 2.0, 4.0], [0.0, 0.0, 1.0]])
    np.testing.assert_allclose(
        advantages(values, "group"),
        (values - values.mean(1, keepdims=True)) / (values.std(1, ddof=1, keepdims=True) + 1e-4),
    )
    np.testing.assert_allclose(
        advantages(values, "batch"), (values - values.mean(1, keepdims=True)) / (values.std(ddof=1) + 1e-4)
    )
    np.testing.assert_allclose(advantages(values, "none"), values - values.mean(1, keepdims=True))


def test_the_objective_is_the_published_one() -> None:
    each = policy_objective(torch.tensor([1.5, 0.5]), torch.tensor([2.0, -2.0]), 0.2, 0.2)
    assert each.tolist() == pytest.approx([2.4, -1.6])
    assert float(each.mean()) == pytest.approx(0.4)
    assert float(each.mean() - 0.5 * 0.4) == pytest.approx(0.2)
    # the same through log-probabilities: ratios 1.5 and .5 over two tokens each
    old = torch.zeros(2, 2)
    now = torch.log(torch.tensor([[3.0, 0.5], [0.25, 2.0]]))
    found = published_objective(now, old, None, torch.tensor([2.0, -2.0]), 0.5, 0.2, 0.2)
    assert float(found) == pytest.approx(0.4)
    reference = torch.full((2, 2), -0.3)
    kl = k3(now, reference).sum(1).mean()
    found = published_objective(now, old, reference, torch.tensor([2.0, -2.0]), 0.5, 0.2, 0.2)
    assert float(found) == pytest.approx(0.4 - 0.5 * float(kl))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-4, 0), min_size=4, max_size=4), st.lists(st.floats(-4, 0), min_size=4, max_size=4))
def test_k3_is_never_negative_and_right_on_average(a: list[float], b: list[float]) -> None:
    p = torch.tensor(a, dtype=torch.float64).log_softmax(0)
    reference = torch.tensor(b, dtype=torch.float64).log_softmax(0)
    each = k3(p, reference)
    assert float(each.min()) >= -1e-12
    exact = (p.exp() * (p - reference)).sum()
    assert float((p.exp() * each).sum()) == pytest.approx(float(exact), abs=1e-9)


def test_likely_misses_beside_a_hit_pay_most(sids: SidCatalog) -> None:
    items = np.array([[0, 1, 2], [1, 2, 3]])
    log_probs = np.array([[-2.0, -3.0, -1.0], [-1.0, -2.0, -3.0]])
    batch = batch_of_items(sids, items, np.array([0, 0]), log_probs=log_probs)
    found = r.rank_penalty(batch)
    share = 1 / np.log2([2, 3, 4])
    assert found[0].tolist() == pytest.approx([0, -share[2] / share.sum(), -share[0] / share.sum()])
    assert found[1].tolist() == [0, 0, 0]  # nothing was hit


def test_interests_that_match_the_users_are_worth_their_cosine(sids: SidCatalog) -> None:
    unit = np.eye(3, dtype=np.float32)
    nothing = np.zeros((0, 3), np.float32)
    tilted = np.array([[0.6, 0.8, 0]], np.float32)
    reward = r.interest([unit[:1], tilted, -unit[:1], nothing, unit[2:]], [unit[:2], nothing])
    batch = batch_of_items(sids, np.array([[0, 1, 2, 3, 4]] * 2), np.array([0, 0]), users=np.array([0, 1]))
    assert reward(batch)[0].tolist() == pytest.approx([1.0, 0.8, 0.0, 0.0, 0.0])
    assert reward(batch)[1].tolist() == [0.0] * 5


def only_half(batch: RolloutBatch) -> np.ndarray:
    return np.zeros((len(batch.items), 1))


def not_a_number(batch: RolloutBatch) -> np.ndarray:
    out = np.zeros(batch.items.shape)
    out[1, 2] = np.nan
    return out


def broken(batch: RolloutBatch) -> np.ndarray:
    raise KeyError("price")


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (only_half, ["reward mine", "(2, 1)", "must be (2, 3)"]),
        (not_a_number, ["reward mine", "nan", "rollout 2", "training row 41", "i4"]),
        (broken, ["reward mine", "KeyError", "price", "40"]),
    ],
)
def test_a_bad_reward_names_itself_and_the_row(sids: SidCatalog, function, words: list[str]) -> None:
    batch = batch_of_items(sids, np.array([[0, 1, 2], [2, 3, 4]]), np.array([0, 1]), rows=np.array([40, 41]))
    with pytest.raises(RewardError) as caught:
        weighted_rewards({"exact": (r.exact, 1.0), "mine": (function, 1.0)}, batch)
    assert all(word in str(caught.value) for word in words)


def test_every_part_is_kept_raw_and_weighted(sids: SidCatalog) -> None:
    batch = batch_of_items(sids, np.array([[0, 1, 4]]), np.array([0]))
    found = weighted_rewards({"exact": (r.exact, 2.0), "prefix": (r.prefix, 0.3)}, batch)
    assert found.raw["prefix"][0].tolist() == pytest.approx([1, 1 / 3, 0])
    assert found.weighted["prefix"][0].tolist() == pytest.approx([0.3, 0.1, 0])
    assert found.total[0].tolist() == pytest.approx([2.3, 0.1, 0])


@pytest.mark.parametrize("path", ["nothing", "no.such.module:reward", "math:no_such", "math:pi"])
def test_a_reward_that_is_none_is_refused(path: str) -> None:
    from dig_ray.errors import UserError

    with pytest.raises(UserError, match=r"grpo\.rewards\.custom"):
        r.load_reward(path)
