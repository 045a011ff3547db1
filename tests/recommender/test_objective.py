"""The SFT loss against its definition, one target at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dig_ray.recommender.objective import SidLoss, item_parents


def _targets(sids, n, seed=0):
    """Random (token, item, depth) targets that are real ones."""
    rng = np.random.default_rng(seed)
    item = rng.integers(0, len(sids), n)
    depth = np.array([rng.integers(0, len(sids.tokens_of(i))) for i in item])
    token = np.array([sids.tokens_of(i)[d] for i, d in zip(item, depth, strict=True)])
    return token, item, depth


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("normalizer", ["head", "trie"])
def test_the_loss_is_cross_entropy_over_what_the_normalizer_says(
    normalizer, smoothing, make_sids, make_table
):
    sids = make_sids(60, (5, 4, 3))
    table = make_table(sids)
    assert sids.n_suffix
    torch.manual_seed(0)
    hidden, rows = torch.randn(200, 16), torch.randn(sids.n_tokens, 16)
    token, item, depth = _targets(sids, 200)
    expected = 0.0
    for n in range(200):
        prefix = sids.tokens_of(item[n])[: depth[n]]
        allowed = table.allowed(prefix) if normalizer == "trie" else list(range(sids.n_tokens))
        log_prob = (rows[allowed] @ hidden[n]).log_softmax(0)
        expected -= (1 - smoothing) * log_prob[
            allowed.index(token[n])
        ].item() + smoothing * log_prob.mean().item()
    loss = SidLoss(table, normalizer, smoothing)
    found = loss(hidden, rows, *(torch.from_numpy(a) for a in (token, item, depth)))
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_a_forced_step_costs_nothing_and_gradients_are_finite(make_table):
    """Where the catalogue leaves one continuation there is nothing to learn."""
    from dig_ray.semantic_ids.sid_catalog import SidCatalog

    sids = SidCatalog.from_codes(["a", "b"], np.array([[0, 1], [1, 2]]), (2, 3))
    loss = SidLoss(make_table(sids), "trie", label_smoothing=0.1)
    hidden = torch.randn(2, 8, requires_grad=True)
    rows = torch.randn(sids.n_tokens, 8, requires_grad=True)
    found = loss(hidden, rows, torch.tensor([3, 4]), torch.tensor([0, 1]), torch.tensor([1, 1]))
    assert found.item() == pytest.approx(0, abs=1e-5)
    found.backward()
    assert torch.isfinite(hidden.grad).all() and torch.isfinite(rows.grad).all()


@pytest.mark.parametrize("normalizer", ["head", "trie"])
def test_a_batch_without_targets_has_a_loss_of_zero_that_can_be_backpropagated(
    normalizer, make_sids, make_table
):
    sids = make_sids(20, (4, 4))
    hidden = torch.randn(0, 8, requires_grad=True)
    rows = torch.randn(sids.n_tokens, 8, requires_grad=True)
    none = torch.zeros(0, dtype=torch.long)
    found = SidLoss(make_table(sids), normalizer)(hidden, rows, none, none, none)
    assert found.item() == 0
    found.backward()


def test_parents_are_the_nodes_each_token_is_chosen_from(make_sids, make_table):
    sids = make_sids(80, (5, 4, 3), seed=4)
    table = make_table(sids)
    parents = item_parents(table)
    for item in range(80):
        tokens = sids.tokens_of(item)
        for depth in range(len(tokens)):
            assert parents[item, depth] == table.walk(tokens[:depth])
