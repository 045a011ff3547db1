"""The block with its gradient written out, against PyTorch's own and against numbers."""

from __future__ import annotations

import pytest
import torch

from dig_ray.recommender.decoder.slim_block import additive, has_slim_blocks, slim_block, slim_stack


def stack(make_policy, kind, dtype=torch.float64):
    return make_policy(kind, 20).causal_lm.get_decoder().to(dtype)


def causal(rows, width, before=0):
    return additive(torch.ones(rows, 1, width, before + width, dtype=torch.bool).tril(before), torch.float64)


@pytest.mark.parametrize("kind", ["phi3-mha", "llama-mha"])
@pytest.mark.parametrize("some", [False, True])
def test_a_stack_gives_the_states_and_gradients_of_its_own_modules(kind, some, make_policy) -> None:
    decoder = stack(make_policy, kind)
    torch.manual_seed(0)
    ids, positions = torch.randint(0, 20, (3, 7)), torch.arange(7).expand(3, -1)
    reads = torch.tensor([[6, 0], [2, 2], [0, 5]]) if some else positions
    theirs = decoder(input_ids=ids, position_ids=positions).last_hidden_state
    theirs = theirs[torch.arange(3)[:, None], reads].flatten(0, 1)
    x = decoder.embed_tokens(ids)
    ours, known = slim_stack(decoder, x, positions, causal(3, 7), reads if some else None)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)  # their norms are of single precision
    weight = torch.randn_like(theirs)
    parameters = list(decoder.parameters())
    for a, b in zip(
        torch.autograd.grad((ours * weight).sum(), parameters),
        torch.autograd.grad((theirs * weight).sum(), parameters),
        strict=True,
    ):
        assert float((a - b).norm()) <= 1e-5 * float(b.norm())
    assert len(known) == 2 and known[0][0].shape == (3, 4, 7, 8)


@pytest.mark.parametrize("reads", [None, [0, 2, 4, 3]])
@pytest.mark.parametrize("before", [0, 2])
def test_gradients_are_those_of_finite_differences(reads, before, make_policy) -> None:
    decoder = stack(make_policy, "phi3-mha")
    layer = decoder.layers[0]
    torch.manual_seed(0)
    rows, width = 2, 3
    x = torch.randn(rows * width, 32, dtype=torch.float64, requires_grad=True)
    angles = torch.rand(rows, width, 4, dtype=torch.float64)
    past = torch.randn(2, rows, 4, before, 8, dtype=torch.float64, requires_grad=True)
    mask, at = causal(rows, width, before), None
    if reads is not None:
        at = torch.tensor(reads)
        mask = (
            torch.stack([mask[r // width, :, r % width] for r in reads]).view(rows, 2, 1, -1).transpose(1, 2)
        )

    def run(x, past, *_):
        return slim_block(layer, x, (angles.cos(), angles.sin()), mask, at, tuple(past) if before else None)

    torch.autograd.gradcheck(run, (x, past, *layer.parameters()), fast_mode=True)


@pytest.mark.parametrize(
    ("kind", "slim"),
    [
        ("phi3-mha", True),
        ("llama-mha", True),
        ("phi3", False),  # groups of heads
        ("qwen2-mha", False),  # biases
        ("qwen3-mha", False),  # norms of queries and keys
        ("llama-lora", False),
    ],
)
def test_what_it_does_not_compute_is_left_to_the_modules(kind, slim, make_policy) -> None:
    assert has_slim_blocks(make_policy(kind, 20).causal_lm.get_decoder()) is slim


def test_half_precision_is_left_to_the_modules(make_policy) -> None:
    decoder = stack(make_policy, "phi3-mha", torch.float32)
    assert has_slim_blocks(decoder)
    with torch.autocast("cpu", torch.bfloat16):
        assert not has_slim_blocks(decoder)
    assert not has_slim_blocks(decoder.to(torch.bfloat16))
