"""SASRec as a torch module: a causal transformer over item ids, scored against the tied item embeddings.

Kang and McAuley 2018 (arXiv 1808.09781), trained with the softmax over the whole catalogue instead of one sampled
negative (Petrov and Macdonald 2023; Klenitskiy and Vasilev 2023: that loss is most of SASRec's strength). Sequences are
packed: several users share a row, and a document mask keeps them apart, so that no work goes into padding.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from dig_ray.numerics.fast_dropout import dropout
from dig_ray.numerics.linear_cross_entropy import unit_rows


class Block(nn.Module):
    """One transformer block, pre-norm; ``original=True`` normalises as the paper does (queries only, residual of it)."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float, original: bool):
        super().__init__()
        self.heads, self.dropout, self.original = heads, dropout, original
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def _attend(self, q: torch.Tensor, kv: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        rows, length, width = q.shape
        shape = (rows, length, self.heads, width // self.heads)
        query, key, value = (
            layer(x).view(shape).transpose(1, 2)
            for layer, x in ((self.query, q), (self.key, kv), (self.value, kv))
        )
        drop = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=drop)
        return self.out(mixed.transpose(1, 2).reshape(rows, length, width))

    def _feed(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(dropout(F.gelu(self.up(x)), self.dropout, self.training))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """``x`` float ``(R, T, D)``, ``mask`` bool ``(R, 1, T, T)``, True where a query may look."""
        q = self.norm1(x)
        attended = self._attend(q, x if self.original else q, mask)
        x = (q if self.original else x) + dropout(attended, self.dropout, self.training)
        y = self.norm2(x)
        return (y if self.original else x) + dropout(self._feed(y), self.dropout, self.training)


class SASRecModel(nn.Module):
    """Item embeddings times the root of their width (as in the authors' code) and positions, blocks, final norm; scores are dot products
    with the item embeddings.

    With ``temperature`` set, both sides are L2-normalised and the cosine is divided by it, which keeps popular items
    from winning by the length of their vector.
    """

    def __init__(
        self,
        n_items: int,
        width: int = 128,
        layers: int = 2,
        heads: int = 2,
        hidden: int = 256,
        dropout: float = 0.3,
        embedding_dropout: float = 0.3,
        max_length: int = 50,
        original: bool = False,
        temperature: float | None = None,
    ):
        super().__init__()
        self.max_length, self.embedding_dropout, self.temperature = max_length, embedding_dropout, temperature
        self.items = nn.Embedding(n_items, width)
        self.positions = nn.Embedding(max_length, width)
        self.blocks = nn.ModuleList(Block(width, heads, hidden, dropout, original) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.trunc_normal_(parameter, std=0.02 if "items" in name or "positions" in name else 0.05)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, items: torch.Tensor, positions: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
        """Hidden states for packed rows.

        Args:
            items: int64 ``(R, T)``; any valid index at padding.
            positions: int64 ``(R, T)``, the place within its own sequence.
            documents: int64 ``(R, T)``, which sequence a place belongs to; padding is a sequence of its own.

        Returns:
            float ``(R, T, D)``, to be scored by :meth:`logits`.
        """
        length = items.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=items.device).tril()
        mask = ((documents[:, :, None] == documents[:, None, :]) & causal)[:, None]
        x = self.items(items) * self.items.embedding_dim**0.5 + self.positions(positions)
        x = dropout(x, self.embedding_dropout, self.training)
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)

    def scorable(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``(B, D)`` and ``(N, D)`` whose product is the score."""
        if self.temperature is None:
            return hidden, self.items.weight
        return unit_rows(hidden) / self.temperature, unit_rows(self.items.weight)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scores of all items, ``(B, D) -> (B, N)``."""
        queries, keys = self.scorable(hidden)
        return queries @ keys.T
