"""How varied a list is, and how many of a user's interests it meets, by the items' categories.

* diversity: share of the pairs of a list whose items have no category in common (ComiRec, arXiv 2005.09347, 4.3); pairs with an item
  that has no category are left out;
* interest coverage (our choice): share of the categories of a user's history that the list has an item of.

A category is one entry of an item's ``categories``. Where these are whole paths, ``Beauty > Makeup > Nails`` and
``Beauty > Makeup > Lips`` are two; where they are levels of one path, items of one department have one in common.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from dig_ray.evaluation.case_histories import histories
from dig_ray.numerics import ranking

if TYPE_CHECKING:
    from dig_ray.catalog.dataset import Cases, Dataset


def categories_of(dataset: Dataset) -> sparse.csr_matrix | None:
    """Which item has which category, float32 ``(N, G)`` of ones; None where no item has one."""
    if "categories" not in dataset.items.column_names:
        return None
    found = [[name for name in names or () if name] for names in dataset.items["categories"].to_pylist()]
    known = {
        name: place for place, name in enumerate(dict.fromkeys(name for names in found for name in names))
    }
    return _members(found, known) if known else None


def _members(found: Sequence[Sequence[str]], known: dict[str, int]) -> sparse.csr_matrix:
    columns = [[known[name] for name in dict.fromkeys(names)] for names in found]
    starts = np.concatenate([[0], np.cumsum([len(one) for one in columns])])
    flat = np.array([column for one in columns for column in one], np.int64)
    return sparse.csr_matrix((np.ones(len(flat), np.float32), flat, starts), (len(found), len(known)))


def list_diversity(recs: np.ndarray, categories: sparse.csr_matrix) -> float | None:
    """Mean diversity of the lists.

    Args:
        recs: int ``(C, k)`` item indices, padded -1.
        categories: sparse float32 ``(N, G)`` of ones, which :func:`categories_of` gives.

    Returns:
        0 to 1; None where no list has two items with categories.
    """
    known = np.append(np.diff(categories.indptr) > 0, False)  # the last place stands for padding
    apart, pairs = np.zeros(len(recs)), np.zeros(len(recs))
    for first in range(recs.shape[1]):
        for second in range(first + 1, recs.shape[1]):
            rows = np.flatnonzero(known[recs[:, first]] & known[recs[:, second]])
            a, b = categories[recs[rows, first]], categories[recs[rows, second]]
            apart[rows] += np.asarray(a.multiply(b).sum(axis=1)).ravel() == 0
            pairs[rows] += 1
    some = pairs > 0
    return float((apart[some] / pairs[some]).mean()) if some.any() else None


def interest_coverage(
    recs: np.ndarray, events: np.ndarray, cases: Cases, categories: sparse.csr_matrix
) -> float | None:
    """Mean share of the categories of a case's history that its list has an item of.

    Args:
        recs: int ``(C, k)`` item indices, padded -1.
        events: int ``(E,)``, the item index of every event.
        cases: whose histories are looked at.
        categories: sparse float32 ``(N, G)`` of ones, which :func:`categories_of` gives.

    Returns:
        0 to 1; None where no history has a category.
    """
    row, item, _ = histories(events, cases)
    had = _of_rows(row, item, len(recs), categories)
    case, place = np.nonzero(recs != ranking.PAD)
    got = _of_rows(case, recs[case, place], len(recs), categories)
    wanted = np.diff(had.indptr)
    met = np.asarray(had.multiply(got).sum(axis=1)).ravel()
    some = wanted > 0
    return float((met[some] / wanted[some]).mean()) if some.any() else None


def _of_rows(
    row: np.ndarray, item: np.ndarray, rows: int, categories: sparse.csr_matrix
) -> sparse.csr_matrix:
    """Ones where a row has an item of a category."""
    members = sparse.csr_matrix((np.ones(len(row), np.float32), (row, item)), (rows, categories.shape[0]))
    found = (members @ categories).tocsr()
    found.data[:] = 1
    return found
