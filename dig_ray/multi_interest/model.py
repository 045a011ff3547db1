"""Collaborative multi-interests as a torch module: dynamic routing to capsules, or self-attention, for all prefixes of a history at once.

Capsules follow MIND (arXiv 1904.08030) and ComiRec-DR (arXiv 2005.09347): ``u_kj = W_k e_j``; in every round ``w = softmax over interests
of b``, ``v_k = squash(sum_j w_kj u_kj)``, ``b_kj += u_kj . v_k``, with a gradient through the last round only. Attention is ComiRec-SA's.
A next event is to be predicted from every prefix of a history, and ``u`` of an event is the same in all of them: it is made once, and
each prefix routes over what it may see. The weight by age is our choice.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dig_ray.multi_interest.config import MultiInterestConfig
from dig_ray.numerics.fast_dropout import dropout
from dig_ray.numerics.linear_cross_entropy import unit_rows


def squash(z: Tensor) -> Tensor:
    """``|z|^2 / (1 + |z|^2) * z / |z|`` over the last axis; zero stays zero."""
    square = z.square().sum(-1, keepdim=True)
    return z * (square / (1 + square) * torch.rsqrt(square + 1e-12))


class MultiInterestModel(nn.Module):
    """Item vectors, and what turns a history into K interests.

    Args:
        n_items: items in the catalogue, N.
        config: settings of sizes, routing and scores.
    """

    def __init__(self, n_items: int, config: MultiInterestConfig) -> None:
        super().__init__()
        self.config = config
        width, count = config.width, config.interests
        self.items = nn.Embedding(n_items, width)
        nn.init.normal_(self.items.weight, std=width**-0.5)
        if config.routing == "capsules":
            self.maps = nn.Parameter(torch.randn(count, width, width) * width**-0.5)
        else:
            self.inner = nn.Linear(width, config.hidden)
            self.outer = nn.Linear(config.hidden, count, bias=False)
        self.ages = nn.Parameter(torch.zeros(count, config.max_length)) if config.recency else None

    def forward(self, items: Tensor, lengths: Tensor, at: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Interests after every event of histories, or after one event of each.

        Args:
            items: int64 ``(S, L)``, oldest first, padded at the end by any valid index.
            lengths: int64 ``(S,)``, events of each.
            at: int64 ``(S,)``, the event after which interests are wanted; all of them when None.

        Returns:
            interests float ``(S, T, K, D)`` and how much of each event is in them, float ``(S, T, K, L)``; T is L, or 1 with ``at``. What
            stands at or after padding means nothing.
        """
        length = items.shape[1]
        place = torch.arange(length, device=items.device)
        now = place[None, :, None] if at is None else at[:, None, None]
        age = now - place  # (S or 1, T, L)
        seen = (age >= 0) & (place < lengths[:, None])[:, None]
        by_age = None
        if self.ages is not None:
            by_age = self.ages[:, age.clamp(0, self.config.max_length - 1)].transpose(
                0, 1
            )  # (S or 1, K, T, L)
        events = dropout(self.items(items), self.config.dropout, self.training)
        if self.config.routing == "capsules":
            interests, weights = self._route(events, seen[:, None], by_age)
        else:
            interests, weights = self._attend(events, seen[:, None], by_age)
        return interests.transpose(1, 2), weights.transpose(1, 2)

    def _route(self, events: Tensor, seen: Tensor, by_age: Tensor | None) -> tuple[Tensor, Tensor]:
        """(S, K, T, D) and (S, K, T, L), from events (S, L, D), what may be seen (S, 1, T, L) and weights by age."""
        told = torch.einsum("sld,kde->skle", events, self.maps)
        amount = seen.to(events.dtype)
        if by_age is not None:
            amount = amount * by_age.exp()

        def gather(logits: Tensor | None, told: Tensor) -> tuple[Tensor, Tensor]:
            share = amount / self.config.interests if logits is None else logits.softmax(1) * amount
            share = share.expand(told.shape[0], told.shape[1], -1, -1)
            return squash(share @ told), share

        logits = None
        with torch.no_grad():  # the rounds before the last say who gets what, and learn nothing
            fixed = told.detach()
            for _ in range(self.config.rounds - 1):
                agreed = gather(logits, fixed)[0] @ fixed.transpose(-1, -2) * self.config.agreement
                logits = agreed if logits is None else logits + agreed
        return gather(logits, told)

    def _attend(self, events: Tensor, seen: Tensor, by_age: Tensor | None) -> tuple[Tensor, Tensor]:
        logits = self.outer(torch.tanh(self.inner(events))).transpose(1, 2)[:, :, None]  # (S, K, 1, L)
        if by_age is not None:
            logits = logits + by_age
        share = logits.masked_fill(~seen, torch.finfo(logits.dtype).min).softmax(-1) * seen
        return share @ events[:, None], share

    def queries(self, interests: Tensor) -> Tensor:
        """Interests as they are multiplied with ``keys()``."""
        if self.config.temperature is None:
            return interests
        return unit_rows(interests) / self.config.temperature

    def keys(self) -> Tensor:
        """Item vectors ``(N, D)`` as they are scored."""
        return self.items.weight if self.config.temperature is None else unit_rows(self.items.weight)


def read_out(queries: Tensor, targets: Tensor) -> Tensor:
    """Of each row's interests the one nearest to its target: ``(M, K, D)`` and ``(M, D)`` -> ``(M, D)``."""
    best = torch.einsum("mkd,md->mk", queries.detach(), targets.detach()).argmax(1)
    return queries[torch.arange(len(queries), device=queries.device), best]
