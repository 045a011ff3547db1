"""The layers of a decoder stack, packed for decoding where that is possible.

Small plain models are packed: query, key and value are one matrix, norms are folded in, matrices lie as the product reads them (up to 4x
faster for a few rows on a CPU), and results go into buffers that are used again (fresh memory costs as much as the product that fills
it). Otherwise the model's own modules run, so that adapters stay in place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

ROWS_OF_TABLE = 1024  # tokens that are looked up in it are computed so many at a time
TABLE_AT_MOST = 8192  # tokens
PACK_AT_MOST = 32_000_000  # parameters; a packed copy of a larger model is not worth its memory

State = tuple[list[int], list[float]]
"""See ``_state``."""


@dataclass
class Layer:
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
    """The layers of a stack, packed where that is possible; rebuilt by ``of`` when the model's weights have changed since.

    What goes on with another's buffers overwrites its matrices.
    """

    def __init__(self, decoder: Any, known: SlimWeights | None = None, state: State | None = None) -> None:
        self.packed = _packable(decoder)
        if state is None or known is None or known.packed != self.packed:
            state = _state(decoder, self.packed)
        self.state = state
        self._buffers: dict[str, Tensor] = {} if known is None else known._buffers
        self.layers: list[Layer] = [
            _packed_layer(layer, self.buffer, number) if self.packed else _module_layer(layer)
            for number, layer in enumerate(decoder.layers)
        ]
        # Query, key and value of the first layer by token, where the vocabulary is small and the weights are used again
        self.first: Tensor | None = None
        self._embedding = decoder.embed_tokens

    def buffer(self, name: str, *shape: int) -> Tensor:
        """Memory for one intermediate result, the same at every call with one name. Not for use by two threads at once."""
        import torch

        size = math.prod(shape)
        known = self._buffers.get(name)
        if known is None or len(known) < size:
            known = self._buffers[name] = torch.empty(size)
        return known[:size].view(shape)

    @staticmethod
    def of(decoder: Any, known: SlimWeights | None) -> SlimWeights:
        """``known`` if it is still what the model holds, else new ones that go on with its buffers."""
        if known is None:
            return SlimWeights(decoder)
        state = _state(decoder, known.packed)
        if known.state != state:
            return SlimWeights(decoder, known, state)
        known._look_up()
        return known

    def _look_up(self) -> None:
        """Make ``first``."""
        import torch

        embedding = self._embedding
        if (
            self.first is None
            and self.packed
            and is_plain(embedding)
            and embedding.num_embeddings <= TABLE_AT_MOST
        ):
            layer = self.layers[0]
            parts = embedding.weight.detach().split(ROWS_OF_TABLE)
            self.first = torch.cat([layer.qkv(layer.attention_norm(part)).clone() for part in parts])


def _state(decoder: Any, packed: bool) -> State:
    """Where the weights are; and their norms if there are copies of them: version counters miss what fused optimizers write."""
    import torch

    weights = [p.detach() for p in decoder.parameters()]
    norms = torch.stack(torch._foreach_norm(weights)).tolist() if packed else []
    return [w.data_ptr() for w in weights], norms


def is_plain(module: Any) -> bool:
    """Whether the module is torch's own and nothing is hooked to it."""
    import torch

    return type(module) in (torch.nn.Linear, torch.nn.Embedding) and not (
        module._forward_hooks or module._forward_pre_hooks
    )


def _packable(decoder: Any) -> bool:
    import torch

    plain = all(
        is_plain(m)
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


def _packed_layer(layer: Any, buffer: Callable[..., Tensor], number: int) -> Layer:
    import torch

    attention, mlp = layer.self_attn, layer.mlp
    fused = getattr(attention, "qkv_proj", None)
    qkv = [fused] if fused is not None else [attention.q_proj, attention.k_proj, attention.v_proj]
    scale = attention.scaling if hasattr(attention, "q_norm") else 1.0  # such a norm would undo it
    # queries come first, as wide as the output
    scaled = (attention.o_proj.weight.shape[1], attention.scaling) if scale == 1.0 else None
    if hasattr(mlp, "gate_up_proj"):
        halves = mlp.gate_up_proj.weight.detach().chunk(2)
    else:
        halves = (mlp.gate_proj.weight.detach(), mlp.up_proj.weight.detach())
    norm = layer.post_attention_layernorm

    def matrix(name: str, weights: list[Tensor], biases: list[Any], *more: Any) -> Callable[..., Tensor]:
        return _matrix(buffer, number, name, weights, biases, *more)

    gate, up = (matrix(name, [half], [None], norm) for name, half in zip(("gate", "up"), halves, strict=True))

    def gate_up(rows: Tensor) -> tuple[Tensor, Tensor]:
        return torch.nn.functional.silu(gate(rows), inplace=True), up(rows)

    return Layer(
        attention_norm=_unit(buffer, layer.input_layernorm),
        qkv=matrix("qkv", [m.weight for m in qkv], [m.bias for m in qkv], layer.input_layernorm, scaled),
        out=matrix("out", [attention.o_proj.weight], [attention.o_proj.bias]),
        mlp_norm=_unit(buffer, layer.post_attention_layernorm),
        gate_up=gate_up,
        down=matrix("down", [mlp.down_proj.weight], [mlp.down_proj.bias]),
        attention=attention,
        scale=scale,
    )


def _matrix(
    buffer: Callable[..., Tensor],
    number: int,
    name: str,
    weights: list[Tensor],
    biases: list[Tensor | None],
    norm: Any = None,
    scaled: tuple[int, float] | None = None,
) -> Callable[..., Tensor]:
    """Several linear maps of one layer as one product into a buffer, or a slice of its columns.

    What can be multiplied in is: the weight and sqrt(width) of the norm before it, and a factor for the first columns of the result.
    """
    import torch

    turned = buffer(f"{number} {name}", weights[0].shape[1], sum(len(w) for w in weights))
    parts = turned.split([len(w) for w in weights], dim=1)
    for part, weight in zip(parts, weights, strict=True):
        if norm is None:
            part.copy_(weight.detach().t())
        else:
            factor = norm.weight.detach() * norm.weight.shape[0] ** 0.5
            torch.mul(weight.detach().t(), factor[:, None], out=part)
    bias: Tensor | None = None
    if any(b is not None for b in biases):
        pairs = zip(weights, biases, strict=True)
        bias = torch.cat([torch.zeros(len(w)) if b is None else b.detach() for w, b in pairs])
    if scaled is not None:
        columns, factor = scaled
        turned[:, :columns] *= factor
        if bias is not None:
            bias[:columns] *= factor

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


def _module_layer(layer: Any) -> Layer:
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

    return Layer(
        layer.input_layernorm,
        qkv,
        attention.o_proj,
        layer.post_attention_layernorm,
        gate_up,
        mlp.down_proj,
        attention,
        attention.scaling,
    )
