"""A lean forward pass for the common decoder family: pre-norm, rotary positions, gated feed-forward (Llama, Mistral, Phi-3, Qwen2, Qwen3).

Decoding a small model is bound by the number of tensor operations and by memory traffic, not by arithmetic. This pass runs the model's own
modules (so adapters and hooks stay in place) with about half the operations of the general one: keys and values are written into one
preallocated buffer, rotary angles are computed once per search, the prompt needs no mask, and the last layer of the prompt is evaluated
only where it is read. Anything it does not know takes the general pass; results differ by rounding only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

FAMILY = {"LlamaModel", "MistralModel", "Phi3Model", "Qwen2Model", "Qwen3Model"}


def is_slim(decoder: Any, longest: int) -> bool:
    """Whether this decoder stack computes what ``SlimDecoder`` computes, for sequences of up to ``longest`` tokens."""
    config = decoder.config
    rope = getattr(config, "rope_parameters", None) or {}
    return (
        type(decoder).__name__ in FAMILY
        and not decoder.training
        and not _windowed(config, longest)
        and rope.get("rope_type") in {"default", "linear", "llama3"}
        and rope.get("partial_rotary_factor", 1.0) == 1.0
    )


def _windowed(config: Any, longest: int) -> bool:
    """Whether some layer sees only a window that is shorter than the sequence."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    return window is not None and window < longest and (kinds is None or "sliding_attention" in kinds)


class SlimDecoder:
    """The key-value state of one batch.

    Args:
        decoder: a stack for which ``is_slim`` holds.
        prompts: int64 (B, P) vocabulary ids, padded on the right.
        room: tokens per row to be fed after the prompt.
    """

    def __init__(self, decoder: Any, prompts: Tensor, room: int) -> None:
        import torch

        self.decoder = decoder
        self.prompts = prompts
        config = decoder.config
        self.heads = config.num_attention_heads
        self.kv_heads = config.num_key_value_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.capacity = prompts.shape[1] + room
        self.filled = 0
        weight = decoder.norm.weight
        at = torch.arange(self.capacity, device=prompts.device)[None]
        cos, sin = decoder.rotary_emb(weight[None, None], at)
        half = self.head_dim // 2
        self.cos = cos[0, :, None]  # (positions, 1, head dim)
        self.sin = torch.cat([-sin[0, :, None, :half], sin[0, :, None, half:]], dim=-1)
        shape = (2, len(decoder.layers), len(prompts), self.capacity, self.kv_heads, self.head_dim)
        self.keys, self.values = torch.empty(shape, dtype=weight.dtype, device=prompts.device)

    def prefill(self, last: Tensor, mask: Tensor | None) -> Tensor:
        """Run the prompts; returns the states at column ``last`` (B,), (B, 1, d).

        ``mask`` is what that column may attend to, additive (B, 1, 1, P); None when it is every column. Other columns need none: padding
        comes after all that is real.
        """
        import torch

        width = self.prompts.shape[1]
        return self._run(
            self.prompts,
            self.cos[:width],
            self.sin[:width],
            mask,
            (torch.arange(len(last), device=last.device), last),
        )

    def feed(self, tokens: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Append (B, K) tokens at positions (B, K) under an additive mask (B, 1, K, columns so far + K); returns (B, K, d)."""
        return self._run(tokens, self.cos[positions], self.sin[positions], mask, None)

    def _run(
        self,
        tokens: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor | None,
        read: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        from torch.nn.functional import scaled_dot_product_attention, silu

        heads, begin = self.heads, self.filled
        batch, width = tokens.shape
        self.filled = end = begin + width
        layers = self.decoder.layers
        x = self.decoder.embed_tokens(tokens)
        for number, layer in enumerate(layers):
            attention = layer.self_attn
            turned, value = self._project(attention, _rms_norm(layer.input_layernorm, x), cos, sin)
            query, key = turned[:, :, :heads], turned[:, :, heads:]
            self.keys[number, :, begin:end] = key
            self.values[number, :, begin:end] = value
            causal = read is not None
            if begin:
                key, value = self.keys[number, :, :end], self.values[number, :, :end]
            if (
                read is not None and number == len(layers) - 1
            ):  # nothing but the last column is read of the last layer
                query, x, causal = query[read][:, None], x[read][:, None], False
            seen = scaled_dot_product_attention(
                query.transpose(1, 2),
                key.transpose(1, 2),
                value.transpose(1, 2),
                attn_mask=None if causal else mask,
                is_causal=causal,
                scale=attention.scaling,
                enable_gqa=heads != self.kv_heads,
            )
            x = attention.o_proj(seen.transpose(1, 2).flatten(2)).add_(x)
            block = layer.mlp
            h = _rms_norm(layer.post_attention_layernorm, x)
            if hasattr(block, "gate_up_proj"):
                gate, up = block.gate_up_proj(h).chunk(2, dim=-1)
                gate = block.activation_fn(gate)
            else:
                gate, up = block.gate_proj(h), block.up_proj(h)
                gate = (
                    silu(gate, inplace=True)
                    if self.decoder.config.hidden_act == "silu"
                    else block.act_fn(gate)
                )
            x = block.down_proj(gate.mul_(up)).add_(x)
        return _rms_norm(self.decoder.norm, x)

    def _project(self, attention: Any, h: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """Rotated queries and keys (B, T, heads + kv heads, head dim), and values (B, T, kv heads, head dim)."""
        import torch

        size = (*h.shape[:2], -1, self.head_dim)
        if hasattr(attention, "qkv_proj"):
            split = attention.qkv_proj(h).view(size)
            both, value = split[:, :, : -self.kv_heads], split[:, :, -self.kv_heads :]
        else:
            query, key = attention.q_proj(h).view(size), attention.k_proj(h).view(size)
            if hasattr(attention, "q_norm"):
                query, key = attention.q_norm(query), attention.k_norm(key)
            both, value = torch.cat([query, key], dim=2), attention.v_proj(h).view(size)
        # rotate_half(x) * sin is x with its halves swapped, times sin with its first half negated
        swapped = both.roll(self.head_dim // 2, dims=-1)
        return (both * cos).addcmul_(swapped, sin), value


def _rms_norm(norm: Any, x: Tensor) -> Tensor:
    """The module's own RMS norm, in three passes over the data instead of six."""
    import torch

    if x.dtype != torch.float32 or norm.weight.dtype != torch.float32:
        return norm(x)
    scale = (
        torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        .square_()
        .mul_(1 / x.shape[-1])
        .add_(norm.variance_epsilon)
    )
    return (x * scale.rsqrt_()).mul_(norm.weight)
