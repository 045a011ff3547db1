"""Scores of all items into lists: what was seen left out, equal scores in an order that means nothing, and how often that order decided.

Items of one count or one similarity tie, cold ones above all. A catalogue's own order is no accident (it may be by popularity, by
time, or by the very sequences that are to be predicted), so ties are broken by a hash of the item's id and the seed, and told.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dig_ray.evaluation.case_histories import histories
from dig_ray.numerics import ranking

if TYPE_CHECKING:
    from dig_ray.catalog.dataset import Cases, Dataset

CHUNK_SCORES = 1 << 24  # dense scores held at once: 64 MB as float32, 128 MB as sort keys


class Lists(NamedTuple):
    """What a baseline recommends to C cases.

    Attributes:
        items: int32 ``(C, k)``, best first, padded -1.
        scores: float32 ``(C, k)``, padded ``-inf``.
        tied: bool ``(C,)``, whether chance decided where in the list the target stands, or whether it does: another item that could be
            listed has its score, and fewer than k have a higher one.
    """

    items: np.ndarray
    scores: np.ndarray
    tied: np.ndarray


def rank_all(
    score: Callable[[int, int], np.ndarray],
    dataset: Dataset,
    cases: Cases,
    k: int,
    exclude_seen: bool,
    places: np.ndarray | None = None,
    at_once: int | None = None,
) -> Lists:
    """The k best items of every case.

    Args:
        score: from ``low`` and ``high`` the scores of all N items for the cases between, float32 ``(high - low, N)``; written over here.
        dataset: the catalogue and its events.
        cases: whom to recommend to.
        k: length of the lists.
        exclude_seen: leave out what is in a case's history.
        places: int ``(N,)``, who comes first of equals; by default ``ranking.tie_places`` of seed 0.
        at_once: cases scored together; results do not depend on it.
    """
    if places is None:
        places = ranking.tie_places(dataset.item_ids, 0)
    count, step = len(cases.target), at_once or max(1, CHUNK_SCORES // max(1, dataset.n_items))
    items = np.full((count, k), ranking.PAD, np.int32)
    values = np.full((count, k), -np.inf, np.float32)
    tied = np.zeros(count, dtype=bool)
    for low in range(0, count, step):
        high = min(low + step, count)
        scores = score(low, high)
        if exclude_seen:
            row, item, _ = histories(dataset.events, cases, low, high)
            scores[row, item] = -np.inf
        items[low:high], values[low:high] = ranking.top_k(scores, k, places)
        own = np.take_along_axis(scores, np.asarray(cases.target[low:high], np.int64)[:, None], axis=1)
        equal, better = (scores == own).sum(axis=1), (scores > own).sum(axis=1)
        tied[low:high] = np.isfinite(own[:, 0]) & (equal > 1) & (better < k)
    return Lists(items, values, tied)
