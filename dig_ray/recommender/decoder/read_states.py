"""A training pass whose last layer runs only where its states are read.

The log-probabilities of rollouts are read at the end of the prompt and at the rollouts' own tokens, a tenth of all there is. Of the other
tokens the last layer needs keys and values alone: no query, no attention, no feed-forward. That is a fifth of a small model's work,
forward and backward. Unknown architectures run whole and are read afterwards; results differ by rounding only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dig_ray.recommender.decoder.slim_block import additive, has_slim_blocks, slim_stack
from dig_ray.recommender.decoder.slim_decoder import in_family

if TYPE_CHECKING:
    from torch import Tensor


def read_states(decoder: Any, ids: Tensor, positions: Tensor, mask: Tensor, reads: Tensor) -> Tensor:
    """Last hidden states at some columns, (R * Q, d), differentiable.

    Args:
        decoder: a Hugging Face decoder stack, its dropout off.
        ids: int64 (R, T), vocabulary ids of R rows.
        positions: int64 (R, T), each token's position in its own document, from 0.
        mask: bool (R, 1, T, T), what each column may attend to; at least one column each.
        reads: int64 (R, Q), the columns of each row that are read.
    """
    import torch

    rows = torch.arange(len(ids), device=ids.device)[:, None]
    if not in_family(decoder, ids.shape[1]) or getattr(decoder, "gradient_checkpointing", False):
        whole = decoder(input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False)
        return whole.last_hidden_state[rows, reads].flatten(0, 1)
    x = decoder.embed_tokens(ids)
    if has_slim_blocks(decoder):
        return slim_stack(decoder, x, positions, additive(mask, x.dtype), reads)[0]
    turn = decoder.rotary_emb(x, position_ids=positions)
    layers = decoder.layers[: decoder.config.num_hidden_layers]
    for layer in layers[:-1]:
        x = layer(x, attention_mask=mask, position_ids=positions, position_embeddings=turn, use_cache=False)
    return decoder.norm(
        _read(layers[-1], x, turn, mask[rows, :, reads].transpose(1, 2), rows, reads)
    ).flatten(0, 1)


def can_go_on(decoder: Any, longest: int) -> bool:
    """Whether ``read_prompts`` and ``read_more`` can read sequences of up to ``longest`` tokens with this stack."""
    return (
        in_family(decoder, longest)
        and not getattr(decoder, "gradient_checkpointing", False)
        and has_slim_blocks(decoder)
    )


def read_more(
    decoder: Any, ids: Tensor, positions: Tensor, mask: Tensor, past: list[tuple[Tensor, Tensor]]
) -> Tensor:
    """Last hidden states (R * K, d) of ids (R, K) after columns whose keys and values by layer are known.

    Args:
        decoder: a stack for which ``can_go_on`` holds.
        ids: int64 (R, K), vocabulary ids.
        positions: int64 (R, K), each token's position in its own document, from 0.
        mask: bool (R, 1, K, columns before + K), what each of these columns may attend to.
        past: keys and values of the columns before, (R, H, columns before, D) each, by layer.
    """
    x = decoder.embed_tokens(ids)
    return slim_stack(decoder, x, positions, additive(mask, x.dtype), past=past)[0]


def _read(
    layer: Any, x: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor, rows: Tensor, reads: Tensor
) -> Tensor:
    """The layer's output (R, Q, d) at the columns that are read; ``mask`` is theirs, (R, 1, Q, T)."""
    from torch.nn.functional import scaled_dot_product_attention

    attention = layer.self_attn
    normed = layer.input_layernorm(x)
    cos, sin = turn
    query, key, value = _heads(attention, normed[rows, reads], normed)
    seen = scaled_dot_product_attention(
        _turned(query, cos[rows, reads], sin[rows, reads]),
        _turned(key, cos, sin),
        value,
        attn_mask=mask,
        scale=attention.scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    x = x[rows, reads] + attention.o_proj(seen.transpose(1, 2).flatten(2))
    return x + layer.mlp(layer.post_attention_layernorm(x))  # type: ignore[no-any-return]


def _heads(attention: Any, one: Tensor, every: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries of (R, Q, d), keys and values of (R, T, d), as (R, heads, columns, D)."""
    import torch

    size = attention.head_dim
    fused = getattr(attention, "qkv_proj", None)
    if fused is None:
        query, key, value = attention.q_proj(one), attention.k_proj(every), attention.v_proj(every)
    else:
        cut = attention.config.num_attention_heads * size
        if type(fused) is torch.nn.Linear:
            linear, weight, bias = torch.nn.functional.linear, fused.weight, fused.bias
            query = linear(one, weight[:cut], None if bias is None else bias[:cut])
            both = linear(every, weight[cut:], None if bias is None else bias[cut:])
        else:  # an adapter's
            query, both = fused(one)[..., :cut], fused(every)[..., cut:]
        key, value = both.chunk(2, dim=-1)
    query, key, value = (heads.unflatten(-1, (-1, size)) for heads in (query, key, value))
    if hasattr(attention, "q_norm"):
        query, key = attention.q_norm(query), attention.k_norm(key)
    return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)


def _turned(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions of (R, heads, columns, D): x * cos + rotate_half(x) * sin."""
    import torch

    low, high = heads.chunk(2, dim=-1)
    return heads * cos[:, None] + torch.cat([-high, low], dim=-1) * sin[:, None]
