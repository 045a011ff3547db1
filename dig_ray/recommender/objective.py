"""The SFT loss: cross-entropy of the next SID token, over the SID rows only.

Two normalizers (see ``decoding``): ``head`` spreads probability over every SID token, ``trie`` only over those that keep the prefix
inside the catalogue, which is the distribution constrained decoding samples from, so that nothing is spent on learning which codes exist.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dig_ray.recommender.policy import sid_logits
from dig_ray.semantic_ids.prefix_table import STAY, PrefixTable

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dig_ray.recommender.decoding import Normalizer


class SidLoss:
    """Summed cross-entropy of SID targets.

    Args:
        table: the catalogue's prefixes.
        normalizer: ``head`` or ``trie``, see ``decoding.Normalizer``.
        label_smoothing: share of a target's probability, in [0, 1), that is spread evenly over the allowed continuations.
    """

    def __init__(
        self, table: PrefixTable, normalizer: Normalizer = "trie", label_smoothing: float = 0.0
    ) -> None:
        import torch

        self.table = table
        self.normalizer = normalizer
        self.label_smoothing = label_smoothing
        parents = item_parents(table)
        self._parents = torch.from_numpy(parents).long()  # (N, D): node before each token of each item's SID
        self._forbidden: list[
            Tensor | None
        ] = []  # per depth (nodes, tokens); None where every token is allowed
        if normalizer == "trie":
            for depth, (first, end) in enumerate(table.level_ranges):
                starts = table.child_start[depth]
                allowed = np.zeros((len(starts) - 1, end - first), bool)
                owner = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
                real = table.tokens[depth] != STAY
                allowed[owner[real], table.tokens[depth][real] - first] = True
                self._forbidden.append(None if allowed.all() else torch.from_numpy(~allowed))

    def to(self, device: torch.device) -> SidLoss:
        """Move its tables to a device; returns itself."""
        self._parents = self._parents.to(device)
        self._forbidden = [None if f is None else f.to(device) for f in self._forbidden]
        return self

    def __call__(self, hidden: Tensor, rows: Tensor, token: Tensor, item: Tensor, depth: Tensor) -> Tensor:
        """Sum of the losses of n targets.

        Args:
            hidden: (n, d) states that predict the targets.
            rows: (n_sid, d), the head's rows of the SID tokens.
            token: int64 (n,), SID token of each target, numbered from 0.
            item: int64 (n,), the item that each target belongs to.
            depth: int64 (n,), the target's place in that item's SID, from 0.

        Returns a scalar, differentiable in ``hidden`` and ``rows``; 0 where there is no target.
        """
        from torch.nn.functional import cross_entropy

        if self.normalizer == "head":
            logits = sid_logits(hidden, rows)
            return cross_entropy(logits, token, reduction="sum", label_smoothing=self.label_smoothing)
        total = hidden.sum() * 0.0
        for d, (first, end) in enumerate(self.table.level_ranges):
            at = (depth == d).nonzero().squeeze(1)
            if not len(at):
                continue
            logits = sid_logits(hidden[at], rows[first:end])
            forbidden = self._forbidden[d]
            count: float | Tensor = end - first
            if forbidden is not None:
                forbidden = forbidden[self._parents[item[at], d]]
                logits = logits.masked_fill(forbidden, -1e9)
            if self.label_smoothing:
                log_prob = logits.log_softmax(-1)
                hit = log_prob.gather(1, (token[at] - first)[:, None]).squeeze(1)
                if forbidden is not None:
                    log_prob = log_prob.masked_fill(forbidden, 0.0)
                    count = (~forbidden).sum(1)
                spread = log_prob.sum(1) / count
                total = total - ((1 - self.label_smoothing) * hit + self.label_smoothing * spread).sum()
            else:
                total = total + cross_entropy(logits, token[at] - first, reduction="sum")
        return total


def item_parents(table: PrefixTable) -> np.ndarray:
    """int64 (N, D): for each item, the node of depth ``d`` from which its token ``d`` is chosen (0, the root, for the first)."""
    parents = np.zeros((table.n_items, table.depth), np.int64)
    node = np.arange(table.n_items)  # deepest node of each sorted item
    for depth in range(table.depth - 1, -1, -1):
        starts = table.child_start[depth]
        owner = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        node = owner[node]
        parents[table.items, depth] = node
    return parents
