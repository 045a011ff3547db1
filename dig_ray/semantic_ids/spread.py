"""An alternative to the suffix for most collisions: move items to a free code of the last level (our choice, an option).

Among items that share all codes but the last, last codes are given out so that no two are alike and the summed squared
error is least (an assignment problem). Items beyond the codes there are keep their nearest code and get a suffix.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dig_ray.semantic_ids.residual_kmeans import reconstruct


def spread_last_level(rows: np.ndarray, codes: np.ndarray, codebooks: Sequence[np.ndarray]) -> np.ndarray:
    """Codes int32 (N, L) with collisions resolved inside the last level where there is room.

    Args:
        rows: float32 (N, d) in the space of the codebooks.
        codes: int32 (N, L), greedy codes of the rows.
        codebooks: L arrays (K_l, d).
    """
    from scipy.optimize import linear_sum_assignment

    codes = codes.copy()
    last = codebooks[-1]
    half = 0.5 * (last * last).sum(axis=1)
    prefix = (
        np.unique(codes[:, :-1], axis=0, return_inverse=True)[1].reshape(-1) if codes.shape[1] > 1 else None
    )
    group_of = np.zeros(len(codes), dtype=np.int64) if prefix is None else prefix
    order = np.argsort(group_of, kind="stable")
    bounds = np.flatnonzero(np.diff(group_of[order])) + 1
    for group in np.split(order, bounds):
        taken = codes[group, -1]
        if len(np.unique(taken)) == len(group):
            continue
        residual = rows[group] - reconstruct(codes[group], codebooks, codes.shape[1] - 1)
        cost = half - residual @ last.T
        chosen_rows, chosen_codes = linear_sum_assignment(cost.astype(np.float64))
        codes[group[chosen_rows], -1] = chosen_codes
    return codes
