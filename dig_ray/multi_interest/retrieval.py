"""What several interests find together: the best items of each, merged by their best score.

With an item's score being its best over all interests, the k best of the merged lists are the k best of the catalogue as long as each
interest gives k of its own; so ``exact`` is exact. ``faiss`` looks each interest's items up in an HNSW graph, which may miss some.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dig_ray.errors import UserError
from dig_ray.numerics import ranking

USERS_AT_ONCE = 1024
SCORES_AT_ONCE = 1 << 27
"""Of all interests of the users that are scored against the whole catalogue together; 512 MiB."""
LINKS = 32
"""Of an item in the HNSW graph."""
SEARCHED = 256
"""Items looked at around an interest at least."""


def users_at_once(interests: int, n_items: int) -> int:
    """Users whose interests are scored together: fewer where the catalogue is large."""
    return min(USERS_AT_ONCE, max(1, SCORES_AT_ONCE // (interests * n_items)))


def top_items(
    queries: np.ndarray, keys: np.ndarray, k: int, without: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The k items with the highest ``max over interests of query . key``.

    Args:
        queries: float32 ``(B, K, D)``; an interest of NaN finds nothing.
        keys: float32 ``(N, D)``.
        k: items that are found for each row.
        without: int ``(H, 2)``, pairs of row and item that may not be found.

    Returns:
        items int32 ``(B, k)``, best first, padded -1, and scores float32 ``(B, k)``.
    """
    rows, count, width = queries.shape
    scores = (queries.reshape(rows * count, width) @ keys.T).reshape(rows, count, len(keys)).max(axis=1)
    if without is not None:
        scores[without[:, 0], without[:, 1]] = -np.inf
    return ranking.top_k(scores, k)


def need_faiss() -> Any:
    """The package.

    Raises:
        UserError: it is not installed.
    """
    try:
        import faiss
    except ImportError:
        raise UserError(
            "multi_interest.search=faiss needs the package faiss-cpu; pip install 'dig-ray[faiss]', or set search=exact"
        ) from None
    return faiss


class FaissIndex:
    """An HNSW graph over item vectors, by inner product.

    Raises:
        UserError: faiss is not installed.
    """

    def __init__(self, keys: np.ndarray) -> None:
        faiss = need_faiss()
        self.keys = np.ascontiguousarray(keys, np.float32)
        self.graph: Any = faiss.IndexHNSWFlat(keys.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
        self.graph.hnsw.efConstruction = SEARCHED
        self.graph.add(self.keys)

    def top_items(
        self, queries: np.ndarray, k: int, without: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """As :func:`top_items`; what the graph misses is not found."""
        rows, count, width = queries.shape
        hidden = 0 if without is None or not len(without) else int(np.bincount(without[:, 0]).max())
        wanted = min(k + hidden, len(self.keys))
        self.graph.hnsw.efSearch = max(SEARCHED, 2 * wanted)
        scores, items = self.graph.search(
            np.ascontiguousarray(queries.reshape(-1, width), np.float32), wanted
        )
        items, scores = items.reshape(rows, count * wanted), scores.reshape(rows, count * wanted)
        return merge(items, scores, k, without)


def merge(
    items: np.ndarray, scores: np.ndarray, k: int, without: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Lists of several interests as one: each item once with its best score, equal scores by the lower index.

    Args:
        items: int ``(B, J)``, the items of all lists of a row, -1 where there is none.
        scores: float32 ``(B, J)``, the score of each.
        k: items that are kept of each row.
        without: items that are left out, as in :func:`top_items`.
    """
    rows = np.repeat(np.arange(len(items)), items.shape[1])
    flat, value = items.ravel().astype(np.int64), scores.ravel()
    keep = flat >= 0
    if without is not None and len(without):
        most = max(int(flat.max(initial=0)), int(without[:, 1].max())) + 1
        keep &= ~np.isin(rows * most + flat, without[:, 0].astype(np.int64) * most + without[:, 1])
    rows, flat, value = rows[keep], flat[keep], value[keep]
    order = np.lexsort((flat, -value, rows))
    rows, flat, value = rows[order], flat[order], value[order]
    _, first = np.unique(rows * (int(flat.max(initial=0)) + 1) + flat, return_index=True)
    first.sort()  # an item's best place in its row
    rows, flat, value = rows[first], flat[first], value[first]
    place = np.arange(len(rows)) - np.searchsorted(rows, np.arange(len(items)))[rows]
    found = np.full((len(items), k), ranking.PAD, np.int32)
    best = np.full((len(items), k), -np.inf, np.float32)
    top = place < k
    found[rows[top], place[top]], best[rows[top], place[top]] = flat[top], value[top]
    return found, best
