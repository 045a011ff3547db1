"""Everything a results table says about one recommender, from its lists and nothing else.

Accuracy is HR (= recall, one target per case), NDCG and MRR over the full catalogue, each case with weight one, with a
95% percentile bootstrap over users. Beyond accuracy, at the cut-off 10 (all our choice where the literature differs):

* coverage: share of the catalogue that is in at least one list;
* Gini of exposure: ``sum_i (2 i - N - 1) x_i / (N sum_i x_i)`` with x the ascending list counts of all N items,
  never recommended ones included: 0 is even, near 1 is a few items for everybody;
* novelty: mean over all recommended places of ``-log2((n_i + 1) / (sum_j n_j + N))``, n the training counts, in bits;
* diversity and interest coverage by categories: see ``diversity.py``; None where the catalogue has no categories.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dig_ray.errors import UserError
from dig_ray.evaluation import diversity, intervals, slices
from dig_ray.evaluation.case_histories import histories, train_counts
from dig_ray.numerics import ranking

if TYPE_CHECKING:
    from dig_ray.catalog.dataset import Cases, Dataset

BEYOND_K = 10
DIGITS = 10  # the last bits of a sum depend on the thread count; a result file should not


def number(value: float) -> float | None:
    """A float for JSON: rounded, NaN as None."""
    return None if np.isnan(value) else round(float(value), DIGITS)


def evaluate(
    dataset: Dataset,
    cases: Cases,
    recs: np.ndarray,
    ks: Sequence[int] = (1, 5, 10, 20),
    seed: int = 0,
    n_bootstrap: int = 1000,
) -> dict[str, Any]:
    """Score one recommender's lists.

    Args:
        dataset: catalogue, events and split.
        cases: users, targets and where their histories lie.
        recs: int ``(C, k)`` item indices, best first, padded -1. A list that is shorter than a cut-off is scored with what it has, as a
            catalogue may hold no more for a user; ``short_lists`` counts them (our choice).
        ks: cut-offs.
        seed: decides which users each resample draws; the same seed pairs the draws of different recommenders.
        n_bootstrap: resamples; 0 leaves the intervals out (None).

    Returns:
        JSON-able: ``metrics`` {"NDCG@10": {"mean", "low", "high"}}, ``coverage@10``, ``gini@10``, ``novelty@10``, ``diversity@10``,
        ``interest_coverage@10``, ``slices`` {"popularity" | "history" | "target": [{"slice", "n", "share", "metrics"}]}, where a
        target is new to the user or a repeat of an item in the case's history, counts, split name and hash, seed.

    Raises:
        UserError: rows that do not fit the cases, items twice or outside the catalogue.
    """
    recs = np.asarray(recs)
    ranking.check_recs(recs, len(cases.target), dataset.n_items)
    if not len(cases.target):
        raise UserError("there is no case to evaluate; every user needs an event in the split that is scored")
    longest = int((recs != ranking.PAD).sum(axis=1).max(initial=0))
    recs = widened(recs, max(ks))
    names, values = ranking.per_case(ranking.rank_of_target(recs, cases.target), ks)
    frequency = train_counts(dataset)
    popularity_names, by_popularity = slices.members(frequency[cases.target], slices.POPULARITY)
    length = np.asarray(cases.end) - np.asarray(cases.start)
    history_names, by_history = slices.members(length, slices.HISTORY)
    repeated = target_in_history(dataset.events, cases)
    target_names, by_target = slices.members(repeated, slices.TARGET)
    everything = np.ones((len(values), 1), bool)
    groups = np.concatenate([everything, by_popularity, by_history, by_target], axis=1)
    total, *tables = _summarise(np.asarray(cases.user), names, values, groups, seed, n_bootstrap)
    rows = iter(zip([*popularity_names, *history_names, *target_names], tables, strict=True))
    named = {
        kind: list(itertools.islice(rows, len(of)))
        for kind, of in (
            ("popularity", popularity_names),
            ("history", history_names),
            ("target", target_names),
        )
    }
    return {
        "n_cases": len(values),
        "n_users": len(np.unique(cases.user)),
        "n_items": int(dataset.n_items),
        "split_name": str(getattr(dataset, "split_name", "")),
        "split_hash": str(getattr(dataset, "split_hash", "")),
        "seed": seed,
        "n_bootstrap": n_bootstrap,
        "ks": [int(k) for k in ks],
        "list_length": longest,
        "short_lists": int((recs[:, max(ks) - 1] == ranking.PAD).sum()),
        "metrics": total["metrics"],
        **beyond_accuracy(recs, frequency),
        **by_category(dataset, cases, recs),
        "slices": {
            kind: [{"slice": name, **table} for name, table in part if table["n"]]
            for kind, part in named.items()
        },
    }


def widened(recs: np.ndarray, k: int) -> np.ndarray:
    """Lists of at least ``k`` places, int ``(C, >= k)``, padded -1."""
    return np.pad(recs, ((0, 0), (0, max(0, k - recs.shape[1]))), constant_values=ranking.PAD)


def target_in_history(events: np.ndarray, cases: Cases) -> np.ndarray:
    """Whether the target is a repeat, an item of the case's own history; bool ``(C,)``."""
    row, item, _ = histories(events, cases)
    out = np.zeros(len(cases.target), bool)
    out[row[item == np.asarray(cases.target)[row]]] = True
    return out


def _summarise(
    users: np.ndarray, names: list[str], values: np.ndarray, groups: np.ndarray, seed: int, n_bootstrap: int
) -> list[dict[str, Any]]:
    """One ``{"n", "share", "metrics"}`` per group of cases."""
    count = groups.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = groups.T.astype(np.float64) @ values / count[:, None]
    low = high = np.full_like(mean, np.nan)
    if n_bootstrap:
        samples = intervals.bootstrap_means(users, values, groups, n_bootstrap, seed)
        low, high = intervals.percentile_interval(samples)
    return [
        {
            "n": int(count[g]),
            "share": number(count[g] / len(values)),
            "metrics": {
                name: {"mean": number(mean[g, m]), "low": number(low[g, m]), "high": number(high[g, m])}
                for m, name in enumerate(names)
            },
        }
        for g in range(groups.shape[1])
    ]


def beyond_accuracy(recs: np.ndarray, train_counts: np.ndarray, k: int = BEYOND_K) -> dict[str, float | None]:
    """Coverage, Gini of exposure and novelty at k; the formulas are at the top of this file.

    Args:
        recs: int ``(C, >= 1)`` padded -1; shorter lists than k count with what they have.
        train_counts: int ``(N,)``, training events of each item.
        k: cut-off.
    """
    shown = recs[:, :k]
    shown = shown[shown != ranking.PAD]
    n_items = len(train_counts)
    if not shown.size:
        return {f"coverage@{k}": 0.0, f"gini@{k}": None, f"novelty@{k}": None}
    exposure = np.sort(np.bincount(shown, minlength=n_items)).astype(np.float64)
    place = np.arange(1, n_items + 1)
    gini = ((2 * place - n_items - 1) * exposure).sum() / (n_items * exposure.sum())
    bits = -np.log2((train_counts + 1.0) / (train_counts.sum() + n_items))
    return {
        f"coverage@{k}": number(float((exposure > 0).mean())),
        f"gini@{k}": number(float(gini)),
        f"novelty@{k}": number(float(bits[shown].mean())),
    }


def by_category(
    dataset: Dataset, cases: Cases, recs: np.ndarray, k: int = BEYOND_K
) -> dict[str, float | None]:
    """Diversity and interest coverage at k, None where the catalogue has no categories; see ``diversity.py``."""
    categories = diversity.categories_of(dataset)
    names = (f"diversity@{k}", f"interest_coverage@{k}")
    if categories is None:
        return dict.fromkeys(names)
    found = (
        diversity.list_diversity(recs[:, :k], categories),
        diversity.interest_coverage(recs[:, :k], dataset.events, cases, categories),
    )
    return {name: None if value is None else number(value) for name, value in zip(names, found, strict=True)}
