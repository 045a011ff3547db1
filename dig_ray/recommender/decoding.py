"""Constrained beam search over a catalogue's Semantic IDs, batched and without a Python step per beam.

What decides its speed: the history runs through the model once per user (``TreeCache``); only real continuations are scored, by one
gather over the children of each beam's prefix and one batched top-k; the head is cut to the SID rows.

It fails closed: a beam only moves along the prefix table, so nothing outside the catalogue can be produced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from dig_ray.recommender.decoder.slim_weights import SlimWeights
from dig_ray.recommender.decoder.tree_cache import TreeCache
from dig_ray.recommender.policy import SidPolicy, sid_logits
from dig_ray.recommender.trie import Trie
from dig_ray.semantic_ids.prefix_table import PrefixTable

if TYPE_CHECKING:
    from torch import Tensor

ROWS_AT_ONCE = 4096
"""Prompt tokens that run together on a CPU: more only take memory (measured: 1.1x faster than 1024, equal to 8192)."""

Normalizer = Literal["head", "trie"]
"""Over which tokens a step's probabilities sum to one: every SID token, or only those the prefix allows."""


@dataclass
class Beams:
    """``items`` int64 (B, K), best first, -1 where fewer than K exist; ``scores`` float32 (B, K), log-probabilities."""

    items: Tensor
    scores: Tensor


class BeamSearcher:
    """Constrained beam search of one policy over one catalogue. Two calls never influence each other.

    Args:
        policy: the model, in eval mode.
        table: the catalogue's prefixes.
        beam: beams kept per user; up to the catalogue's size, at which the search is an exhaustive ranking.
        normalizer: see ``Normalizer``; must be what the policy was trained with for scores to be its probabilities.
        max_candidates: bound on candidates scored at once (users x beams x children); larger batches are split.
    """

    def __init__(
        self,
        policy: SidPolicy,
        table: PrefixTable,
        beam: int = 20,
        normalizer: Normalizer = "trie",
        max_candidates: int = 40_000_000,
    ) -> None:
        if beam < 1:
            raise ValueError(f"beam must be at least 1, not {beam}")
        self.policy = policy
        self.table = table
        self.beam = min(beam, table.n_items)
        self.normalizer = normalizer
        self._trie = Trie(table, policy.device)
        self._weights: SlimWeights | None = None
        widths: list[int] = []
        self._kept: list[int] = []  # beams after each depth
        for children in table.max_children:
            widths.append((self._kept[-1] if self._kept else 1) * children)
            self._kept.append(min(self.beam, widths[-1]))
        self._max_rows = max(1, max_candidates // max(widths))

    def search(self, prompts: Tensor, lengths: Tensor) -> Beams:
        """Rank items for a batch of histories.

        Args:
            prompts: int64 (B, P), vocabulary ids, padded on the right.
            lengths: int64 (B,), real tokens of each prompt, at least 1.

        Returns up to ``beam`` items of each prompt, the likeliest first.
        """
        return self.search_both(prompts, lengths, None)[0]

    def search_both(self, prompts: Tensor, lengths: Tensor, seen: Tensor | None) -> tuple[Beams, Beams]:
        """Rank items with seen ones allowed, and again without them, for the price of one search.

        Args:
            prompts: int64 (B, P), vocabulary ids, padded on the right.
            lengths: int64 (B,), real tokens of each prompt, at least 1.
            seen: int64 (B, S), item indices the second ranking leaves out, padded with -1; None leaves out nothing.
        """
        import torch

        with torch.inference_mode():
            step = self._max_rows
            if prompts.device.type == "cpu":
                step = min(step, max(1, ROWS_AT_ONCE // prompts.shape[1]))
            parts = [
                self._search(
                    prompts[i : i + step], lengths[i : i + step], None if seen is None else seen[i : i + step]
                )
                for i in range(0, len(prompts), step)
            ]
        if len(parts) == 1:
            return parts[0]
        first, second = (
            Beams(torch.cat([p[i].items for p in parts]), torch.cat([p[i].scores for p in parts]))
            for i in (0, 1)
        )
        return first, second

    def _search(self, prompts: Tensor, lengths: Tensor, seen: Tensor | None) -> tuple[Beams, Beams]:
        import torch

        table = self.table
        rows = self.policy.sid_rows()
        tree = TreeCache(self.policy, prompts, lengths, sum(self._kept[:-1]), self._weights)
        self._weights = tree.weights
        hidden = tree.prefill()
        node = torch.zeros(len(prompts), 1, dtype=torch.long, device=prompts.device)
        score = torch.zeros(len(prompts), 1, dtype=torch.float32, device=prompts.device)
        for depth in range(table.depth):
            candidates, child = self._score_children(depth, hidden, rows, node, score)
            flat = candidates.flatten(1)
            last = depth == table.depth - 1
            keep = self.beam + (seen.shape[1] if last and seen is not None else 0)
            score, pick = flat.topk(min(keep, flat.shape[1]), dim=1)
            node = child.flatten(1).gather(1, pick)
            if not last:
                tree.reparent(pick // candidates.shape[2])
                hidden = tree.feed(self._trie.tokens[depth][node] + self.policy.sid_start)
        items = self._trie.items[node].masked_fill(score == -torch.inf, -1)
        everything = self._fit(items, score)
        if seen is None:
            return everything, everything
        return everything, self._fit(*_drop_seen(items, score, seen))

    def _score_children(
        self, depth: int, hidden: Tensor, rows: Tensor, node: Tensor, score: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Scores (B, K, M) of every child of every beam, -inf where there is none, and the child nodes (B, K, M)."""
        import torch

        first, end = self.table.level_ranges[depth]
        child, token, missing = self._trie.children(depth, node)
        if self.normalizer == "head":
            every = sid_logits(hidden, rows).log_softmax(-1)
            log_prob = every.gather(-1, token.clamp(min=0))
        else:
            logits = sid_logits(hidden, rows[first:end])
            log_prob = logits.gather(-1, (token - first).clamp(min=0))
        if depth == self.table.depth - 1:  # an item that ended a level earlier stays, at no cost
            log_prob = log_prob.masked_fill(token < 0, 0.0)
        log_prob = log_prob.masked_fill(missing, -torch.inf)
        if self.normalizer == "trie":
            log_prob = log_prob - log_prob.logsumexp(-1, keepdim=True)
        # A dead filler beam (score -inf) stays dead: -inf plus anything finite.
        return log_prob + score[..., None], child

    def _fit(self, items: Tensor, score: Tensor) -> Beams:
        """Cut or pad to the beam's width."""
        import torch

        short = max(0, self.beam - items.shape[1])
        pad = torch.nn.functional.pad
        return Beams(
            pad(items[:, : self.beam], (0, short), value=-1),
            pad(score[:, : self.beam], (0, short), value=-torch.inf),
        )


def _drop_seen(items: Tensor, score: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Move seen items behind all others and blank them; the order of the rest is kept."""
    import torch

    gone = (items[:, :, None] == seen[:, None, :]).any(-1) | (items < 0)
    order = gone.to(torch.int8).argsort(dim=1, stable=True)
    return (
        items.masked_fill(gone, -1).gather(1, order),
        score.masked_fill(gone, -torch.inf).gather(1, order),
    )


def unconstrained_invalid(
    policy: SidPolicy, table: PrefixTable, levels: int, prompts: Tensor, lengths: Tensor, beam: int
) -> Tensor:
    """What free decoding would do: bool (B, K), True where a beam's codes are no item's.

    A diagnosis, never used to recommend: plain beam search over all SID tokens for ``levels`` steps.
    """
    import torch

    with torch.inference_mode():
        rows = policy.sid_rows()
        tree = TreeCache(policy, prompts, lengths, beam * (levels - 1))
        hidden = tree.prefill()
        score = torch.zeros(len(prompts), 1, device=prompts.device)
        paths = torch.zeros(len(prompts), 1, 0, dtype=torch.long, device=prompts.device)
        for step in range(levels):
            log_prob = sid_logits(hidden, rows).log_softmax(-1)
            flat = (log_prob + score[..., None]).flatten(1)
            score, pick = flat.topk(min(beam, flat.shape[1]), dim=1)
            parent, token = pick // policy.n_sid, pick % policy.n_sid
            paths = paths.gather(1, parent[..., None].expand(-1, -1, step))
            paths = torch.cat([paths, token[..., None]], dim=2)
            if step < levels - 1:
                tree.reparent(parent)
                hidden = tree.feed(token + policy.sid_start)
    known = table.begins_item(paths.flatten(0, 1).cpu().numpy())
    return torch.from_numpy(~known).view(paths.shape[:2])


def pad_prompts(histories: Sequence[np.ndarray], pad: int) -> tuple[np.ndarray, np.ndarray]:
    """Right-pad token arrays: (int64 (B, P), lengths int64 (B,))."""
    lengths = np.array([len(h) for h in histories], np.int64)
    out = np.full((len(histories), int(lengths.max())), pad, np.int64)
    out[np.arange(out.shape[1])[None, :] < lengths[:, None]] = np.concatenate(histories)
    return out, lengths
