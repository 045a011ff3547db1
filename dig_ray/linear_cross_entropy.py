"""The softmax over a whole catalogue as a loss, without its table of logits."""

from __future__ import annotations

import math
from typing import Any

import torch


class _LinearCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of ``softmax(queries @ keys.T)`` whose gradient is taken while the logits are at hand.

    The (B, N) logits never exist at once: a block of rows is scored, reduced, turned into its gradient in place and
    dropped. Same value and gradient as the plain form, but memory is one block and far fewer passes over it.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, queries: torch.Tensor, keys: torch.Tensor, targets: torch.Tensor, block: int
    ) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float32, device=queries.device)
        grad_queries, grad_keys = torch.empty_like(queries), torch.zeros_like(keys)
        count = len(targets)
        for low in range(0, count, block):
            part, want = queries[low : low + block], targets[low : low + block, None]
            scores = part @ keys.T
            norm = torch.logsumexp(scores, dim=1, keepdim=True)
            total += (norm - scores.gather(1, want)).sum()
            scores.sub_(norm).exp_()
            scores.scatter_add_(1, want, torch.full_like(want, -1, dtype=scores.dtype))
            scores.mul_(1.0 / count)
            grad_queries[low : low + block] = scores @ keys
            grad_keys.addmm_(scores.T, part)
        ctx.save_for_backward(grad_queries, grad_keys)
        return total / count

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        grad_queries, grad_keys = ctx.saved_tensors
        return grad_queries * grad, grad_keys * grad, None, None


def linear_cross_entropy(
    queries: torch.Tensor, keys: torch.Tensor, targets: torch.Tensor, block: int | None = None
) -> torch.Tensor:
    """Mean over rows of ``-log softmax(queries @ keys.T)[target]``.

    Args:
        queries: float ``(B, D)``.
        keys: float ``(N, D)``.
        targets: int64 ``(B,)``.
        block: rows scored at once; by default about 4 million scores (16 MB) on a CPU, 64 million elsewhere.
    """
    if block is None:
        budget = 1 << (22 if queries.device.type == "cpu" else 26)
        block = max(1, math.floor(budget / max(1, len(keys))))
    return _LinearCrossEntropy.apply(queries, keys, targets, block)
