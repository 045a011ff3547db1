"""A slim forward pass for the common decoder family: pre-norm, rotary positions, gated feed-forward (Llama, Mistral, Phi-3, Qwen2, Qwen3).

Decoding a small model is bound by the number of tensor operations and by memory traffic, not by arithmetic. This pass has about a third of
the operations of the general one: keys and values are written into one preallocated buffer, rotary angles are computed once per search,
the prompt needs no mask, and the last layer of the prompt is evaluated only where it is read.

Small plain models are also packed (``slim_weights``). Anything unknown takes the general pass; results differ by rounding only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dig_ray.recommender.decoder.slim_weights import Layer, SlimWeights

if TYPE_CHECKING:
    from torch import Tensor

    from dig_ray.recommender.decoder.prompt_pass import PromptPass

FAMILY = {"LlamaModel", "MistralModel", "Phi3Model", "Qwen2Model", "Qwen3Model"}
SHORT = 128  # tokens of a prompt up to which attention as two plain products is faster than the fused kernel


def is_slim(decoder: Any, longest: int) -> bool:
    """Whether this decoder stack computes what ``SlimDecoder`` computes, for sequences of up to ``longest`` tokens."""
    return (
        in_family(decoder, longest)
        and not decoder.training
        and getattr(decoder.config, "hidden_act", None) == "silu"
    )


def in_family(decoder: Any, longest: int) -> bool:
    """Whether its layers are pre-norm blocks with rotary positions, attending to whole sequences of up to ``longest`` tokens."""
    config = decoder.config
    rope = getattr(config, "rope_parameters", None) or {}
    return (
        type(decoder).__name__ in FAMILY
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
        weights: its layers, packed where that is possible.
        prompts: int64 (B, P), vocabulary ids, padded on the right.
        room: tokens of a row that will be fed after the prompt, at most; memory is taken for them at once.
    """

    def __init__(self, decoder: Any, weights: SlimWeights, prompts: Tensor, room: int) -> None:
        import torch

        self.decoder, self.layers, self.prompts = decoder, weights.layers, prompts
        config = decoder.config
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        capacity = prompts.shape[1] + room
        self.filled = 0
        weight = decoder.norm.weight
        at = torch.arange(capacity, device=prompts.device)[None]
        cos, sin = decoder.rotary_emb(weight[None, None], at)
        half = self.head_dim // 2
        self.cos = cos[0, :, None]  # (positions, 1, head dim)
        self.sin = sin[0, :, None, :half]  # its halves are equal
        self._buffer = weights.buffer if weights.packed else None
        self._first = weights.first
        self._causal: Tensor | None = (
            None  # additive (1, P, P), where attention to a prompt is two plain products
        )
        width = prompts.shape[1]
        if self._buffer is not None and self.heads == self.kv_heads and width <= SHORT:
            self._causal = torch.full((1, width, width), -torch.inf).triu_(1)
        shape = (2, len(self.layers), len(prompts), self.kv_heads, capacity, self.head_dim)
        self.keys, self.values = (
            self._buffer("kv", *shape)
            if self._buffer is not None
            else torch.empty(shape, dtype=weight.dtype, device=prompts.device)
        )

    def prefill(self, last: Tensor, mask: Tensor | None) -> Tensor:
        """Run the prompts; returns the states at column ``last`` (B,), (B, 1, d).

        ``mask`` is what that column may attend to, additive (B, 1, 1, P); None when it is every column. Other columns need none: padding
        comes after all that is real.
        """
        import torch

        width = self.prompts.shape[1]
        rows = torch.arange(len(last), device=last.device)
        return self._run(self.prompts, self.cos[:width], self.sin[:width], mask, (rows, last))

    def take(self, known: PromptPass) -> Tensor:
        """Go on from prompts that were read elsewhere; returns the states at their ends, (B, 1, d)."""
        import torch

        width = self.prompts.shape[1]
        at = known.column[:, None] + torch.arange(width)
        rows = known.row[:, None]
        for number, (key, value) in enumerate(known.layers):
            at = at.clamp(max=key.shape[2] - 1)  # beyond a prompt's end nothing is looked at
            self.keys[number, :, :, :width] = key[rows, :, at].transpose(1, 2)
            self.values[number, :, :, :width] = value[rows, :, at].transpose(1, 2)
        self.filled = width
        return known.ends[:, None]

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
        from torch.nn.functional import scaled_dot_product_attention

        batch, width = tokens.shape
        begin, end = self.filled, self.filled + width
        self.filled = end
        flat = tokens.flatten()
        x = self.decoder.embed_tokens(flat)
        cut = self.heads * self.head_dim
        for number, layer in enumerate(self.layers):
            causal = read is not None and number < len(self.layers) - 1
            if read is None or causal:
                heads = self._project(number, x, flat).view(batch, width, -1, self.head_dim)
                both, value = heads[:, :, : -self.kv_heads], heads[:, :, -self.kv_heads :]
                query, key = self._turn(layer, both, self.heads, cos, sin)
            else:  # one column is read of the prompt's last layer: it alone needs a query, and what comes after
                rows, last = read
                at = rows * width + last
                one = self._project(number, x[at], flat[at], slice(0, cut)).view(batch, 1, -1, self.head_dim)
                query, _ = self._turn(layer, one, self.heads, cos[last, None], sin[last, None])
                heads = self._project(number, x, flat, slice(cut, None)).view(batch, width, -1, self.head_dim)
                _, key = self._turn(layer, heads[:, :, : self.kv_heads], 0, cos, sin)
                value = heads[:, :, self.kv_heads :]
                x = x[at]
            self.keys[number, :, :, begin:end] = key
            self.values[number, :, :, begin:end] = value.transpose(1, 2)
            if begin:
                key = self.keys[number, :, :, :end]
            value = self.values[number, :, :, :end]
            if causal and self._causal is not None:
                seen = self._attend(query, key, value, self._causal, layer.scale)
            elif mask is not None and self._buffer is not None and self.heads == self.kv_heads:
                seen = self._attend(query, key, value, mask, layer.scale)
            else:
                seen = scaled_dot_product_attention(
                    query,
                    key,
                    value,
                    attn_mask=None if causal else mask,
                    is_causal=causal,
                    scale=layer.scale,
                    enable_gqa=self.heads != self.kv_heads,
                )
            x = layer.out(seen.transpose(1, 2).reshape(len(x), -1)).add_(x)
            gate, up = layer.gate_up(layer.mlp_norm(x))
            x = layer.down(gate.mul_(up)).add_(x)
        return self.decoder.norm(x).view(batch, -1, x.shape[1])

    def _project(self, number: int, x: Tensor, tokens: Tensor, part: slice | None = None) -> Tensor:
        """Queries, keys and values of rows (R, width) that hold these tokens, or some columns of them."""
        import torch

        layer = self.layers[number]
        if number or self._first is None:
            return layer.qkv(layer.attention_norm(x), part)
        assert self._buffer is not None
        name = "qkv" if part is None else f"qkv from {part.start}"
        table = self._first if part is None else self._first[:, part]
        return torch.index_select(table, 0, tokens, out=self._buffer(name, len(tokens), table.shape[1]))

    def _turn(
        self, layer: Layer, both: Tensor, queries: int, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Rotary positions of ``queries`` query heads and the key heads after them, (B, T, heads, D), as (B, heads, T, D) each.

        x * cos + rotate_half(x) * sin, where rotate_half gives (-second half, first half).
        """
        import torch

        if hasattr(layer.attention, "q_norm"):
            both = _normed(layer.attention, both, queries)
        half = self.head_dim // 2
        batch, width, heads = both.shape[:3]
        if self._buffer is not None and heads == 2 * queries:
            both = both.unflatten(2, (2, queries))
            query_key = self._buffer("turned", 2, batch, queries, width, self.head_dim)
            cos, sin = cos[..., None, :], sin[..., None, :]
            turned = torch.mul(both, cos, out=query_key.permute(1, 3, 0, 2, 4))
        else:
            turned = both * cos
        turned[..., :half].addcmul_(both[..., half:], sin, value=-1)
        turned[..., half:].addcmul_(both[..., :half], sin)
        if turned.ndim == 5:
            return query_key[0], query_key[1]
        return turned[:, :, :queries].transpose(1, 2), turned[:, :, queries:].transpose(1, 2)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
        """Attention of (B, heads, K, D) to (B, heads, T, D) as two plain products; the mask is added to the (B, heads, K, T) scores."""
        import torch

        assert self._buffer is not None
        (batch, heads, rows, width), columns = query.shape, key.shape[2]
        scores = self._buffer("scores", batch, heads, rows, columns)
        flat = scores.view(batch * heads, rows, columns)
        torch.bmm(query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2), out=flat)
        if scale != 1.0:
            flat.mul_(scale)
        shares = torch.softmax(scores.add_(mask), -1, out=self._buffer("shares", *scores.shape))
        seen = self._buffer("seen", batch * heads, rows, width)
        return torch.bmm(shares.view_as(flat), value.flatten(0, 1), out=seen).view(query.shape)


def _normed(attention: Any, both: Tensor, queries: int) -> Tensor:
    import torch

    return torch.cat([attention.q_norm(both[:, :, :queries]), attention.k_norm(both[:, :, queries:])], dim=2)
