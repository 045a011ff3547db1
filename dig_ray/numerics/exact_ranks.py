"""Where targets stand among all items, by torch, without a list of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

IN_CACHE = 1 << 20
"""Scores that a CPU takes at once; what is done to them then stays in its cache."""


def rows_at_once(keys: torch.Tensor, each: int = 1) -> int:
    """Cases that are scored together against all ``keys`` by ``each`` queries a case."""
    most = IN_CACHE if keys.device.type == "cpu" else 64 * IN_CACHE
    return max(1, most // max(1, len(keys) * each))


def ranks_among_all(
    score: Callable[[int, int], torch.Tensor],
    targets: np.ndarray,
    at_once: int,
    places: np.ndarray | None = None,
) -> np.ndarray:
    """Exact 0-based rank of each case's target among all items; ties rank as in ``ranking.top_k``.
    A target whose score is NaN is behind all others, so that a model that came to nothing is never the best.

    Args:
        score: from ``low`` and ``high`` the scores of all N items for the cases between, float ``(high - low, N)``.
        targets: int ``(C,)``.
        at_once: cases, see ``rows_at_once``.
        places: int ``(N,)``, who comes first of equals; by default the lower index.

    Returns:
        int64 ``(C,)``.
    """
    ranks = [np.zeros(0, np.int64)]
    place = None if places is None else torch.from_numpy(np.asarray(places, np.int64))
    with torch.inference_mode():
        for low in range(0, len(targets), at_once):
            wanted = targets[low : low + at_once]
            scores = score(low, low + len(wanted))
            target = torch.from_numpy(np.asarray(wanted, np.int64)).to(scores.device)
            own = scores.gather(1, target[:, None])
            found = scores.shape[1] - _count(scores <= own)
            same = scores == own
            for row in (_count(same) > 1).nonzero().squeeze(1).tolist():
                if place is None:
                    found[row] += same[row, : target[row]].sum()
                else:
                    place = place.to(scores.device)
                    found[row] += (same[row] & (place < place[target[row]])).sum()
            ranks.append(found.cpu().numpy())
    return np.concatenate(ranks)


def _count(flags: torch.Tensor) -> torch.Tensor:
    """How many of each row hold; ``sum`` widens every flag to 64 bits first."""
    return flags.view(torch.uint8).sum(1, dtype=torch.int32).long()
