"""Dropout by random bytes: the right share, the right scale, the mask in the gradient, and nothing outside training."""

import pytest

torch = pytest.importorskip("torch")
from dig_ray.numerics.fast_dropout import dropout  # noqa: E402


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(1_000_003,), (501, 1999)])
def test_share_and_scale(p, shape):
    torch.manual_seed(0)
    x = torch.ones(shape, requires_grad=True)
    out = dropout(x, p, True)
    kept = out.detach() != 0
    assert abs(float(kept.float().mean()) - (1 - p)) < 0.004  # 1/512 from rounding, the rest chance
    assert float(out.detach().mean()) == pytest.approx(1, abs=0.01 / (1 - p))
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(gradient, out.detach())


def test_neighbours_are_dropped_independently():
    torch.manual_seed(0)
    kept = (dropout(torch.ones(800_000), 0.5, True) != 0).float().view(-1, 8)
    together = torch.corrcoef(kept.T) - torch.eye(8)
    assert float(together.abs().max()) < 0.02  # eight values share one draw of the generator


def test_seed_decides_and_nothing_is_dropped_outside_training():
    x = torch.randn(100)
    torch.manual_seed(3)
    first = dropout(x, 0.5, True)
    torch.manual_seed(3)
    assert torch.equal(dropout(x, 0.5, True), first)
    assert not torch.equal(dropout(x, 0.5, True), first)
    assert dropout(x, 0.5, False) is x and dropout(x, 0.0, True) is x
    assert not dropout(x, 1.0, True).any()
