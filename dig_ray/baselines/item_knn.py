"""Recency-weighted item-KNN: no training, and above several published generative recommenders.

What follows what is counted within users' training sequences, near pairs more than far ones, and a later item counts
more for an earlier one than the other way round. Counts are divided by powers of both items' frequencies, halfway
between a raw count and a cosine. A user's score for an item sums over the history, the newest event most. The idea
goes back to sequential rules and session-KNN (Ludewig and Jannach 2018, arXiv 1803.09587); the exact form is our choice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dig_ray.baselines.baseline import Baseline, Fitted, Material
from dig_ray.baselines.config import ItemKnnConfig
from dig_ray.baselines.lists import Lists, rank_all
from dig_ray.baselines.popularity import filler, popularity_scores
from dig_ray.evaluation.case_histories import histories, train_counts
from dig_ray.numerics import ranking

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from dig_ray.catalog.dataset import Cases, Dataset

DEFAULT = ItemKnnConfig()


def cooccurrence(
    offsets: np.ndarray, events: np.ndarray, n_items: int, window: int, power: float
) -> csr_matrix:
    """``C[i, j]``: how often j comes 1 to ``window`` events after i in one sequence, each pair weighted by ``distance ** -power``.

    Args:
        offsets: int64 ``(U + 1,)``, where each user's training sequence begins in ``events``.
        events: int ``(E,)`` item indices.
        n_items: N, items of the catalogue.
        window: events apart at most.
        power: how fast a pair counts less with its distance; 0 counts all alike.

    Returns:
        sparse float32 ``(N, N)``.
    """
    from scipy.sparse import coo_matrix, csr_matrix

    user = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    total = csr_matrix((n_items, n_items), dtype=np.float32)
    reach = min(window, int(np.diff(offsets).max(initial=0)) - 1)
    for distance in range(1, reach + 1):
        together = user[:-distance] == user[distance:]
        first, second = events[:-distance][together], events[distance:][together]
        weight = np.full(len(first), float(distance) ** -power, np.float32)
        total = total + coo_matrix((weight, (first, second)), shape=(n_items, n_items)).tocsr()
    return total


def similarity(
    dataset: Dataset, config: ItemKnnConfig = DEFAULT, places: np.ndarray | None = None
) -> csr_matrix:
    """``S[i, j]``, how much an i in the history speaks for j; sparse float32 ``(N, N)``, zero diagonal.

    ``S = (C + backward * C') / ((n_i + damping)^source_power * (n_j + damping)^target_power)`` with n the training
    counts. ``neighbours`` keeps only that many of the largest entries of a row, of equal ones those that come first in ``places``, int
    ``(N,)`` (by default ``ranking.tie_places`` of seed 0).
    """
    from scipy.sparse import diags

    offsets, events = dataset.train_sequences()
    counts = cooccurrence(offsets, events, dataset.n_items, config.window, config.distance_power)
    mixed = (counts + config.backward * counts.T).tocsr()
    frequency = np.maximum(train_counts(dataset) + config.damping, 1e-9)
    left, right = (
        diags((frequency**-p).astype(np.float32)) for p in (config.source_power, config.target_power)
    )
    out = (left @ mixed @ right).tocsr().astype(np.float32)
    out.setdiag(0)
    out.eliminate_zeros()
    out.sort_indices()
    if config.neighbours is None:
        return out
    return _prune(
        out, config.neighbours, ranking.tie_places(dataset.item_ids, 0) if places is None else places
    )


def _prune(matrix: csr_matrix, keep: int, places: np.ndarray) -> csr_matrix:
    """The ``keep`` largest entries of each row; equal ones by their columns' places."""
    from scipy.sparse import csr_matrix

    row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((places[matrix.indices], -matrix.data, row))
    place = np.arange(len(order)) - matrix.indptr[row[order]]
    chosen = np.sort(order[place < keep])
    return csr_matrix((matrix.data[chosen], (row[chosen], matrix.indices[chosen])), shape=matrix.shape)


def recommend(
    dataset: Dataset,
    cases: Cases,
    k: int,
    exclude_seen: bool,
    config: ItemKnnConfig = DEFAULT,
    item_similarity: csr_matrix | None = None,
    places: np.ndarray | None = None,
) -> Lists:
    """Score ``sum over the history of decay^age * S[item, j]``, whole catalogue; the rest is filled by popularity, with negative scores.

    Args:
        dataset: catalogue, events and split; only training events are counted.
        cases: whom to recommend to.
        k: length of the lists.
        exclude_seen: leave out what is in the history.
        config: how pairs are counted, weighed by frequency and aged; see :func:`similarity`.
        item_similarity: sparse float32 ``(N, N)`` from :func:`similarity`, to count only once for several calls.
        places: int ``(N,)``, which of items with one score comes first, see :func:`rank_all`.
    """
    from scipy.sparse import csr_matrix

    table = similarity(dataset, config, places) if item_similarity is None else item_similarity
    base = filler(popularity_scores(dataset))

    def score(low: int, high: int) -> np.ndarray:
        row, item, age = histories(dataset.events, cases, low, high, config.history)
        weight = np.power(config.decay, age).astype(np.float32)
        profile = csr_matrix((weight, (row, item)), shape=(high - low, dataset.n_items))
        found = (profile @ table).tocsr()
        scores = np.repeat(base[None], high - low, axis=0)
        reached = found.data > 0  # a weight can underflow to 0 deep in a long history
        rows = np.repeat(np.arange(high - low), np.diff(found.indptr))
        scores[rows[reached], found.indices[reached]] = found.data[reached]
        return scores

    return rank_all(score, dataset, cases, k, exclude_seen, places)


def fit(material: Material) -> Fitted:
    """Count once what follows what, for the lists of all cases."""
    dataset, settings, places = material.dataset, material.config.item_knn, material.places
    table = similarity(dataset, settings, places)

    def best(cases: Cases, exclude_seen: bool) -> Lists:
        return recommend(dataset, cases, material.config.top_k, exclude_seen, settings, table, places)

    return Fitted(best)


BASELINE = Baseline(fit)
