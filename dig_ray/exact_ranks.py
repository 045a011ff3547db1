"""Where targets stand among all items, by torch, without a list of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch


def ranks_among_all(
    score: Callable[[int, int], torch.Tensor], targets: np.ndarray, at_once: int
) -> np.ndarray:
    """Exact 0-based rank of each case's target among all items; ties rank the lower item index first, as ``ranking.top_k`` does.
    A target whose score is NaN is behind all others, so that a model that came to nothing is never the best.

    Args:
        score: from ``low`` and ``high`` the scores of all N items for the cases between, float ``(high - low, N)``.
        targets: int ``(C,)``.
        at_once: cases.

    Returns:
        int64 ``(C,)``.
    """
    ranks = [np.zeros(0, np.int64)]
    with torch.inference_mode():
        for low in range(0, len(targets), at_once):
            wanted = targets[low : low + at_once]
            scores = score(low, low + len(wanted))
            target = torch.from_numpy(np.asarray(wanted, np.int64)).to(scores.device)[:, None]
            own = scores.gather(1, target)
            number = torch.arange(scores.shape[1], device=scores.device)
            before = ~(scores <= own) | ((scores == own) & (number < target))
            ranks.append(before.sum(1).cpu().numpy())
    return np.concatenate(ranks)
