"""Rollouts of a policy: items drawn from the trie-masked distribution, or its best beams, with the history read once per group.

Drawing without duplicates is exact: Gumbel noise on the log-probability of every prefix, conditioned from parent to child, makes the G best
perturbed items a sample without replacement (Kool, van Hoof and Welling, 2019, stochastic beam search), in one pass over the tree.

Noise belongs to a prompt, not to a place in a batch: it comes from a generator seeded by (seed, round, prompt), so rollouts do not depend
on how prompts are shared between workers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from dig_ray.recommender.decoder.slim_weights import SlimWeights
from dig_ray.recommender.decoder.tree_cache import TreeCache
from dig_ray.recommender.policy import SidPolicy
from dig_ray.recommender.trie import TrieDistribution
from dig_ray.semantic_ids.prefix_table import PrefixTable

if TYPE_CHECKING:
    from torch import Tensor

    from dig_ray.recommender.decoder.prompt_pass import PromptPass

Method = Literal["sample", "beam", "mixed", "independent"]


@dataclass(frozen=True)
class Rollouts:
    """G rollouts of each of B prompts.

    Attributes:
        items: int64 (B, G), the item that each rollout is.
        log_probs: float64 (B, G), natural logarithm of each rollout's probability under the distribution it was drawn from.
    """

    items: np.ndarray
    log_probs: np.ndarray


class RolloutSampler:
    """Draws rollouts of one policy over one catalogue.

    Args:
        policy: the model; put into eval mode by the caller.
        table: the catalogue's prefixes.
        groups: rollouts of a prompt, G; at most the catalogue's items.
        method: ``sample``: without duplicates; ``independent``: with. ``beam``: the G likeliest. ``mixed``: half beams, the rest drawn
            without duplicates from what the beams left.
        temperature: logits are divided by it; above 0.
        seed: the first part of what seeds each prompt's noise, beside the round and the prompt's number.

    Raises:
        ValueError: more rollouts of a prompt than the catalogue has items.
    """

    def __init__(
        self,
        policy: SidPolicy,
        table: PrefixTable,
        groups: int,
        method: Method = "sample",
        temperature: float = 1.0,
        seed: int = 0,
    ) -> None:
        if groups > table.n_items:
            raise ValueError(f"{groups} different rollouts of a catalogue of {table.n_items} items")
        self.policy, self.table, self.groups = policy, table, groups
        self.method, self.temperature, self.seed = method, temperature, seed
        self.trie = TrieDistribution(table, policy.device)
        self._weights: SlimWeights | None = None

    def draw(
        self,
        prompts: Tensor,
        lengths: Tensor,
        rows: np.ndarray,
        round_number: int,
        known: PromptPass | None = None,
    ) -> Rollouts:
        """Rollouts of a batch of histories.

        Args:
            prompts: int64 (B, P), vocabulary ids, padded on the right.
            lengths: int64 (B,), real tokens of each prompt, at least 1.
            rows: int64 (B,), a number of each prompt that no other has; its noise depends on it.
            round_number: a number that tells this draw from others of the same prompts, such as the step.
            known: what the policy made of these prompts, where it has read them; None reads them now.
        """
        import torch

        with torch.inference_mode():
            if self.method == "independent":
                items, log_probs = self._independent(prompts, lengths, rows, round_number, known)
            elif self.method == "mixed":
                best, best_log_probs = self._without_duplicates(prompts, lengths, None, round_number, known)
                drawn, drawn_log_probs = self._without_duplicates(prompts, lengths, rows, round_number, known)
                items, log_probs = _after_beams(
                    best[:, : self.groups // 2], best_log_probs[:, : self.groups // 2], drawn, drawn_log_probs
                )
            else:
                noisy = rows if self.method == "sample" else None
                items, log_probs = self._without_duplicates(prompts, lengths, noisy, round_number, known)
        return Rollouts(items.cpu().numpy(), log_probs.double().cpu().numpy())

    def _walk(
        self, prompts: Tensor, lengths: Tensor, beams: int, room: int, known: PromptPass | None
    ) -> _Walk:
        tree = TreeCache(self.policy, prompts, lengths, room, self._weights)
        self._weights = tree.weights
        return _Walk(self.trie, self.policy, tree, tree.prefill(known), beams, self.temperature)

    def _generators(self, rows: np.ndarray, round_number: int) -> list[np.random.Generator]:
        return [
            np.random.Generator(np.random.SFC64([self.seed, round_number, int(row)])) for row in rows.tolist()
        ]

    def _without_duplicates(
        self,
        prompts: Tensor,
        lengths: Tensor,
        rows: np.ndarray | None,
        round_number: int,
        known: PromptPass | None,
    ) -> tuple[Tensor, Tensor]:
        """The G items of largest perturbed log-probability, that one first; of largest log-probability where ``rows`` is None."""
        import torch

        noise = None if rows is None else self._generators(rows, round_number)
        batch, device = len(prompts), prompts.device
        kept, width = [], 1
        for children in self.table.max_children:
            width = min(self.groups, width * children)
            kept.append(width)
        walk = self._walk(prompts, lengths, 1, sum(kept[:-1]), known)
        node = torch.zeros(batch, 1, dtype=torch.long, device=device)
        log_prob = torch.zeros(batch, 1, device=device)
        perturbed = torch.zeros(batch, 1, device=device)
        for depth in range(self.table.depth):
            step = walk.log_probs(depth, node)
            total = (step + log_prob[..., None]).masked_fill(log_prob[..., None] == -torch.inf, -torch.inf)
            if noise is None:
                score = total
            else:
                draws = np.stack([one.gumbel(size=step.shape[1:]).astype(np.float32) for one in noise])
                score = _condition(total + torch.from_numpy(draws).to(device), perturbed)
            perturbed, pick = score.flatten(1).topk(min(kept[depth], score[0].numel()), dim=1)
            parent, slot = pick // step.shape[2], pick % step.shape[2]
            log_prob = total.flatten(1).gather(1, pick)
            begin = self.trie.starts[depth][node].gather(1, parent)
            # a filler of a beam that has no more children stays dead, and must not point outside
            node = (begin + slot).clamp_(max=len(self.trie.tokens[depth]) - 1)
            if depth < self.table.depth - 1:
                walk.to(depth, node, parent)
        items = self.trie.items[node]
        return items, log_prob

    def _independent(
        self,
        prompts: Tensor,
        lengths: Tensor,
        rows: np.ndarray,
        round_number: int,
        known: PromptPass | None,
    ) -> tuple[Tensor, Tensor]:
        """G items drawn one by one from the same distribution."""
        import torch

        noise = self._generators(rows, round_number)
        batch, device, groups = len(prompts), prompts.device, self.groups
        walk = self._walk(prompts, lengths, groups, groups * (self.table.depth - 1), known)
        same = torch.arange(groups, device=device).expand(batch, -1)
        node = torch.zeros(batch, groups, dtype=torch.long, device=device)
        log_prob = torch.zeros(batch, groups, device=device)
        for depth in range(self.table.depth):
            step = walk.log_probs(depth, node)
            draws = np.stack([one.gumbel(size=step.shape[1:]).astype(np.float32) for one in noise])
            slot = (step + torch.from_numpy(draws).to(device)).argmax(2)
            log_prob = log_prob + step.gather(2, slot[..., None]).squeeze(2)
            node = self.trie.starts[depth][node] + slot
            if depth < self.table.depth - 1:
                walk.to(depth, node, same)
        items = self.trie.items[node]
        return items, log_prob


class _Walk:
    """Beams on their way down the trie. Those under which a single item is left are certain of what follows, and the model is not asked.

    Args:
        trie: the catalogue's.
        policy: the model.
        tree: its state after the prompts.
        ends: (B, 1, d), of the prompts.
        beams: the beams of a prompt, K.
        temperature: logits are divided by it.
    """

    def __init__(
        self,
        trie: TrieDistribution,
        policy: SidPolicy,
        tree: TreeCache,
        ends: Tensor,
        beams: int,
        temperature: float,
    ) -> None:
        self.trie, self.policy, self.tree, self.temperature = trie, policy, tree, temperature
        self.head = policy.sid_rows()
        self.hidden = ends.expand(-1, beams, -1)  # (B, O, d)
        self.beams = beams
        # (B, O), whose states these are, with some of the others where a prompt has fewer; None: everyone's
        self.open: Tensor | None = None

    def log_probs(self, depth: int, node: Tensor) -> Tensor:
        """(B, K, M) of the continuations of every beam's prefix, int64 (B, K), in their order; -inf where there is none."""
        import torch

        nodes = node if self.open is None else node.gather(1, self.open)
        found = self.trie.at(depth, self.hidden.flatten(0, 1), self.head, nodes.flatten(), self.temperature)
        found = found.view(*nodes.shape, self.trie.table.max_children[depth])
        if self.open is None:
            return found
        out = torch.full((*node.shape, found.shape[2]), -torch.inf, device=found.device)
        out[..., 0] = 0.0
        return out.scatter_(1, self.open[..., None].expand_as(found), found)

    def to(self, depth: int, node: Tensor, parent: Tensor) -> None:
        """Beams are now at ``node`` of the next depth, (B, K), each having come from the beam ``parent``."""
        import torch

        if self.open is not None:  # among the states, not among the beams
            own = torch.arange(self.open.shape[1], device=node.device).expand_as(self.open)
            place = torch.zeros(len(node), self.beams, dtype=torch.long, device=node.device)
            parent = place.scatter_(1, self.open, own).gather(1, parent)
        self.beams = node.shape[1]
        choice = ~self.trie.alone[depth + 1][node]
        least, most = choice.sum(1).aminmax()
        self.open = None
        token = self.trie.tokens[depth][node].clamp(min=0)
        if int(least) < self.beams:
            self.open = choice.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, : int(most)]
            parent, token = parent.gather(1, self.open), token.gather(1, self.open)
        if not token.shape[1]:
            self.hidden = self.hidden[:, :0]
            return
        self.tree.reparent(parent)
        self.hidden = self.tree.feed(token + self.policy.sid_start)


def _condition(noisy: Tensor, parent: Tensor) -> Tensor:
    """Children's perturbed log-probabilities (B, K, M) made to have their parent's (B, K) as their maximum.

    Kool et al., appendix B.3: with ``Z`` the largest of a parent's children, ``v = G - g + log(1 - exp(g - Z))`` and the result is
    ``G - max(0, v) - log(1 + exp(-|v|))``.
    """
    import torch

    largest = noisy.max(2, keepdim=True).values
    parent = parent[..., None]
    gap = (noisy - largest).clamp(max=0.0)
    v = parent - noisy + torch.log1p(-gap.exp())
    out = parent - v.clamp(min=0.0) - torch.log1p((-v.abs()).exp())
    return torch.where(noisy == -torch.inf, -torch.inf, out)


def _after_beams(
    best: Tensor, best_log_probs: Tensor, drawn: Tensor, drawn_log_probs: Tensor
) -> tuple[Tensor, Tensor]:
    """Beams, then what was drawn and is none of them, (B, G) in all. What remains of a draw without replacement is one from the rest."""
    import torch

    taken = (drawn[:, :, None] == best[:, None, :]).any(2)
    order = taken.to(torch.int8).argsort(dim=1, stable=True)[:, : drawn.shape[1] - best.shape[1]]
    return (
        torch.cat([best, drawn.gather(1, order)], 1),
        torch.cat([best_log_probs, drawn_log_probs.gather(1, order)], 1),
    )


def with_target(rollouts: Rollouts, targets: np.ndarray) -> Rollouts:
    """Rollouts in which each prompt's target is: where it was not drawn it takes the place of the last one.

    Its log-probability is not known here and becomes NaN.
    """
    items, log_probs = rollouts.items.copy(), rollouts.log_probs.copy()
    missing = ~(items == targets[:, None]).any(1)
    items[missing, -1] = targets[missing]
    log_probs[missing, -1] = np.nan
    return Rollouts(items, log_probs)
