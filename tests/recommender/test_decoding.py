"""Constrained beam search against exhaustive scoring and against Hugging Face's own beam search."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dig_ray.recommender.decoding import BeamSearcher, unconstrained_invalid

KINDS = ["phi3", "llama", "qwen2", "gpt2", "llama-untied", "llama-lora"]


def exhaustive(policy, sids, table, prompt, normalizer):
    """Every item's log-probability for one history, one full forward pass per item, no cache, no batch."""
    rows = policy.sid_rows()
    scores = np.zeros(len(sids))
    with torch.inference_mode():
        for item in range(len(sids)):
            tokens = sids.tokens_of(item)
            ids = torch.cat([prompt, torch.tensor(tokens[:-1], dtype=torch.long) + policy.sid_start])
            hidden = policy.hidden(input_ids=ids[None]).last_hidden_state[0, len(prompt) - 1 :]
            logits = hidden @ rows.T
            for place, token in enumerate(tokens):
                allowed = table.allowed(tokens[:place]) if normalizer == "trie" else range(policy.n_sid)
                spread = logits[place][torch.tensor(list(allowed))]
                scores[item] += float(logits[place, token] - spread.logsumexp(0))
    return scores


@pytest.mark.parametrize("normalizer", ["head", "trie"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_beam_as_wide_as_the_catalogue_is_the_exhaustive_ranking(
    kind, normalizer, make_sids, make_table, make_policy, make_prompts
):
    sids = make_sids(40, (4, 3, 2))
    assert sids.n_suffix > 0 and (sids.suffix < 0).any()  # both kinds of item
    table, policy = make_table(sids), make_policy(kind, sids.n_tokens)
    prompts, lengths, _ = make_prompts(policy, sids, [3, 1, 6])
    found = BeamSearcher(policy, table, beam=10_000, normalizer=normalizer).search(prompts, lengths)
    assert found.items.shape == (3, 40)
    for row in range(3):
        scores = exhaustive(policy, sids, table, prompts[row, : lengths[row]], normalizer)
        assert sorted(found.items[row].tolist()) == list(range(40))
        np.testing.assert_allclose(found.scores[row].numpy(), scores[found.items[row]], atol=2e-3)
        order = np.argsort(-scores)
        gaps = -np.diff(scores[order])
        if gaps.min() > 4e-3:
            assert found.items[row].tolist() == order.tolist()
        if normalizer == "trie":
            assert np.exp(found.scores[row].numpy()).sum() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("kind", ["phi3", "llama", "gpt2"])
def test_lists_are_those_of_generate_with_a_prefix_callback(
    kind, make_sids, make_table, make_policy, make_prompts
):
    sids = make_sids(300, (64, 32, 640), seed=3)
    assert sids.n_suffix == 0  # generate has no notion of an item that ends early
    table = make_table(sids)
    policy = make_policy(kind, sids.n_tokens, sid_start=0, extra=0)  # generate normalizes over the vocabulary
    prompts, lengths, _ = make_prompts(policy, sids, [5] * 4)
    width = prompts.shape[1]
    children: dict[tuple[int, ...], list[int]] = {}
    for item in range(len(sids)):
        tokens = sids.tokens_of(item)
        for place, token in enumerate(tokens):
            children.setdefault(tuple(tokens[:place]), []).append(token)
    out = policy.model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        num_beams=10,
        num_return_sequences=10,
        max_new_tokens=3,
        min_new_tokens=3,
        length_penalty=0.0,
        do_sample=False,
        pad_token_id=0,
        prefix_allowed_tokens_fn=lambda _, ids: children[tuple(ids[width:].tolist())],
    )
    theirs = [[sids.item_of(row.tolist()) for row in out[i * 10 : i * 10 + 10, width:]] for i in range(4)]
    ours = BeamSearcher(policy, table, beam=10, normalizer="head").search(prompts, lengths)
    assert ours.items.tolist() == theirs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalizer", ["head", "trie"])
def test_one_by_one_or_thirty_two_at_once_the_lists_are_the_same(
    kind, normalizer, make_sids, make_table, make_policy, make_prompts
):
    sids = make_sids(200, (8, 6, 4))
    table, policy = make_table(sids), make_policy(kind, sids.n_tokens)
    rng = np.random.default_rng(5)
    prompts, lengths, seen = make_prompts(policy, sids, rng.integers(1, 12, 32).tolist())
    searcher = BeamSearcher(policy, table, beam=12, normalizer=normalizer)
    together, without = searcher.search_both(prompts, lengths, seen)
    for row in range(32):
        n = int(lengths[row])
        alone, alone_without = searcher.search_both(
            prompts[row : row + 1, :n], lengths[row : row + 1], seen[row : row + 1]
        )
        assert alone.items[0].tolist() == together.items[row].tolist()
        assert alone_without.items[0].tolist() == without.items[row].tolist()
        torch.testing.assert_close(alone.scores[0], together.scores[row], atol=1e-3, rtol=0)


def test_equal_lengths_take_no_other_path_than_padded_ones(make_sids, make_table, make_policy, make_prompts):
    sids = make_sids(100, (8, 6, 4))
    table, policy = make_table(sids), make_policy("phi3", sids.n_tokens)
    searcher = BeamSearcher(policy, table, beam=15)
    prompts, lengths, _ = make_prompts(policy, sids, [4] * 6)
    tight = searcher.search(prompts, lengths)
    wider = torch.nn.functional.pad(prompts, (0, 7), value=policy.pad)
    loose = searcher.search(wider, lengths)
    assert tight.items.tolist() == loose.items.tolist()
    torch.testing.assert_close(tight.scores, loose.scores, atol=1e-4, rtol=0)


def test_two_calls_in_a_row_agree_and_leave_nothing_behind(make_sids, make_table, make_policy, make_prompts):
    sids = make_sids(150, (6, 6, 4))
    table, policy = make_table(sids), make_policy("llama", sids.n_tokens)
    searcher = BeamSearcher(policy, table, beam=20)
    one = make_prompts(policy, sids, [4, 9, 2])
    other = make_prompts(policy, sids, [7], seed=9)
    first = searcher.search(*one[:2])
    searcher.search(*other[:2])
    again = searcher.search(*one[:2])
    assert torch.equal(first.items, again.items) and torch.equal(first.scores, again.scores)


def add_noise(weights):
    with torch.no_grad():
        for weight in weights:
            weight.add_(0.05 * torch.randn_like(weight))


def set_data(weights):
    for weight in weights:
        weight.data = weight.data + 0.05 * torch.randn_like(weight)


def one_step(weights, **kind):
    weights = list(weights)
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    torch.optim.AdamW(weights, lr=0.05, **kind).step()


CHANGES = {
    "in place": add_noise,
    "replaced": set_data,
    "fused optimizer": partial(one_step, fused=True),
    "foreach optimizer": partial(one_step, foreach=True),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_weights_that_change_between_calls_are_seen(change, make_sids, make_table, make_policy, make_prompts):
    sids = make_sids(60, (6, 6))
    table, policy = make_table(sids), make_policy("llama", sids.n_tokens)
    searcher = BeamSearcher(policy, table, beam=60)
    prompts, lengths, _ = make_prompts(policy, sids, [4])
    before = searcher.search(prompts, lengths)
    change(policy.model.parameters())
    after = searcher.search(prompts, lengths)
    fresh = BeamSearcher(policy, table, beam=60).search(prompts, lengths)
    assert not torch.equal(before.scores, after.scores)
    assert torch.equal(after.items, fresh.items) and torch.equal(after.scores, fresh.scores)


@settings(max_examples=40, deadline=None)
@given(n_items=st.integers(1, 60), beam=st.integers(1, 80), levels=st.integers(1, 3), seed=st.integers(0, 9))
def test_never_an_invalid_or_a_repeated_item(
    n_items, beam, levels, seed, make_sids, make_table, make_policy, make_prompts
):
    sids = make_sids(n_items, (3, 2, 2)[:levels], seed)
    table, policy = make_table(sids), make_policy("llama", sids.n_tokens, seed)
    prompts, lengths, seen = make_prompts(policy, sids, [2, 5], seed)
    everything, unseen = BeamSearcher(policy, table, beam=beam).search_both(prompts, lengths, seen)
    width = min(beam, n_items)
    for row in range(2):
        items = everything.items[row].tolist()
        assert len(items) == width
        kept = [i for i in items if i >= 0]
        assert len(set(kept)) == len(kept) and all(i < n_items for i in kept)
        assert items == kept + [-1] * (width - len(kept))
        assert torch.isneginf(everything.scores[row, len(kept) :]).all()
        assert (everything.scores[row, : len(kept)].diff() <= 0).all()
        if beam >= n_items:
            assert len(kept) == n_items
        left = unseen.items[row].tolist()
        assert len(left) == width
        found = [i for i in left if i >= 0]
        assert not set(found) & set(seen[row].tolist()) and len(set(found)) == len(found)
        assert left == found + [-1] * (width - len(found))
        if beam >= n_items:
            assert found == [i for i in kept if i not in set(seen[row].tolist())]


def test_a_narrow_first_level_pads_what_it_cannot_fill(make_table, make_policy, make_prompts):
    from dig_ray.semantic_ids.sid_catalog import SidCatalog

    sids = SidCatalog.from_codes(["a", "b", "c"], np.array([[0, 0], [1, 0], [1, 1]]), (2, 2))
    table, policy = make_table(sids), make_policy("llama", sids.n_tokens)
    prompts, lengths, seen = make_prompts(policy, sids, [1, 3])
    everything, unseen = BeamSearcher(policy, table, beam=50).search_both(prompts, lengths, seen)
    assert everything.items.shape == (2, 3)
    assert sorted(everything.items[0].tolist()) == [0, 1, 2]
    assert (unseen.items[0] >= 0).sum() == 2 and unseen.items[0, 2] == -1


def test_a_catalogue_of_one_item(make_table, make_policy, make_prompts):
    from dig_ray.semantic_ids.sid_catalog import SidCatalog

    sids = SidCatalog.from_codes(["only"], np.array([[1, 0]]), (2, 2))
    table, policy = make_table(sids), make_policy("llama", sids.n_tokens)
    prompts, lengths, seen = make_prompts(policy, sids, [2])
    everything, unseen = BeamSearcher(policy, table, beam=20).search_both(prompts, lengths, seen)
    assert everything.items.tolist() == [[0]] and unseen.items.tolist() == [[-1]]
    assert everything.scores.item() == pytest.approx(0, abs=1e-5)  # the only thing there is, for certain


def test_leaving_out_seen_items_reaches_beyond_the_beam(make_sids, make_table, make_policy, make_prompts):
    """The list without seen items is as long as the beam, when the last level has enough candidates."""
    from dig_ray.semantic_ids.sid_catalog import SidCatalog

    grid = np.array([(a, b, c) for a in range(4) for b in range(4) for c in range(20)])
    sids = SidCatalog.from_codes([str(i) for i in range(len(grid))], grid, (4, 4, 20))
    table, policy = make_table(sids), make_policy("llama", sids.n_tokens)
    prompts, lengths, _ = make_prompts(policy, sids, [6, 3])
    searcher = BeamSearcher(policy, table, beam=20)
    top = searcher.search(prompts, lengths).items
    everything, unseen = searcher.search_both(prompts, lengths, top[:, :15].clone())
    assert torch.equal(everything.items, top)
    assert (unseen.items >= 0).all()
    assert unseen.items[:, :5].tolist() == top[:, 15:].tolist()


def test_splitting_a_batch_to_bound_memory_changes_nothing(make_sids, make_table, make_policy, make_prompts):
    sids = make_sids(200, (8, 6, 4))
    table, policy = make_table(sids), make_policy("phi3", sids.n_tokens)
    prompts, lengths, seen = make_prompts(policy, sids, [3, 5, 2, 8, 1])
    whole = BeamSearcher(policy, table, beam=12).search_both(prompts, lengths, seen)
    split = BeamSearcher(policy, table, beam=12, max_candidates=1).search_both(prompts, lengths, seen)
    for a, b in zip(whole, split, strict=True):
        assert torch.equal(a.items, b.items)


def test_half_precision_weights_give_float32_scores(make_sids, make_table, make_policy, make_prompts):
    sids = make_sids(100, (8, 6))
    table, policy = make_table(sids), make_policy("phi3", sids.n_tokens)
    policy.model.to(torch.bfloat16)
    prompts, lengths, _ = make_prompts(policy, sids, [3, 5])
    found = BeamSearcher(policy, table, beam=100).search(prompts, lengths)
    assert found.scores.dtype == torch.float32
    assert all(sorted(row) == list(range(100)) for row in found.items.tolist())
    np.testing.assert_allclose(found.scores.exp().sum(1), 1, atol=1e-2)


def test_a_beam_below_one_is_refused(make_sids, make_table, make_policy):
    sids = make_sids(10, (4, 4))
    with pytest.raises(ValueError, match="beam must be at least 1"):
        BeamSearcher(make_policy("llama", sids.n_tokens), make_table(sids), beam=0)


def test_free_decoding_is_judged_by_the_catalogue(make_sids, make_table, make_policy, make_prompts):
    """With every code path taken nothing is invalid; with few, an untrained policy leaves the catalogue almost always."""
    from dig_ray.semantic_ids.sid_catalog import SidCatalog

    grid = np.array([(a, b) for a in range(4) for b in range(4)])
    full = SidCatalog.from_codes([str(i) for i in range(16)], grid, (4, 4))
    few = make_sids(5, (40, 40))
    for sids, low, high in ((full, 0.0, 0.95), (few, 0.9, 1.0)):
        policy = make_policy("llama", sids.n_tokens)
        prompts, lengths, _ = make_prompts(policy, sids, [2, 4])
        bad = unconstrained_invalid(policy, make_table(sids), 2, prompts, lengths, beam=10)
        assert bad.shape == (2, 10) and low <= bad.float().mean() <= high
