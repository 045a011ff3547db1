"""What may follow each prefix of a catalogue, as tensors, and the distribution over it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from dig_ray.recommender.policy import sid_logits
from dig_ray.semantic_ids.prefix_table import PrefixTable

if TYPE_CHECKING:
    from torch import Tensor


class Children(NamedTuple):
    """Continuations of prefixes (...), M of them at most.

    ``node`` int64 (..., M): prefixes of the next depth, or item places at the last; ``token`` int64 (..., M): SID tokens, below 0 where
    an item ended a level earlier; ``missing`` bool (..., M): where a prefix has fewer.
    """

    node: Tensor
    token: Tensor
    missing: Tensor


class Trie:
    """A catalogue's prefixes on a device.

    Args:
        table: the catalogue's prefixes, on the CPU.
        device: torch's device of the states that it is asked with.

    Attributes:
        tokens: per depth, int64, the token that leads to each prefix of the next.
        starts: per depth, int64, where each prefix's continuations begin among them.
        items: int64 (N,), the item at each place of the last depth.
        alone: per depth and for the items, bool, whether one item lies under each prefix: what follows it is certain.
    """

    def __init__(self, table: PrefixTable, device: Any = "cpu") -> None:
        import torch

        self.table = table
        self.tokens = [torch.from_numpy(t).to(device, torch.long) for t in table.tokens]
        self.starts = [torch.from_numpy(s).to(device, torch.long) for s in table.child_start]
        self.items = torch.from_numpy(table.items).to(device, torch.long)
        begin = torch.arange(table.n_items + 1, device=device)  # where the items under each prefix begin
        self.alone = [begin.diff() == 1]
        for starts in reversed(self.starts):
            begin = begin[starts]
            self.alone.insert(0, begin.diff() == 1)

    def children(self, depth: int, node: Tensor) -> Children:
        """Continuations of ``node`` int64 (...), prefixes of that depth, in their order."""
        import torch

        begin = self.starts[depth][node]
        count = self.starts[depth][node + 1] - begin
        slots = torch.arange(self.table.max_children[depth], device=node.device)
        child = (begin[..., None] + slots).clamp_(max=len(self.tokens[depth]) - 1)
        return Children(child, self.tokens[depth][child], slots >= count[..., None])


class TrieDistribution(Trie):
    """Log-probabilities of continuations under the trie's mask."""

    def at(self, depth: int, hidden: Tensor, rows: Tensor, node: Tensor, temperature: float = 1.0) -> Tensor:
        """Log-probabilities (n, M) of the continuations of ``node`` (n,), in their order, -inf where there is none.

        Args:
            depth: place of the token to be chosen in its SID, from 0.
            hidden: (n, d), states that predict it.
            rows: (n_sid, d), the head's rows of the SID tokens.
            node: int64 (n,), the prefix of that depth that each token follows.
            temperature: logits are divided by it; above 0.
        """
        import torch

        first, end = self.table.level_ranges[depth]
        _, token, missing = self.children(depth, node)
        logits = sid_logits(hidden, rows[first:end]) / temperature
        logits = logits.gather(1, (token - first).clamp_(min=0))
        return logits.masked_fill(missing, -torch.inf).log_softmax(1)

    def outside(self, depth: int, hidden: Tensor, rows: Tensor, node: Tensor) -> Tensor:
        """Share of an unmasked step's probability, over all SID tokens, that would leave the catalogue, (n,) in [0, 1].

        Args:
            depth: place of the token to be chosen in its SID, from 0.
            hidden: (n, d), states that predict it.
            rows: (n_sid, d), the head's rows of the SID tokens.
            node: int64 (n,), the prefix of that depth that each token follows.
        """
        import torch

        _, token, missing = self.children(depth, node)
        every = sid_logits(hidden, rows).log_softmax(1)
        inside = every.gather(1, token.clamp(min=0))
        return 1 - inside.masked_fill(missing, -torch.inf).exp().sum(1)
