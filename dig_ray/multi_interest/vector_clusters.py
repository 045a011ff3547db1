"""A user's items grouped without an LLM: average linkage over the cosine distance of their vectors, cut where chance begins.

What it finds is likeness of vectors, never a reason to want things: what runs where there is no model, and the ablation "no LLM". All of
it is our choice, and every table names it "no LLM".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from dig_ray.mining.clusters import Clusters

PAIRS = 200_000
"""Random pairs of items from which the cut is taken."""


def chance_distance(vectors: np.ndarray, quantile: float, seed: int = 0) -> float:
    """The ``quantile`` of the cosine distance between two different random items.

    Args:
        vectors: float32 ``(N, D)``, item vectors of unit length.
        quantile: share of pairs in (0, 1) that lie nearer to each other than what is returned.
        seed: what the pairs are drawn from.
    """
    if len(vectors) < 2:
        return 0.0
    rng = np.random.default_rng(seed)
    first = rng.integers(len(vectors), size=PAIRS)
    second = (first + rng.integers(1, len(vectors), size=PAIRS)) % len(vectors)
    return float(np.quantile(1.0 - np.einsum("pd,pd->p", vectors[first], vectors[second]), quantile))


def group(vectors: np.ndarray, distance: float) -> np.ndarray:
    """Clusters of a few vectors, numbered in the order in which they first come: int64 ``(n,)``.

    Args:
        vectors: float32 ``(n, D)``, item vectors of unit length.
        distance: cosine distance; two groups are joined while the mean distance between their members is at most that.
    """
    if len(vectors) == 1:
        return np.zeros(1, np.int64)
    from scipy.cluster.hierarchy import fcluster, linkage

    apart = 1.0 - np.clip(vectors @ vectors.T, -1, 1)
    condensed = apart[np.triu_indices(len(vectors), 1)]
    found = fcluster(linkage(condensed, "average"), distance, "distance")
    _, first, numbers = np.unique(found, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[numbers]


def group_items(
    subjects: Mapping[str, Sequence[str]],
    row_of: Mapping[str, int],
    vectors: np.ndarray,
    names: Sequence[str],
    quantile: float,
) -> list[Clusters]:
    """Clusters of every subject's items.

    Args:
        subjects: subject id -> distinct item ids, at least one.
        row_of: item id -> its row in ``vectors``.
        vectors: float32 ``(N, D)``, item vectors; a zero vector stays alone.
        names: N names of the items; a cluster is called after the item nearest to its mean.
        quantile: where the cut is taken, as in :func:`chance_distance`.
    """
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.maximum(length, 1e-12)
    distance = chance_distance(unit, quantile)
    out = []
    for items in subjects.values():
        rows = np.array([row_of[item] for item in items])
        labels = group(unit[rows], distance)
        called = []
        for label in range(int(labels.max()) + 1):
            members = rows[labels == label]
            called.append(names[int(members[np.argmax(unit[members] @ unit[members].sum(axis=0))])])
        out.append(Clusters(_told_apart(called), labels.tolist()))
    return out


def _told_apart(names: Sequence[str]) -> list[str]:
    """Names with a number where one was there before."""
    seen: Counter[str] = Counter()
    out = []
    for name in names:
        seen[name] += 1
        out.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return out
