"""Is one recommender better than another? Paired bootstrap over the same users and draws.

Two intervals that overlap say little: both move together from sample to sample. The difference per case does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dig_ray.errors import UserError
from dig_ray.evaluation import intervals
from dig_ray.evaluation.metrics import number
from dig_ray.numerics import ranking

if TYPE_CHECKING:
    from dig_ray.catalog.dataset import Cases, Dataset


def compare(
    dataset: Dataset,
    cases: Cases,
    recs_a: np.ndarray,
    recs_b: np.ndarray,
    ks: Sequence[int] = (1, 5, 10, 20),
    seed: int = 0,
    n_bootstrap: int = 1000,
    only: np.ndarray | None = None,
) -> dict[str, dict[str, float | None]]:
    """Difference b - a of every metric, with a 95% interval.

    Args:
        dataset: the catalogue, whose items the lists hold.
        cases: the cases that both lists answer.
        recs_a: int ``(C, k)`` padded -1, the reference; shorter lists than a cut-off count with what they have.
        recs_b: int ``(C, k)``, what is compared with it.
        ks: cut-offs of the metrics.
        seed: decides which users each resample draws.
        n_bootstrap: how often users are drawn anew, with replacement.
        only: bool ``(C,)``, the cases that count; all when None.

    Returns:
        ``{"NDCG@10": {"a", "b", "difference", "relative", "low", "high", "p"}}``. ``p`` is twice the share of resamples
        on the other side of zero, with one added to count and total, at most 1: small when b differs from a.

    Raises:
        UserError: lists that cannot be scored, as in :func:`dig_ray.evaluation.metrics.evaluate`.
    """
    if not len(cases.target) or (only is not None and not only.any()) or n_bootstrap < 1:
        raise UserError("a comparison needs at least one case and one resample")
    values = []
    names: list[str] = []
    for recs in (np.asarray(recs_a), np.asarray(recs_b)):
        ranking.check_recs(recs, len(cases.target), dataset.n_items)
        names, scored = ranking.per_case(ranking.rank_of_target(recs, cases.target), ks)
        values.append(scored)
    counted = slice(None) if only is None else only
    a, b = (scored[counted] for scored in values)
    return paired(np.asarray(cases.user)[counted], names, a, b, seed, n_bootstrap)


def paired(
    users: np.ndarray,
    names: Sequence[str],
    values_a: np.ndarray,
    values_b: np.ndarray,
    seed: int = 0,
    n_bootstrap: int = 1000,
) -> dict[str, dict[str, float | None]]:
    """Difference b - a of per-case metrics, as ``compare`` returns it.

    Args:
        users: int ``(C,)``, whose case it is; a user's cases are drawn together.
        names: what the M metrics are called.
        values_a, values_b: float ``(C, M)``, of the same cases in the same order.
        seed: decides which users each resample draws.
        n_bootstrap: how often users are drawn anew, with replacement.
    """
    mean_a, mean_b = values_a.mean(axis=0), values_b.mean(axis=0)
    difference = values_b - values_a
    every = np.ones((len(difference), 1), bool)
    samples = intervals.bootstrap_means(users, difference, every, n_bootstrap, seed)[:, 0]
    low, high = intervals.percentile_interval(samples)
    # sums of many floats miss an exact zero by a few ulp
    other_side = np.minimum((samples <= 1e-12).sum(axis=0), (samples >= -1e-12).sum(axis=0))
    p = np.minimum(1.0, 2.0 * (other_side + 1) / (n_bootstrap + 1))
    return {
        name: {
            "a": number(mean_a[m]),
            "b": number(mean_b[m]),
            "difference": number(mean_b[m] - mean_a[m]),
            "relative": number((mean_b[m] - mean_a[m]) / mean_a[m]) if mean_a[m] else None,
            "low": number(low[m]),
            "high": number(high[m]),
            "p": number(p[m]),
        }
        for m, name in enumerate(names)
    }
