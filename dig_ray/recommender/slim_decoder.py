"""A lean forward pass for the common decoder family: pre-norm, rotary positions, gated feed-forward (Llama, Mistral, Phi-3, Qwen2, Qwen3).

Decoding a small model is bound by the number of tensor operations and by memory traffic, not by arithmetic. This pass has about a third of
the operations of the general one: keys and values are written into one preallocated buffer, rotary angles are computed once per search,
the prompt needs no mask, and the last layer of the prompt is evaluated only where it is read.

Small plain models are also packed: query, key and value are one matrix, norms are folded in, matrices lie as the product reads them (up to
4x faster for a few rows on a CPU), and results go into buffers that are used again (fresh memory costs as much as the product that fills
it). Otherwise the model's own modules run, so that adapters stay in place. Anything unknown takes the general pass; results differ by
rounding only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

FAMILY = {"LlamaModel", "MistralModel", "Phi3Model", "Qwen2Model", "Qwen3Model"}
MOST_BUFFERS = 64
TABLE_AT_MOST = 8192  # tokens
SHORT = 128  # tokens of a prompt up to which attention as two plain products is faster than the fused kernel
PACK_AT_MOST = 32_000_000  # parameters; a packed copy of a larger model is not worth its memory


def is_slim(decoder: Any, longest: int) -> bool:
    """Whether this decoder stack computes what ``SlimDecoder`` computes, for sequences of up to ``longest`` tokens."""
    config = decoder.config
    rope = getattr(config, "rope_parameters", None) or {}
    return (
        type(decoder).__name__ in FAMILY
        and not decoder.training
        and not _windowed(config, longest)
        and getattr(config, "hidden_act", None) == "silu"
        and rope.get("rope_type") in {"default", "linear", "llama3"}
        and rope.get("partial_rotary_factor", 1.0) == 1.0
    )


def _windowed(config: Any, longest: int) -> bool:
    """Whether some layer sees only a window that is shorter than the sequence."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    return window is not None and window < longest and (kinds is None or "sliding_attention" in kinds)


@dataclass
class _Layer:
    """One block as functions of rows (R, width): normed input to query-key-value, attention to the residual, and so on."""

    attention_norm: Callable[[Any], Any]
    qkv: Callable[
        ..., Any
    ]  # of rows, and of a slice of its columns where not all are wanted (packed layers only)
    out: Callable[[Any], Any]
    mlp_norm: Callable[[Any], Any]
    gate_up: Callable[[Any], tuple[Any, Any]]
    down: Callable[[Any], Any]
    attention: Any
    scale: float  # of query times key; 1 where the query's weights hold it


class SlimWeights:
    """The layers of a stack, packed where that is possible; rebuilt by ``of`` when the model's weights have changed since."""

    def __init__(self, decoder: Any) -> None:
        self.version = _version(decoder)
        self.packed = _packable(decoder)
        self._buffers: dict[tuple[Any, ...], Tensor] = {}
        self.layers: list[_Layer] = [
            _packed_layer(layer, self.buffer) if self.packed else _module_layer(layer)
            for layer in decoder.layers
        ]

        # Query, key and value of the first layer depend on the token alone: a table, where the vocabulary is small
        self.first: Tensor | None = None
        embedding = decoder.embed_tokens
        if self.packed and _is_plain(embedding) and embedding.num_embeddings <= TABLE_AT_MOST:
            first = self.layers[0]
            self.first = first.qkv(first.attention_norm(embedding.weight.detach())).clone()
            self._buffers.clear()

    def buffer(self, name: str, *shape: int) -> Tensor:
        """Memory for one intermediate result, the same at every call with one name and shape. Not for use by two threads at once."""
        import torch

        key = (name, *shape)
        if key not in self._buffers:
            if len(self._buffers) > MOST_BUFFERS:  # other batch shapes; only the latest are worth keeping
                self._buffers.clear()
            self._buffers[key] = torch.empty(shape)
        return self._buffers[key]

    @staticmethod
    def of(decoder: Any, known: SlimWeights | None) -> SlimWeights:
        """``known`` if it is still what the model holds."""
        return known if known is not None and known.version == _version(decoder) else SlimWeights(decoder)


def _version(decoder: Any) -> list[tuple[int, int]]:
    """Changes with every in-place update, move or replacement of a weight."""
    return [(p.data_ptr(), p._version) for p in decoder.parameters()]


def _is_plain(module: Any) -> bool:
    """Whether the module is torch's own and nothing is hooked to it."""
    import torch

    return type(module) in (torch.nn.Linear, torch.nn.Embedding) and not (
        module._forward_hooks or module._forward_pre_hooks
    )


def _packable(decoder: Any) -> bool:
    import torch

    plain = all(
        _is_plain(m)
        for layer in decoder.layers
        for m in (*layer.self_attn.children(), *layer.mlp.children())
        if getattr(m, "weight", None) is not None and m.weight.ndim == 2 or hasattr(m, "base_layer")
    )
    weights = list(decoder.layers.parameters())
    size = sum(w.numel() for w in weights)
    return (
        plain
        and size <= PACK_AT_MOST
        and all(w.dtype == torch.float32 and w.device.type == "cpu" for w in weights)
    )


def _packed_layer(layer: Any, buffer: Callable[..., Tensor]) -> _Layer:
    import torch

    attention, mlp = layer.self_attn, layer.mlp
    fused = getattr(attention, "qkv_proj", None)
    qkv = [fused] if fused is not None else [attention.q_proj, attention.k_proj, attention.v_proj]
    scale = attention.scaling if hasattr(attention, "q_norm") else 1.0  # such a norm would undo it
    columns = None
    if scale == 1.0:
        columns = torch.ones(sum(m.weight.shape[0] for m in qkv))
        columns[: attention.o_proj.weight.shape[1]] = (
            attention.scaling
        )  # queries come first, as wide as the output
    if hasattr(mlp, "gate_up_proj"):
        halves = mlp.gate_up_proj.weight.detach().chunk(2)
    else:
        halves = (mlp.gate_proj.weight.detach(), mlp.up_proj.weight.detach())
    norm = layer.post_attention_layernorm
    gate, up = (
        _matrix(buffer, name, [half], [None], norm) for name, half in zip(("gate", "up"), halves, strict=True)
    )

    def gate_up(rows: Tensor) -> tuple[Tensor, Tensor]:
        return torch.nn.functional.silu(gate(rows), inplace=True), up(rows)

    return _Layer(
        attention_norm=_unit(buffer, layer.input_layernorm),
        qkv=_matrix(
            buffer, "qkv", [m.weight for m in qkv], [m.bias for m in qkv], layer.input_layernorm, columns
        ),
        out=_matrix(buffer, "out", [attention.o_proj.weight], [attention.o_proj.bias]),
        mlp_norm=_unit(buffer, layer.post_attention_layernorm),
        gate_up=gate_up,
        down=_matrix(buffer, "down", [mlp.down_proj.weight], [mlp.down_proj.bias]),
        attention=attention,
        scale=scale,
    )


def _matrix(
    buffer: Callable[..., Tensor],
    name: str,
    weights: list[Tensor],
    biases: list[Tensor | None],
    norm: Any = None,
    columns: Tensor | None = None,
) -> Callable[..., Tensor]:
    """Several linear maps as one product into a buffer, or a slice of its columns.

    What can be multiplied in is: the weight and sqrt(width) of the norm before it, and a factor for each column of the result.
    """
    import torch

    weight = torch.cat([w.detach() for w in weights])
    if norm is not None:
        weight = weight * (norm.weight.detach() * norm.weight.shape[0] ** 0.5)
    if columns is not None:
        weight = weight * columns[:, None]
    turned = weight.t().contiguous()
    bias: Tensor | None = None
    if any(b is not None for b in biases):
        pairs = zip(weights, biases, strict=True)
        bias = torch.cat([torch.zeros(len(w)) if b is None else b.detach() for w, b in pairs])
        if columns is not None:
            bias = bias * columns

    def run(rows: Tensor, part: slice | None = None) -> Tensor:
        matrix, add, called = turned, bias, name
        if part is not None:
            matrix, add = turned[:, part], None if bias is None else bias[part]
            called = f"{name} from {part.start}"
        out = buffer(called, len(rows), matrix.shape[1])
        return torch.mm(rows, matrix, out=out) if add is None else torch.addmm(add, rows, matrix, out=out)

    return run


def _unit(buffer: Callable[..., Tensor], norm: Any) -> Callable[[Tensor], Tensor]:
    """Rows divided by sqrt(|row|^2 + width * eps): the RMS norm without its weight and the factor sqrt(width)."""
    import torch

    floor = torch.full((1, 1), norm.weight.shape[0] * norm.variance_epsilon)

    def run(rows: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        scale = torch.addcmul(floor, length, length).rsqrt_()
        return torch.mul(rows, scale, out=buffer("unit", *rows.shape))

    return run


def _module_layer(layer: Any) -> _Layer:
    """The block through its own modules."""
    import torch

    attention, mlp = layer.self_attn, layer.mlp
    fused = getattr(attention, "qkv_proj", None)
    maps = (fused,) if fused is not None else (attention.q_proj, attention.k_proj, attention.v_proj)

    def qkv(rows: Any, part: slice | None = None) -> Any:
        every = torch.cat([one(rows) for one in maps], dim=-1)
        return every if part is None else every[:, part]

    def gate_up(rows: Any) -> tuple[Any, Any]:
        gate, up = (
            mlp.gate_up_proj(rows).chunk(2, dim=-1)
            if hasattr(mlp, "gate_up_proj")
            else (mlp.gate_proj(rows), mlp.up_proj(rows))
        )
        return torch.nn.functional.silu(gate), up

    return _Layer(
        layer.input_layernorm,
        qkv,
        attention.o_proj,
        layer.post_attention_layernorm,
        gate_up,
        mlp.down_proj,
        attention,
        attention.scaling,
    )


class SlimDecoder:
    """The key-value state of one batch.

    Args:
        decoder: a stack for which ``is_slim`` holds.
        weights: its layers.
        prompts: int64 (B, P) vocabulary ids, padded on the right.
        room: tokens per row to be fed after the prompt.
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
                seen = self._attend(query, key, self.values[number], layer.scale)
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
        self, layer: _Layer, both: Tensor, queries: int, cos: Tensor, sin: Tensor
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

    def _attend(self, query: Tensor, key: Tensor, values: Tensor, scale: float) -> Tensor:
        """Causal attention within the prompt as two plain products, (B, heads, P, D) each; ``values`` has room for more columns."""
        import torch

        assert self._causal is not None and self._buffer is not None
        size = query.shape
        square = (size[0] * size[1], size[2], size[2])
        scores = torch.bmm(
            query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2), out=self._buffer("scores", *square)
        )
        if scale != 1.0:
            scores.mul_(scale)
        shares = torch.softmax(scores.add_(self._causal), -1, out=self._buffer("shares", *square))
        values = values.flatten(0, 1)[:, : size[2]]
        return torch.bmm(shares, values, out=self._buffer("seen", *square[:2], size[3])).view(size)


def _normed(attention: Any, both: Tensor, queries: int) -> Tensor:
    import torch

    return torch.cat([attention.q_norm(both[:, :, :queries]), attention.k_norm(both[:, :, queries:])], dim=2)
