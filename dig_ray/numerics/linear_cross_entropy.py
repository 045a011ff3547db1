"""The softmax over a whole catalogue as a loss, without its table of logits."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch

NEVER_OVERFLOWS = 40.0
"""A logit's size up to which neither its ``exp`` nor a sum of millions of them leaves the range of a float."""
Precision = Literal["float32", "bfloat16"]


class _LinearCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of ``softmax(queries @ keys.T)`` whose gradient is taken while the logits are at hand.

    The (B, N) logits never exist at once: a block of rows is scored, turned into its part of the gradient in place and dropped. Every pass
    over the logits costs about as much as one of the three products in bfloat16, so there are as few as can be: ``exp`` and its sum. The
    normalizer and the target's part are laid on the small sides of the products, and the largest logit is looked for only where the
    lengths of the vectors allow one that ``exp`` could not take.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        queries: torch.Tensor,
        keys: torch.Tensor,
        targets: torch.Tensor,
        block: int,
        low: torch.dtype | None,
    ) -> torch.Tensor:
        count = len(targets)
        own = keys[targets]
        total = -(queries * own).sum(dtype=torch.float32)
        grad_queries = own / -count
        grad_keys: torch.Tensor | None = None
        rounded, table = (queries, keys) if low is None else (queries.to(low), keys.to(low))
        small = count > 0 and bool(_longest(queries) * _longest(keys) <= NEVER_OVERFLOWS)
        for start in range(0, count, block):
            part = rounded[start : start + block]
            scores = part @ table.T
            if not small:
                top = scores.amax(dim=1, keepdim=True)
                scores.sub_(top)
                total += top.sum(dtype=torch.float32)
            # added up in float32 whatever the scores are, and only then rounded
            norm = scores.exp_().sum(dim=1, keepdim=True).float()
            total += norm.log().sum()
            share = 1 / (norm * count)
            grad_queries[start : start + block] += (scores @ table) * share
            of_keys = scores.T @ (part * share).to(part.dtype)
            grad_keys = of_keys.to(keys.dtype) if grad_keys is None else grad_keys.add_(of_keys)
        grad_keys = torch.zeros_like(keys) if grad_keys is None else grad_keys
        grad_keys.index_add_(0, targets, queries, alpha=-1 / max(1, count))
        ctx.grads = grad_queries, grad_keys
        return total / count

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        grad_queries, grad_keys = ctx.grads
        del ctx.grads  # scaled in place: there is no second backward pass
        return grad_queries.mul_(grad), grad_keys.mul_(grad), None, None, None


def _longest(rows: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(rows, dim=1).amax()


class _UnitRows(torch.autograd.Function):
    """``rows / |rows|`` in as few passes over a catalogue's vectors as there can be, forward and backward."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        inverse = torch.linalg.vector_norm(rows, dim=-1, keepdim=True).clamp_(min=1e-12).reciprocal_()
        unit = rows * inverse
        ctx.save_for_backward(unit, inverse)
        return unit

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        unit, inverse = ctx.saved_tensors
        along = torch.linalg.vecdot(grad, unit).unsqueeze(-1)
        return torch.addcmul(grad, unit, along, value=-1).mul_(inverse)


def unit_rows(rows: torch.Tensor) -> torch.Tensor:
    """Vectors of length 1, ``(..., D) -> (..., D)``; zero stays zero. The same as ``normalize`` of torch, with half its passes."""
    unit: torch.Tensor = _UnitRows.apply(rows)
    return unit


def linear_cross_entropy(
    queries: torch.Tensor,
    keys: torch.Tensor,
    targets: torch.Tensor,
    block: int | None = None,
    precision: Precision = "float32",
) -> torch.Tensor:
    """Mean over rows of ``-log softmax(queries @ keys.T)[target]``.

    Args:
        queries: float ``(B, D)``.
        keys: float ``(N, D)``.
        targets: int64 ``(B,)``.
        block: rows scored at once; by default about 4 million scores (16 MB) on a CPU, 64 million elsewhere.
        precision: matrix products' and logits' precision; ``bfloat16`` leaves the target's own score as exact as the input, the loss
            is within about .01, and a processor that has it (AMX, AVX512-BF16, most GPUs) takes half the time or less.
    """
    if block is None:
        budget = 1 << ((23 if precision == "bfloat16" else 22) if queries.device.type == "cpu" else 26)
        block = max(1, math.floor(budget / max(1, len(keys))))
    with torch.autocast(queries.device.type, enabled=False):
        return _LinearCrossEntropy.apply(
            queries.float() if queries.dtype in (torch.bfloat16, torch.float16) else queries,
            keys, targets, block, torch.bfloat16 if precision == "bfloat16" else None,
        )  # fmt: skip
