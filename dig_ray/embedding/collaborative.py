"""Item vectors from who-bought-what-next: evidence beside the text, read off the training events alone.

Items that are bought near each other in a history co-occur; the positive pointwise mutual information of these counts is factorised by a
truncated SVD (Levy and Goldberg, 2014: what skip-gram with negative sampling fits implicitly). No training run, seconds for a
catalogue of 12,000 items. Putting collaborative evidence into Semantic IDs is what LETTER does with a trained SASRec's vectors; doing it
with counts is our choice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from dig_ray.catalog.dataset import Dataset


def collaborative_vectors(
    dataset: Dataset, dimensions: int = 64, window: int = 8, distance_power: float = 0.5, seed: int = 0
) -> np.ndarray:
    """Vectors of items from the training events alone, so no validation or test target can shape one.

    Args:
        dataset: catalogue, events and split.
        dimensions: how many numbers a vector has.
        window: how many events apart two items of one history still co-occur.
        distance_power: a pair ``d`` events apart counts ``d ** -distance_power``.
        seed: decides the random start of the SVD.

    Returns:
        float32 ``(N, dimensions)``, unit length; zero for items without a training event in company of another.
    """
    import scipy.sparse as sparse
    from sklearn.utils.extmath import randomized_svd

    n = dataset.n_items
    offsets, events = dataset.train_sequences()
    user = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    left, right, weight = [], [], []
    for distance in range(1, window + 1):
        together = user[distance:] == user[:-distance]
        a, b = events[distance:][together], events[:-distance][together]
        left += [a, b]
        right += [b, a]
        weight.append(np.full(2 * len(a), float(distance) ** -distance_power))
    counts = sparse.coo_matrix(
        (np.concatenate(weight), (np.concatenate(left), np.concatenate(right))), shape=(n, n)
    ).tocsr()
    counts.setdiag(0)
    counts.eliminate_zeros()
    out = np.zeros((n, dimensions), np.float32)
    if counts.nnz == 0:
        return out
    total = float(counts.sum())
    degree = np.asarray(counts.sum(axis=1)).ravel()
    context = degree**0.75  # smoothed context distribution: rare items would dominate the logarithm otherwise
    context *= total / context.sum()
    pairs = counts.tocoo()
    information = np.log(pairs.data * total / (degree[pairs.row] * context[pairs.col]))
    keep = information > 0
    matrix = sparse.csr_matrix((information[keep], (pairs.row[keep], pairs.col[keep])), shape=(n, n))
    rank = min(dimensions, n - 1)
    u, s, _ = randomized_svd(matrix, rank, random_state=seed, n_iter=4)
    vectors = u * np.sqrt(s)[None, :]
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    known = norm[:, 0] > 1e-9
    out[known, :rank] = (vectors[known] / norm[known]).astype(np.float32)
    return out


def join_evidence(blocks: list[tuple[float, np.ndarray]]) -> np.ndarray:
    """Concatenate evidence so that a block's weight decides its share of the squared distance.

    Args:
        blocks: (weight, float32 (N, d)); each block is centred and scaled to mean squared norm 1 first.

    Returns:
        float32 (N, sum of d).
    """
    parts = []
    for weight, block in blocks:
        centred = block - block.mean(axis=0)
        scale = float(np.sqrt((centred.astype(np.float64) ** 2).sum(axis=1).mean()))
        parts.append((weight / max(scale, 1e-12) * centred).astype(np.float32))
    return np.concatenate(parts, axis=1)
