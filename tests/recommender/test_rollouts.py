"""Rollouts and their shared-prompt log-probabilities against plain, repeated-prompt arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dig_ray.recommender.decoder.prompt_pass import PromptRows, read_prompts
from dig_ray.recommender.decoder.read_states import can_go_on
from dig_ray.recommender.decoding import BeamSearcher
from dig_ray.recommender.rollout_trees import TreeBuilder, tree_log_probs, tree_states
from dig_ray.recommender.rollouts import Rollouts, RolloutSampler, with_target
from dig_ray.recommender.trie import TrieDistribution

KINDS = ["phi3", "phi3-mha", "phi3-lora", "qwen2", "qwen3", "gpt2", "llama-mha", "llama-untied", "llama-lora"]


def plain(policy, sids, table, prompt, item, temperature=1.0):
    """Log-probabilities and entropies of one item's tokens (D,), one forward pass of its own: what any GRPO trainer computes."""
    tokens = sids.tokens_of(item)
    ids = torch.cat([prompt, torch.tensor(tokens[:-1], dtype=torch.long) + policy.sid_start])
    hidden = policy.hidden(input_ids=ids[None]).last_hidden_state[0, len(prompt) - 1 :]
    logits = hidden @ policy.sid_rows().T / temperature
    log_probs, entropies = [], []
    for place, token in enumerate(tokens):
        allowed = torch.tensor(table.allowed(tokens[:place]))
        spread = logits[place][allowed].log_softmax(0)
        log_probs.append(spread[(allowed == token).nonzero().item()])
        entropies.append(-(spread.exp() * spread).sum())
    short = table.depth - len(tokens)
    return (
        torch.nn.functional.pad(torch.stack(log_probs), (0, short)),
        torch.nn.functional.pad(torch.stack(entropies), (0, short)),
    )


def shared(policy, table, prompts, items, temperature=1.0):
    tree = TreeBuilder(table, policy.sid_start, policy.pad).build(prompts, items).tensors("cpu")
    read = tree_states(policy.causal_lm.get_decoder(), tree)
    return *tree_log_probs(TrieDistribution(table), read, policy.sid_rows(), tree, temperature), tree


@pytest.mark.parametrize("kind", KINDS)
def test_shared_prompts_give_the_probabilities_and_gradients_of_repeated_ones(
    kind, make_sids, make_table, make_policy, make_prompts
):
    sids = make_sids(60, (4, 3, 2))
    table, policy = make_table(sids), make_policy(kind, sids.n_tokens)
    padded, lengths, _ = make_prompts(policy, sids, [3, 1, 6, 2])
    prompts = [padded[row, : lengths[row]].numpy() for row in range(4)]
    rng = np.random.default_rng(0)
    items = rng.integers(0, 60, (4, 8))
    weight = torch.from_numpy(rng.standard_normal((32, table.depth))).float()

    log_probs, entropies, _ = shared(policy, table, prompts, items, 0.7)
    trained = [p for p in policy.model.parameters() if p.requires_grad]
    ours = torch.autograd.grad((log_probs * weight).sum(), trained, allow_unused=True)
    both = [
        plain(policy, sids, table, torch.from_numpy(prompts[row]), item, 0.7)
        for row in range(4)
        for item in items[row].tolist()
    ]
    expected = torch.stack([one for one, _ in both])
    torch.testing.assert_close(log_probs, expected, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(entropies, torch.stack([one for _, one in both]), atol=1e-4, rtol=1e-5)
    theirs = torch.autograd.grad((expected * weight).sum(), trained, allow_unused=True)
    norm = torch.sqrt(sum((g**2).sum() for g in theirs if g is not None))
    gap = torch.sqrt(sum(((a - b) ** 2).sum() for a, b in zip(ours, theirs, strict=True) if b is not None))
    assert float(gap / norm) < 1e-5


@pytest.mark.parametrize("kind", ["phi3", "qwen3", "llama-lora"])
def test_the_last_layer_runs_only_where_it_is_read(kind, make_sids, make_table, make_policy, make_prompts):
    sids = make_sids(60, (4, 3, 2))
    table, policy = make_table(sids), make_policy(kind, sids.n_tokens)
    padded, lengths, _ = make_prompts(policy, sids, [30, 30])
    prompts = [padded[row, : lengths[row]].numpy() for row in range(2)]
    tree = TreeBuilder(table, policy.sid_start, policy.pad).build(prompts, np.zeros((2, 2), np.int64))
    rows = {0: 0, 1: 0}
    for number, layer in enumerate(policy.causal_lm.get_decoder().layers):
        layer.mlp.down_proj.register_forward_hook(
            lambda _, inputs, __, number=number: rows.__setitem__(number, inputs[0].shape[:-1].numel())
        )
    tree_states(policy.causal_lm.get_decoder(), tree.tensors("cpu"))
    assert rows == {0: tree.input_ids.size, 1: tree.reads.size}
    assert rows[1] < rows[0] / 10


@settings(max_examples=25, deadline=None)
@given(
    n_items=st.integers(1, 40),
    sizes=st.sampled_from([(5,), (2, 2), (6, 5), (3, 2, 2)]),
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    groups=st.integers(1, 9),
    method=st.sampled_from(["sample", "beam", "mixed", "independent"]),
    seed=st.integers(0, 99),
)
def test_prompts_read_once_serve_rollouts_and_gradients(
    n_items, sizes, lengths, groups, method, seed, make_sids, make_table, make_policy, make_prompts
):
    sids = make_sids(n_items, sizes, seed)
    table, policy = make_table(sids), make_policy("phi3-mha", sids.n_tokens)
    decoder = policy.causal_lm.get_decoder()
    padded, real, _ = make_prompts(policy, sids, lengths, seed)
    prompts = [padded[row, : real[row]].numpy() for row in range(len(lengths))]
    groups = min(groups, n_items)
    assert can_go_on(decoder, 200)
    known = read_prompts(decoder, PromptRows.of(prompts, policy.pad))
    sampler = RolloutSampler(policy, table, groups, method)
    numbers = np.arange(len(lengths))
    again, anew = (sampler.draw(padded, real, numbers, 0, one) for one in (known, None))
    np.testing.assert_allclose(again.log_probs, anew.log_probs, atol=1e-4)
    np.testing.assert_array_equal(again.items, anew.items)

    builder, trie = TreeBuilder(table, policy.sid_start, policy.pad), TrieDistribution(table)
    tree = builder.build(prompts, anew.items).tensors("cpu")
    weight = torch.from_numpy(np.random.default_rng(seed).standard_normal((anew.items.size, table.depth)))
    trained = [p for p in policy.model.parameters() if p.requires_grad]
    gradients = []
    for one in (known, None):
        read = tree_states(decoder, tree, one)
        log_probs, _ = tree_log_probs(trie, read, policy.sid_rows(), tree)
        gradients.append(torch.autograd.grad((log_probs * weight).sum(), trained, allow_unused=True))
    size = max(sum(float((g**2).sum()) for g in gradients[1] if g is not None), 1e-6)
    for ours, plain_one in zip(*gradients, strict=True):
        if plain_one is not None:
            gap = plain_one if ours is None else ours - plain_one
            assert float((gap**2).sum()) <= 1e-9 * size


@settings(max_examples=25, deadline=None)
@given(
    n_items=st.integers(1, 40),
    sizes=st.sampled_from([(5,), (2, 2), (6, 5), (3, 2, 2)]),
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    groups=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_any_catalogue_and_any_rollouts(
    n_items, sizes, lengths, groups, seed, make_sids, make_table, make_policy, make_prompts
):
    sids = make_sids(n_items, sizes, seed)
    table, policy = make_table(sids), make_policy("phi3", sids.n_tokens)
    padded, real, _ = make_prompts(policy, sids, lengths, seed)
    prompts = [padded[row, : real[row]].numpy() for row in range(len(lengths))]
    items = np.random.default_rng(seed).integers(0, n_items, (len(lengths), groups))
    with torch.inference_mode():
        log_probs, _, tree = shared(policy, table, prompts, items)
        expected = torch.stack(
            [
                plain(policy, sids, table, torch.from_numpy(prompts[row]), item)[0]
                for row in range(len(lengths))
                for item in items[row].tolist()
            ]
        )
    torch.testing.assert_close(log_probs, expected, atol=1e-4, rtol=1e-4)
    assert tree["real"].sum(1).tolist() == [int(sids.lengths[item]) for item in items.reshape(-1)]


def sampler(policy, table, groups, **settings):
    return RolloutSampler(policy, table, groups, **settings)


def numbers(count):
    return np.arange(count)


CROWDED, SPARSE, EARLY = (4, 3, 2), (6, 5, 4), (40, 8, 8)  # codes; the sparser, the earlier is one item left


@pytest.mark.parametrize("kind", ["phi3", "gpt2"])
@pytest.mark.parametrize("sizes", [CROWDED, SPARSE, EARLY], ids=["crowded", "sparse", "early"])
@pytest.mark.parametrize("method", ["sample", "independent", "beam", "mixed"])
def test_rollouts_are_items_with_their_own_probability(
    kind, sizes, method, make_sids, make_table, make_policy, make_prompts
):
    sids = make_sids(60, sizes)
    table, policy = make_table(sids), make_policy(kind, sids.n_tokens)
    padded, lengths, _ = make_prompts(policy, sids, [3, 1, 6, 2])
    drawn = sampler(policy, table, 8, method=method, temperature=0.7).draw(padded, lengths, numbers(4), 0)
    assert drawn.items.shape == (4, 8) and drawn.items.min() >= 0
    prompts = [padded[row, : lengths[row]].numpy() for row in range(4)]
    with torch.inference_mode():
        log_probs, _, _ = shared(policy, table, prompts, drawn.items, 0.7)
    np.testing.assert_allclose(drawn.log_probs.reshape(-1), log_probs.sum(1).numpy(), atol=1e-3)
    if method != "independent":
        assert all(len(set(row)) == 8 for row in drawn.items.tolist())


@pytest.mark.parametrize("sizes", [CROWDED, SPARSE, EARLY], ids=["crowded", "sparse", "early"])
def test_beams_are_those_of_the_search(sizes, make_sids, make_table, make_policy, make_prompts):
    sids = make_sids(60, sizes)
    table, policy = make_table(sids), make_policy("phi3", sids.n_tokens)
    padded, lengths, _ = make_prompts(policy, sids, [3, 1, 6, 2])
    found = BeamSearcher(policy, table, beam=10).search(padded, lengths).items.numpy()
    drawn = sampler(policy, table, 10, method="beam").draw(padded, lengths, numbers(4), 0)
    assert (drawn.items == found).all()
    mixed = sampler(policy, table, 10, method="mixed").draw(padded, lengths, numbers(4), 0)
    # the five likeliest of the ten beams, whatever the rest is
    assert (mixed.items[:, :5] == drawn.items[:, :5]).all()


def frequencies(make, prompt, length, draws, column):
    """How often each item stands in a column of the rollouts, over many rounds."""
    rounds = 500
    seen = np.zeros(make.table.n_items)
    many = prompt.expand(rounds, -1), length.expand(rounds)
    for number in range(draws // rounds):
        items = make.draw(*many, np.arange(rounds), number).items
        seen += np.bincount(items[:, column], minlength=make.table.n_items)
    return seen / draws


def test_draws_follow_the_policy(make_sids, make_table, make_policy, make_prompts):
    """First draws are the policy's own probabilities; a second draw without replacement renormalizes what the first left."""
    sids = make_sids(12, (3, 2), seed=1)
    table, policy = make_table(sids), make_policy("phi3", sids.n_tokens, seed=4)
    prompt, length, _ = make_prompts(policy, sids, [2])
    options = {"temperature": 3.0}  # flat enough for a test with thousands of draws
    with torch.inference_mode():
        log_probs, _, _ = shared(policy, table, [prompt[0].numpy()], np.arange(12)[None], 3.0)
    p = log_probs.sum(1).exp().numpy().astype(float)
    assert p.sum() == pytest.approx(1, abs=1e-4)
    draws = 8000
    error = 4.5 * np.sqrt(p * (1 - p) / draws) + 1e-3
    first = frequencies(sampler(policy, table, 4, method="sample", **options), prompt, length, draws, 0)
    assert (np.abs(first - p) < error).all()
    third = frequencies(sampler(policy, table, 4, method="independent", **options), prompt, length, draws, 2)
    assert (np.abs(third - p) < error).all()
    second = frequencies(sampler(policy, table, 4, method="sample", **options), prompt, length, draws, 1)
    q = np.array([sum(p[i] * p[j] / (1 - p[i]) for i in range(12) if i != j) for j in range(12)])
    assert (np.abs(second - q) < 4.5 * np.sqrt(q * (1 - q) / draws) + 1e-3).all()


def test_rollouts_do_not_depend_on_the_batch(make_sids, make_table, make_policy, make_prompts):
    sids = make_sids(60, (4, 3, 2))
    table, policy = make_table(sids), make_policy("phi3", sids.n_tokens)
    padded, lengths, _ = make_prompts(policy, sids, [3, 1, 6, 2])
    for method in ("sample", "independent", "mixed"):
        make = sampler(policy, table, 6, method=method, seed=3)
        whole = make.draw(padded, lengths, numbers(4), 5)
        halves = [make.draw(padded[i : i + 2], lengths[i : i + 2], numbers(4)[i : i + 2], 5) for i in (0, 2)]
        assert (whole.items == np.concatenate([half.items for half in halves])).all()
        assert (make.draw(padded, lengths, numbers(4), 6).items != whole.items).any()


def test_a_group_larger_than_the_catalogue_is_refused(make_sids, make_table, make_policy):
    sids = make_sids(5, (4, 3))
    table, policy = make_table(sids), make_policy("phi3", sids.n_tokens)
    with pytest.raises(ValueError, match="6 different rollouts of a catalogue of 5 items"):
        sampler(policy, table, 6)


def test_a_group_as_large_as_the_catalogue_is_all_of_it(make_sids, make_table, make_policy, make_prompts):
    sids = make_sids(7, (2, 3))
    table, policy = make_table(sids), make_policy("phi3", sids.n_tokens)
    padded, lengths, _ = make_prompts(policy, sids, [3, 1])
    drawn = sampler(policy, table, 7).draw(padded, lengths, numbers(2), 0)
    assert np.sort(drawn.items, axis=1).tolist() == [list(range(7))] * 2


def test_the_target_takes_the_last_place_where_it_is_missing():
    rollouts = Rollouts(np.array([[1, 2, 3], [4, 5, 6]]), np.zeros((2, 3)))
    found = with_target(rollouts, np.array([2, 9]))
    assert found.items.tolist() == [[1, 2, 3], [4, 5, 9]]
    assert np.isnan(found.log_probs).tolist() == [[False] * 3, [False, False, True]]
