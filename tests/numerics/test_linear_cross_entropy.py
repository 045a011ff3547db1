"""The softmax over a catalogue: value and gradient of the plain form, whatever the size of the logits, and nearly so in bfloat16."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
from dig_ray.numerics.linear_cross_entropy import linear_cross_entropy, unit_rows  # noqa: E402


def plain(queries, keys, targets):
    loss = torch.nn.functional.cross_entropy(queries @ keys.T, targets)
    return loss, torch.autograd.grad(loss, (queries, keys))


def ours(queries, keys, targets, **options):
    loss = linear_cross_entropy(queries, keys, targets, **options)
    return loss, torch.autograd.grad(loss, (queries, keys))


@settings(deadline=None, max_examples=40)
@example(rows=1, items=13, size=30.0, seed=200175)  # a loss of 0, from a logit above 100
@example(rows=12, items=9, size=30.0, seed=791)
@given(
    st.integers(1, 20), st.integers(1, 30), st.sampled_from([0.1, 1.0, 5.0, 30.0]), st.integers(0, 2**31 - 1)
)
def test_value_and_gradient_are_those_of_the_plain_form(rows, items, size, seed):
    generator = torch.Generator().manual_seed(seed)
    queries = (torch.randn(rows, 6, generator=generator) * size).requires_grad_()
    keys = torch.randn(items, 6, generator=generator).requires_grad_()
    targets = torch.randint(0, items, (rows,), generator=generator)
    want, wanted = plain(queries, keys, targets)
    # a logit is known to so much only, whichever order its products are added in
    rounding = 4 * torch.finfo(torch.float32).eps * float((queries @ keys.T).detach().abs().max())
    for block in (1, 7, None):
        loss, found = ours(queries, keys, targets, block=block)
        torch.testing.assert_close(loss, want, rtol=1e-5, atol=1e-5 + rounding)
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 + rounding * size)


def test_bfloat16_is_near_and_the_result_stays_exact_in_type():
    torch.manual_seed(0)
    queries = (unit_rows(torch.randn(64, 32)) / 0.07).requires_grad_()
    keys = unit_rows(torch.randn(500, 32)).requires_grad_()
    targets = torch.randint(0, 500, (64,))
    want, wanted = plain(queries, keys, targets)
    loss, found = ours(queries, keys, targets, precision="bfloat16")
    assert loss.dtype == torch.float32 and abs(float(loss.detach() - want.detach())) < 0.01
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == torch.float32
        assert float((a - b).norm() / b.norm()) < 0.02


def test_the_gradient_of_a_multiple_is_the_multiple_of_the_gradient():
    torch.manual_seed(0)
    queries, keys = torch.randn(5, 4, requires_grad=True), torch.randn(9, 4, requires_grad=True)
    targets = torch.randint(0, 9, (5,))
    _, once = ours(queries, keys, targets)
    tripled = torch.autograd.grad(3 * linear_cross_entropy(queries, keys, targets), (queries, keys))
    for a, b in zip(tripled, once, strict=True):
        torch.testing.assert_close(a, 3 * b)


def test_unit_rows_are_torch_s_and_so_is_their_gradient():
    torch.manual_seed(0)
    rows = torch.randn(7, 3, 5, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(unit_rows(rows), torch.nn.functional.normalize(rows, dim=-1))
    assert torch.autograd.gradcheck(unit_rows, rows)
    assert not unit_rows(torch.zeros(2, 4)).any()
