"""Routing, attention and losses against slow references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dig_ray.multi_interest.config import MultiInterestConfig
from dig_ray.multi_interest.losses import alignment, assign, contrast, sampled_softmax
from dig_ray.multi_interest.model import MultiInterestModel, read_out, squash


def make(**settings) -> MultiInterestModel:
    torch.manual_seed(0)
    config = MultiInterestConfig(**{"width": 8, "interests": 3, "max_length": 6, "dropout": 0.0} | settings)
    model = MultiInterestModel(20, config).eval()
    if model.ages is not None:
        torch.nn.init.normal_(model.ages)
    return model


def slow_routing(model: MultiInterestModel, history: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Dynamic routing of one history, interest by interest and event by event."""
    config = model.config
    events = model.items.weight.detach().double().numpy()[history]
    maps = model.maps.detach().double().numpy()
    told = np.array([[one @ maps[k] for one in events] for k in range(config.interests)])
    ages = np.zeros((config.interests, config.max_length))
    if model.ages is not None:
        ages = model.ages.detach().double().numpy()
    logits = np.zeros((config.interests, len(history)))
    for turn in range(config.rounds):
        share = np.zeros_like(logits)
        interests = np.zeros((config.interests, config.width))
        for j in range(len(history)):
            e = np.exp(logits[:, j] - logits[:, j].max())
            share[:, j] = e / e.sum() * np.exp(ages[:, len(history) - 1 - j])
        for k in range(config.interests):
            z = sum(share[k, j] * told[k, j] for j in range(len(history)))
            square = float(z @ z)
            interests[k] = square / (1 + square) * z / max(np.sqrt(square), 1e-12)
        if turn < config.rounds - 1:
            for k in range(config.interests):
                for j in range(len(history)):
                    logits[k, j] += config.agreement * told[k, j] @ interests[k]
    return interests, share


@pytest.mark.parametrize("rounds", [1, 2, 3])
@pytest.mark.parametrize("recency", [True, False])
@pytest.mark.parametrize("agreement", [1.0, 5.0])
def test_every_prefix_is_routed_as_by_a_slow_reference(rounds, recency, agreement):
    model = make(rounds=rounds, recency=recency, agreement=agreement)
    history = [3, 7, 7, 1, 12]
    items = torch.tensor([history + [0], [5, 2, 0, 0, 0, 0]])
    found, shares = model(items, torch.tensor([5, 2]))
    for row, whole in enumerate((history, [5, 2])):
        for end in range(1, len(whole) + 1):
            interests, share = slow_routing(model, whole[:end])
            assert found[row, end - 1].detach().numpy() == pytest.approx(interests, abs=2e-5)
            assert shares[row, end - 1, :, :end].detach().numpy() == pytest.approx(share, abs=2e-5)
            assert not shares[row, end - 1, :, end:].any()


@pytest.mark.parametrize("routing", ["capsules", "attention"])
def test_neither_padding_nor_the_future_is_seen(routing):
    model = make(routing=routing)
    first, _ = model(torch.tensor([[3, 7, 1, 0, 0]]), torch.tensor([3]))
    second, _ = model(torch.tensor([[3, 7, 1, 9, 4]]), torch.tensor([3]))
    third, _ = model(torch.tensor([[3, 7, 9]]), torch.tensor([3]))
    assert torch.equal(first[:, :3], second[:, :3])
    assert torch.allclose(first[:, :2], third[:, :2], atol=1e-6)
    alone, _ = model(torch.tensor([[3, 7, 1, 0, 0]]), torch.tensor([3]), torch.tensor([2]))
    assert torch.allclose(alone[:, 0], first[:, 2], atol=1e-6)


def test_attention_is_a_weighted_mean_of_events():
    model = make(routing="attention", recency=False)
    items = torch.tensor([[3, 7, 1]])
    found, shares = model(items, torch.tensor([3]))
    assert shares[0, 2].sum(-1).tolist() == pytest.approx([1.0] * 3, abs=1e-6)
    hidden = torch.tanh(model.inner(model.items(items[0])))
    weights = model.outer(hidden).softmax(0)
    assert torch.allclose(found[0, 2], weights.T @ model.items(items[0]), atol=1e-6)


def test_a_gradient_comes_through_the_last_round_only():
    model = make(rounds=3, recency=False)
    history = [3, 7, 1]
    found, share = model(torch.tensor([history]), torch.tensor([3]))
    found[0, 2].sum().backward()
    told = torch.einsum(
        "ld,kde->kle", model.items.weight.detach()[history], maps := model.maps.detach().clone()
    )
    told.requires_grad_()
    squash(torch.einsum("kl,kle->ke", share[0, 2].detach(), told)).sum().backward()
    expected = torch.einsum("ld,kle->kde", model.items.weight.detach()[history], told.grad)
    assert maps.shape == expected.shape
    assert torch.allclose(model.maps.grad, expected, atol=1e-6)


def test_squash():
    z = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    out = squash(z)
    assert out[0].tolist() == pytest.approx([25 / 26 * 0.6, 25 / 26 * 0.8])
    assert out[1].tolist() == [0.0, 0.0]
    out.sum().backward()
    assert torch.isfinite(z.grad).all()


def test_the_interest_nearest_to_the_target_is_read_out():
    queries = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]])
    assert read_out(queries, torch.tensor([[0.2, 0.1], [0.1, 0.2]])).tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_sampled_softmax_over_everything_is_the_softmax():
    torch.manual_seed(0)
    queries, keys, targets = torch.randn(5, 4), torch.randn(9, 4), torch.tensor([0, 3, 8, 3, 1])
    found = sampled_softmax(queries, keys, targets, torch.arange(9), torch.zeros(9))
    assert float(found) == pytest.approx(
        float(F.cross_entropy(queries @ keys.T, targets, reduction="sum")), abs=1e-4
    )


def test_log_q_makes_the_gradient_of_sampling_that_of_the_whole_softmax():
    """Many draws by popularity; without the correction the sampled gradient points elsewhere."""
    torch.manual_seed(0)
    keys, targets = torch.randn(12, 4), torch.tensor([2, 5])
    chance = torch.arange(1.0, 13.0) ** 2
    chance /= chance.sum()

    def gradient(log_expected: torch.Tensor) -> torch.Tensor:
        queries = torch.ones(2, 4, requires_grad=True)
        drawn = torch.multinomial(chance, 20_000, True, generator=torch.Generator().manual_seed(1))
        sampled_softmax(queries, keys, targets, drawn, log_expected).backward()
        return queries.grad

    whole = torch.ones(2, 4, requires_grad=True)
    F.cross_entropy(whole @ keys.T, targets, reduction="sum").backward()
    corrected = gradient(torch.log(chance * 20_000))
    assert torch.allclose(corrected, whole.grad, atol=0.05)
    assert (gradient(torch.zeros(12)) - whole.grad).abs().max() > 5 * (corrected - whole.grad).abs().max()


def test_clusters_are_assigned_softly():
    clusters = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]])
    interests = torch.tensor([[[2.0, 0.0], [0.0, 3.0]]])
    found = assign(clusters, interests, 0.5)
    assert found.sum(-1).tolist() == [pytest.approx([1.0, 1.0])]
    assert found[0, 0].tolist() == pytest.approx([np.exp(2) / (np.exp(2) + 1), 1 / (np.exp(2) + 1)])
    assert found[0, 1].tolist() == pytest.approx([0.5, 0.5])


def test_alignment_pulls_an_interest_to_the_clusters_assigned_to_it():
    events = torch.tensor([[[1.0, 0.0], [1.0, 0.2], [0.0, 1.0]]])
    labels = torch.tensor([[0, 0, 1]])
    there = torch.tensor([[[1.0, 0.1], [0.0, 1.0]]], requires_grad=True)
    away = torch.tensor([[[1.0, 0.9], [0.0, 1.0]]], requires_grad=True)
    near, far = (alignment(events, labels, one, 2, 0.05) for one in (there, away))
    assert near.item() < 1e-3 < far.item()
    far.backward()
    assert away.grad[0, 0, 1] > 0  # less of the other direction
    nobody = alignment(events, torch.full_like(labels, -1), away, 2, 0.05)
    assert nobody.item() == 0


def slow_contrast(vectors: np.ndarray, labels: list[int], temperature: float) -> float:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    losses = []
    for i in range(len(labels)):
        negatives = [
            np.exp(unit[i] @ unit[n] / temperature) for n in range(len(labels)) if labels[n] != labels[i]
        ]
        for p in range(len(labels)):
            if p != i and labels[p] == labels[i] and negatives:
                own = np.exp(unit[i] @ unit[p] / temperature)
                losses.append(-np.log(own / (own + sum(negatives))))
    return float(np.mean(losses)) if losses else 0.0


def test_contrast_and_its_gradient():
    rng = np.random.default_rng(0)
    vectors = torch.tensor(rng.standard_normal((2, 5, 4)), requires_grad=True)
    labels = torch.tensor([[0, 0, 1, 1, 2], [0, 0, 1, -1, -1]])
    found = contrast(vectors, labels, 0.5)
    wanted = slow_contrast(vectors[0].detach().numpy(), [0, 0, 1, 1, 2], 0.5)
    wanted += slow_contrast(vectors[1, :3].detach().numpy(), [0, 0, 1], 0.5)
    assert found.item() == pytest.approx(wanted)
    assert torch.autograd.gradcheck(lambda v: contrast(v, labels, 0.5), (vectors,))


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2], [-1, -1, -1]])
def test_what_cannot_be_contrasted_costs_nothing(labels):
    vectors = torch.randn(1, 3, 4, requires_grad=True)
    loss = contrast(vectors, torch.tensor([labels]), 0.2)
    loss.backward()
    assert loss.item() == 0 and not vectors.grad.any()
