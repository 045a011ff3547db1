"""Packing: every document once, rows never too long, and a packed row is as blind as separate rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dig_ray.recommender.objective import SidLoss
from dig_ray.recommender.packing import Documents, document_mask, fill_rows, pack, packed_arrays


@st.composite
def documents(draw):
    """Documents of random tokens; each token but the first may be a SID target, a text target or context."""
    lengths = draw(st.lists(st.integers(1, 12), min_size=1, max_size=30))
    total = sum(lengths)
    kinds = np.array(draw(st.lists(st.sampled_from([0, 1, 2]), min_size=total, max_size=total)))
    return Documents(
        tokens=np.arange(10, 10 + total, dtype=np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        target_item=np.where(kinds == 1, np.arange(total), -1).astype(np.int32),
        target_depth=(np.arange(total) % 3).astype(np.int8),
        text_target=kinds == 2,
    )


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 20), max_size=60), st.integers(20, 40))
def test_every_document_lies_in_exactly_one_row_that_holds_it(lengths, row_length):
    rows = pack(np.array(lengths, np.int64), row_length)
    assert sorted(d for row in rows for d in row.tolist()) == list(range(len(lengths)))
    assert all(0 < sum(lengths[d] for d in row.tolist()) <= row_length for row in rows)
    assert all(np.array_equal(a, b) for a, b in zip(rows, pack(np.array(lengths), row_length), strict=True))


def test_a_document_longer_than_a_row_is_refused():
    with pytest.raises(ValueError, match="does not fit a row of 8"):
        pack(np.array([3, 9]), 8)


def test_rows_are_nearly_full_on_histories_like_real_ones():
    lengths = np.minimum(1 + 3 * np.random.default_rng(0).geometric(0.15, 5000), 61)
    rows = pack(lengths, 256)
    assert lengths.sum() / (256 * len(rows)) > 0.99


@settings(max_examples=100, deadline=None)
@given(documents(), st.integers(12, 40))
def test_rows_unpack_to_the_documents_and_their_targets(docs, row_length):
    rows = pack(np.diff(docs.offsets), row_length)
    arrays = packed_arrays(docs, rows, row_length, pad=0)
    assert all(a.shape == (len(rows), row_length) for a in arrays.values())
    for r, row in enumerate(rows):
        for number, doc in enumerate(row.tolist()):
            at = arrays["document"][r] == number
            first, last = docs.offsets[doc : doc + 2]
            np.testing.assert_array_equal(arrays["input_ids"][r, at], docs.tokens[first:last])
            np.testing.assert_array_equal(arrays["position_ids"][r, at], np.arange(last - first))
            item, text = docs.target_item[first + 1 : last], docs.text_target[first + 1 : last]
            label = np.where((item >= 0) | text, docs.tokens[first + 1 : last], -100)
            np.testing.assert_array_equal(arrays["label"][r, at], [*label, -100])
            np.testing.assert_array_equal(arrays["item"][r, at], [*item, -1])
            depth = np.where(item >= 0, docs.target_depth[first + 1 : last], -1)
            np.testing.assert_array_equal(arrays["depth"][r, at], [*depth, -1])
        padding = arrays["document"][r] == -1
        assert (arrays["label"][r, padding] == -100).all() and (arrays["input_ids"][r, padding] == 0).all()
        assert padding.sum() == row_length - sum(
            len(docs.tokens[docs.offsets[d] : docs.offsets[d + 1]]) for d in row
        )


def test_rows_are_filled_up_to_whole_steps_with_nothing_to_learn():
    docs = Documents(
        np.arange(6, dtype=np.int32),
        np.array([0, 3, 6]),
        np.array([-1, 0, 0, -1, 1, 1], np.int32),
        np.zeros(6, np.int8),
        np.zeros(6, bool),
    )
    arrays = packed_arrays(docs, [np.array([0]), np.array([1])], 4, pad=9)
    filled = fill_rows(arrays, 5, pad=9)
    assert all(len(a) == 5 and a.dtype == arrays[n].dtype for n, a in filled.items())
    assert all((filled[n][:2] == a).all() for n, a in arrays.items())
    assert (filled["input_ids"][2:] == 9).all() and (filled["document"][2:] == -1).all()
    assert (filled["label"][2:] == -100).all() and (filled["item"][2:] == -1).all()
    assert fill_rows(arrays, 2, pad=9)["input_ids"].shape == (2, 4)


def test_the_mask_is_causal_within_a_document_and_never_empty():
    mask = document_mask(torch.tensor([[0, 0, 1, 1, -1]]))[0, 0]
    expected = torch.tensor(
        [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]],
        dtype=torch.bool,
    )
    assert torch.equal(mask, expected)


@pytest.mark.parametrize("normalizer", ["head", "trie"])
@pytest.mark.parametrize("kind", ["phi3", "llama", "qwen2", "gpt2", "llama-lora"])
def test_the_packed_loss_is_the_sum_of_the_documents_alone(
    kind, normalizer, make_sids, make_table, make_policy, make_dataset
):
    """The whole point of the mask: neighbours in a row change nothing, in the loss and in its gradient."""
    from dig_ray.recommender.config import RecommenderConfig
    from dig_ray.recommender.tasks import TaskInputs, next_sid
    from dig_ray.training.sft_trainer import attach_loss

    sids = make_sids(30, (4, 4))
    policy = make_policy(kind, sids.n_tokens)
    rng = np.random.default_rng(0)
    dataset = make_dataset([rng.integers(0, 30, n).tolist() for n in (3, 9, 4, 6, 12, 5, 3)], 30)
    inputs = TaskInputs(
        dataset, sids, None, RecommenderConfig(max_history=20), policy.sid_start, policy.bos, 1
    )
    docs = next_sid(inputs)
    attach_loss(policy, SidLoss(make_table(sids), normalizer))

    def loss_of(rows, row_length):
        arrays = packed_arrays(docs, rows, row_length, policy.pad)
        batch = {("labels" if n == "label" else n): torch.from_numpy(a) for n, a in arrays.items()}
        return policy.model(**batch)["loss"]

    rows = pack(np.diff(docs.offsets), 64)
    assert max(len(r) for r in rows) > 1
    packed = loss_of(rows, 64)
    alone = [loss_of([np.array([d])], int(docs.offsets[d + 1] - docs.offsets[d])) for d in range(len(docs))]
    assert packed.item() == pytest.approx(sum(x.item() for x in alone), rel=1e-5)
    weights = [p for p in policy.model.parameters() if p.requires_grad]
    one = torch.autograd.grad(packed, weights, allow_unused=True)
    other = torch.autograd.grad(sum(alone), weights, allow_unused=True)
    for a, b in zip(one, other, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
