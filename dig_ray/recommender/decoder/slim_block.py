"""A decoder block with its gradient written out, for training small plain models on a CPU.

A small model's step is bound by passes over memory, not by arithmetic: a third of it is matrix products. Here a block is one function to
autograd: attention is plain products, results are written where the next one reads them, and what is cheap to compute anew is not kept.
Results differ from the block's own modules by rounding only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

from dig_ray.recommender.decoder.slim_weights import is_plain


def has_slim_blocks(decoder: Any) -> bool:
    """Whether ``slim_block`` computes what the blocks of this stack (of ``slim_decoder.FAMILY``) compute."""
    config = decoder.config
    weights = list(decoder.layers.parameters())
    return (
        config.num_attention_heads == config.num_key_value_heads
        and getattr(config, "hidden_act", None) == "silu"
        and all(w.device.type == "cpu" and w.dtype in (torch.float32, torch.float64) for w in weights)
        and not torch.is_autocast_enabled("cpu")
        and all(
            is_plain(module) and getattr(module, "bias", None) is None
            for layer in decoder.layers
            for module in (*layer.self_attn.children(), *layer.mlp.children())
            if any(True for _ in module.parameters())
        )
    )


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Of a boolean mask, what is added to the scores of attention: 0 where a column sees another, else minus infinity; in its shape."""
    return torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, -torch.inf)


def slim_stack(
    decoder: Any,
    x: Tensor,
    positions: Tensor,
    mask: Tensor,
    reads: Tensor | None = None,
    past: Sequence[tuple[Tensor, Tensor]] | None = None,
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Last hidden states, (R * T, d), or (R * Q, d) at columns ``reads`` (R, Q); and every layer's keys and values, as ``slim_block``.

    Args:
        decoder: a stack for which ``has_slim_blocks`` holds.
        x: embedded tokens, (R, T, d).
        positions: int64 (R, T), each token's position in its own document, from 0.
        mask: added to the scores of attention, (R, 1, T, columns of ``past`` + T), see ``additive``.
        reads: int64 (R, Q), the columns of each row that are read; None reads all.
        past: keys and values of columns before these, (R, H, P, D) each, by layer.
    """
    rows, width = positions.shape
    turn = decoder.rotary_emb(x, position_ids=positions)
    half = turn[0].shape[-1] // 2
    cos, sin = (angles[..., :half].expand(rows, -1, -1).contiguous() for angles in turn)
    x = x.flatten(0, 1)
    layers = decoder.layers[: decoder.config.num_hidden_layers]
    known: list[tuple[Tensor, Tensor]] = []
    for number, layer in enumerate(layers):
        at = None
        if reads is not None and number == len(layers) - 1:
            begins = torch.arange(rows)[:, None]
            mask = mask[begins, :, reads].transpose(1, 2)
            at = (reads + begins * width).flatten()
        x, *own = slim_block(layer, x, (cos, sin), mask, at, None if past is None else past[number])
        known.append((own[0], own[1]))
    return decoder.norm(x), known


def slim_block(
    layer: Any,
    x: Tensor,
    turn: tuple[Tensor, Tensor],
    mask: Tensor,
    reads: Tensor | None = None,
    past: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The block's output, (R * T, d), or (R * Q, d) at the columns that are read, and its keys and values, (R, H, T, D) each.

    All are differentiable in ``x``, ``past`` and the weights.

    Args:
        layer: a layer of a stack for which ``has_slim_blocks`` holds.
        x: (R * T, d), the states that enter the block.
        turn: cos and sin of the rotary angles, (R, T, D / 2) each.
        mask: added to the scores of attention, (R, 1, T or Q, columns of ``past`` + T).
        reads: int64 (R * Q,), rows of ``x``, equally many of each R and in their order; None reads all.
        past: keys and values (R, H, P, D) of columns before these.
    """
    attention, mlp = layer.self_attn, layer.mlp
    qkv = _weight(attention, "qkv_proj", "q_proj", "k_proj", "v_proj")
    gate_up = _weight(mlp, "gate_up_proj", "gate_proj", "up_proj")
    first, second = layer.input_layernorm, layer.post_attention_layernorm
    out: tuple[Tensor, Tensor, Tensor] = _Block.apply(
        x,
        first.weight,
        qkv,
        attention.o_proj.weight,
        second.weight,
        gate_up,
        mlp.down_proj.weight,
        *turn,
        *(past or (None, None)),
        mask,
        reads,
        attention.head_dim,
        attention.scaling,
        (first.variance_epsilon, second.variance_epsilon),
    )  # type: ignore[no-untyped-call]
    return out


def _weight(module: Any, fused: str, *parts: str) -> Tensor:
    if hasattr(module, fused):
        whole: Tensor = getattr(module, fused).weight
        return whole
    return torch.cat([getattr(module, part).weight for part in parts])


class _Block(torch.autograd.Function):
    """y = x + attention(norm(x)) Wo'; y + (silu(gate) * up) Wd' with gate and up of norm(y)."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: Tensor,
        norm: Tensor,
        qkv: Tensor,
        out: Tensor,
        norm_two: Tensor,
        gate_up: Tensor,
        down: Tensor,
        cos: Tensor,
        sin: Tensor,
        past_key: Tensor | None,
        past_value: Tensor | None,
        mask: Tensor,
        reads: Tensor | None,
        size: int,
        scale: float,
        eps: tuple[float, float],
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows, width = cos.shape[:2]
        cut = out.shape[1]
        inverse = _inverse(x, eps[0])
        normed = (x * inverse).mul_(norm)
        asked, residual = (normed, x) if reads is None else (normed[reads], x[reads])
        query = torch.mm(asked, qkv[:cut].t()).view(rows, -1, cut // size, size)
        query = _turned(query, *_angles(cos, sin, reads, rows, scale))
        key_value = torch.mm(normed, qkv[cut:].t()).view(rows, width, 2, cut // size, size)
        key = _turned(key_value[:, :, 0], cos, sin)
        value = key_value[:, :, 1].transpose(1, 2).contiguous()
        own = key, value
        if past_key is not None and past_value is not None:
            key, value = torch.cat([past_key, key], 2), torch.cat([past_value, value], 2)
        scores = torch.bmm(query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2))
        scores.view(rows, -1, *scores.shape[1:]).add_(mask)
        shares = torch.softmax(scores, -1)
        del scores
        seen = torch.bmm(shares, value.flatten(0, 1)).view_as(query).transpose(1, 2).reshape(-1, cut)
        y = torch.addmm(residual, seen, out.t())
        inverse_two = _inverse(y, eps[1])
        gates = torch.mm((y * inverse_two).mul_(norm_two), gate_up.t())
        gate, up = gates.chunk(2, 1)
        opened = silu(gate)
        z = torch.addmm(y, opened * up, down.t())
        ctx.save_for_backward(
            x, norm, qkv, out, norm_two, gate_up, down, cos, sin, reads, inverse, query, key, value, shares, seen, y,
            inverse_two, gates, opened,
        )  # fmt: skip
        ctx.scale = scale
        ctx.set_materialize_grads(False)
        return z, *own

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, d_z: Tensor | None, d_own_key: Tensor | None, d_own_value: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        (
            x, norm, qkv, out, norm_two, gate_up, down, cos, sin, reads, inverse, query, key, value, shares, seen, y,
            inverse_two, gates, opened,
        ) = ctx.saved_tensors  # fmt: skip
        d_z = torch.zeros_like(y) if d_z is None else d_z.contiguous()
        (rows, width), (heads, columns, size) = cos.shape[:2], key.shape[1:]
        cut, before = heads * size, columns - width

        # feed-forward
        gate, up = gates.chunk(2, 1)
        d_down = torch.mm(d_z.t(), opened * up)
        d_hidden = torch.mm(d_z, down)
        d_gates = torch.empty_like(gates)
        d_gate, d_up = d_gates.chunk(2, 1)
        torch.mul(d_hidden, opened, out=d_up)
        torch.ops.aten.silu_backward.grad_input(d_hidden.mul_(up), gate, grad_input=d_gate)
        unit = y * inverse_two
        d_gate_up = torch.mm(d_gates.t(), unit * norm_two)
        d_y, d_norm_two = _through_norm(torch.mm(d_gates, gate_up), unit, inverse_two, norm_two)
        d_y += d_z

        # attention
        d_out = torch.mm(d_y.t(), seen)
        d_seen = torch.mm(d_y, out).view(rows, -1, heads, size).transpose(1, 2).flatten(0, 1)
        d_value = torch.bmm(shares.transpose(1, 2), d_seen).view_as(value)
        d_shares = torch.bmm(d_seen, value.flatten(0, 1).transpose(1, 2))
        d_scores = torch.ops.aten._softmax_backward_data(d_shares, shares, -1, shares.dtype)
        d_query = torch.bmm(d_scores, key.flatten(0, 1)).view_as(query)
        d_key = torch.bmm(d_scores.transpose(1, 2), query.flatten(0, 1)).view_as(key)
        d_asked = x.new_empty(rows, query.shape[2], heads, size)
        _turn_back(d_query, *_angles(cos, sin, reads, rows, ctx.scale), d_asked)
        d_asked = d_asked.view(-1, cut)
        d_past = (d_key[:, :, :before], d_value[:, :, :before]) if before else (None, None)
        d_key, d_value = d_key[:, :, before:], d_value[:, :, before:]
        if d_own_key is not None:
            d_key += d_own_key
        if d_own_value is not None:
            d_value += d_own_value
        d_both = x.new_empty(rows, width, 2, heads, size)
        _turn_back(d_key, cos, sin, d_both[:, :, 0])
        d_both[:, :, 1] = d_value.transpose(1, 2)
        d_both = d_both.view(len(x), 2 * cut)
        unit = x * inverse
        normed = unit * norm
        d_qkv = torch.empty_like(qkv)
        torch.mm(d_asked.t(), normed if reads is None else normed[reads], out=d_qkv[:cut])
        torch.mm(d_both.t(), normed, out=d_qkv[cut:])
        d_normed = torch.mm(d_both, qkv[cut:])
        if reads is None:
            d_normed.addmm_(d_asked, qkv[:cut])
        else:
            d_normed.index_add_(0, reads, torch.mm(d_asked, qkv[:cut]))
        d_x, d_norm = _through_norm(d_normed, unit, inverse, norm)
        if reads is None:
            d_x += d_y
        else:
            d_x.index_add_(0, reads, d_y)
        return d_x, d_norm, d_qkv, d_out, d_norm_two, d_gate_up, d_down, None, None, *d_past, *[None] * 5


def _inverse(x: Tensor, eps: float) -> Tensor:
    """1 / the root of each row's mean square, (N, 1)."""
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return length.square_().div_(x.shape[1]).add_(eps).rsqrt_()


def _through_norm(d_normed: Tensor, unit: Tensor, inverse: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x * inverse(x) * norm with respect to x and norm, where ``unit`` is x * inverse; overwrites ``d_normed``."""
    d_norm = torch.linalg.vecdot(d_normed, unit, dim=0)
    d_unit = d_normed.mul_(norm)
    along = torch.linalg.vecdot(d_unit, unit)[:, None].div_(unit.shape[1])
    return d_unit.addcmul_(unit, along, value=-1).mul_(inverse), d_norm


def _angles(cos: Tensor, sin: Tensor, reads: Tensor | None, rows: int, scale: float) -> tuple[Tensor, Tensor]:
    """Of (R, T, D / 2) those at rows of the (R * T) flat columns, as (R, Q, D / 2); times what queries are scaled by."""
    if reads is not None:
        cos, sin = (one.flatten(0, 1)[reads].view(rows, -1, one.shape[2]) for one in (cos, sin))
    return cos * scale, sin * scale


def _turned(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions of (R, T, H, D) by angles (R, T, D / 2), as (R, H, T, D)."""
    rows, width, count, size = heads.shape
    out = heads.new_empty(rows, count, width, size)
    to_low, to_high = out.transpose(1, 2).chunk(2, -1)
    low, high = heads.chunk(2, -1)
    cos, sin = cos[:, :, None], sin[:, :, None]
    torch.mul(low, cos, out=to_low).addcmul_(high, sin, value=-1)
    torch.mul(high, cos, out=to_high).addcmul_(low, sin)
    return out


def _turn_back(gradient: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """From the gradient (R, H, T, D) of what was turned to that of what it was before, ``out`` (R, T, H, D)."""
    low, high = gradient.transpose(1, 2).chunk(2, -1)
    to_low, to_high = out.chunk(2, -1)
    cos, sin = cos[:, :, None], sin[:, :, None]
    torch.mul(low, cos, out=to_low).addcmul_(high, sin)
    torch.mul(high, cos, out=to_high).addcmul_(low, sin, value=-1)
