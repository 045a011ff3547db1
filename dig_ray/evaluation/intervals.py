"""Bootstrap over users: which users there happen to be is what makes a metric uncertain.

Users are drawn with replacement, and all cases of a drawn user come along, so that the same code serves one target per
user (leave-last-out) and many (a split by time). All metrics and slices share the draws: differences are paired.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

LEVEL = 0.95
BLOCK = 64  # draws held at once; does not change the result


def draws(n_users: int, n_bootstrap: int, seed: int) -> Iterator[np.ndarray]:
    """Blocks of resampling weights: how often each user was drawn, float64 ``(<= BLOCK, n_users)``."""
    rng = np.random.default_rng(seed)
    for low in range(0, n_bootstrap, BLOCK):
        size = min(BLOCK, n_bootstrap - low)
        picked = rng.integers(0, n_users, size=(size, n_users))
        picked += np.arange(size)[:, None] * n_users
        yield np.bincount(picked.ravel(), minlength=size * n_users).reshape(size, n_users).astype(np.float64)


def per_user(users: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sum of case values by user.

    Args:
        users: int ``(C,)``, whose case it is.
        values: float ``(C, M)``.

    Returns:
        float ``(U, M)``, users in ascending order.
    """
    _, number = np.unique(users, return_inverse=True)
    if len(number) == number.max(initial=-1) + 1:  # one case each
        out = np.empty_like(values)
        out[number] = values
        return out
    columns = [np.bincount(number, weights=values[:, m]) for m in range(values.shape[1])]
    return np.stack(columns, axis=1)


def bootstrap_means(
    users: np.ndarray, values: np.ndarray, groups: np.ndarray, n_bootstrap: int, seed: int
) -> np.ndarray:
    """Resampled mean of each metric within each group of cases.

    Args:
        users: int ``(C,)``, whose case it is.
        values: float ``(C, M)`` per-case metrics.
        groups: bool ``(C, G)``, which cases a group holds.
        n_bootstrap: how often users are drawn anew.
        seed: decides which users each resample draws.

    Returns:
        float64 ``(n_bootstrap, G, M)``; NaN where a resample has no case of a group.
    """
    count, metrics = values.shape
    inside = groups.astype(np.float64)
    sums = (inside[:, :, None] * values[:, None, :]).reshape(count, -1)
    table = per_user(users, np.concatenate([sums, inside], axis=1))
    out = np.empty((n_bootstrap, groups.shape[1], metrics))
    low = 0
    for weight in draws(len(table), n_bootstrap, seed):
        total = weight @ table
        number = total[:, groups.shape[1] * metrics :]
        with np.errstate(invalid="ignore", divide="ignore"):
            out[low : low + len(weight)] = (
                total[:, : groups.shape[1] * metrics].reshape(len(weight), groups.shape[1], metrics)
                / number[:, :, None]
            )
        low += len(weight)
    return out


def percentile_interval(samples: np.ndarray, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper percentile bound over axis 0, NaN samples left out; NaN where nothing is left."""
    edge = 50.0 * (1.0 - level)
    usable = ~np.isnan(samples)
    safe = np.where(usable.any(axis=0), samples, 0.0)
    low, high = np.nanpercentile(safe, [edge, 100.0 - edge], axis=0)
    empty = ~usable.any(axis=0)
    return np.where(empty, np.nan, low), np.where(empty, np.nan, high)
