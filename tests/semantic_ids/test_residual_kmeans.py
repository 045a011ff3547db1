"""Residual k-means: deterministic, as good as it claims, and clear about what it cannot quantize."""

from __future__ import annotations

import numpy as np
import pytest

from dig_ray.errors import UserError
from dig_ray.semantic_ids.residual_kmeans import encode, fit_residual_kmeans, reconstruct


def clustered(rows: int = 3000, width: int = 24, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centers = np.repeat(rng.standard_normal((20, width)), 10, axis=0)
    centers = centers + 0.4 * rng.standard_normal(centers.shape)
    x = centers[rng.integers(len(centers), size=rows)] + 0.2 * rng.standard_normal((rows, width))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def test_same_seed_same_bytes_and_another_seed_differs():
    x = clustered()
    first, second = fit_residual_kmeans(x, (32, 32, 32), seed=5), fit_residual_kmeans(x, (32, 32, 32), seed=5)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(first, second, strict=True))
    assert encode(x, first).tobytes() == encode(x, second).tobytes()
    assert fit_residual_kmeans(x, (32, 32, 32), seed=6)[0].tobytes() != first[0].tobytes()


@pytest.mark.parametrize("part", [slice(0, 1), slice(1500, 1501), slice(7, 1031), slice(1024, 3000)])
def test_codes_of_an_item_do_not_depend_on_its_neighbours(part):
    x = clustered()
    books = fit_residual_kmeans(x, (32, 48, 16), seed=1)
    assert np.array_equal(encode(x[part], books), encode(x, books)[part])


def test_encoding_is_the_greedy_residual_search():
    x = clustered(500)
    books = fit_residual_kmeans(x, (16, 8, 8), seed=2)
    codes = encode(x, books)
    residual = x.astype(np.float64)
    for level, book in enumerate(books):
        distance = ((residual[:, None] - book[None]) ** 2).sum(-1)
        chosen = distance[np.arange(len(x)), codes[:, level]]
        assert np.allclose(chosen, distance.min(axis=1), atol=1e-5)
        residual = residual - book[codes[:, level]]
    assert np.allclose(x - residual, reconstruct(codes, books), atol=1e-5)


def test_every_code_is_used_and_error_falls_with_every_level():
    x = clustered()
    books = fit_residual_kmeans(x, (64, 64, 64), seed=0)
    codes = encode(x, books)
    assert all(len(np.unique(codes[:, level])) >= 61 for level in range(3))
    error = [((x - reconstruct(codes, books, length)) ** 2).sum() for length in (1, 2, 3)]
    assert error[0] > error[1] > error[2]


@pytest.mark.parametrize("init", ["random", "kmeans++"])
def test_as_good_as_scikit_learn_at_the_first_level(init):
    from sklearn.cluster import KMeans

    x = clustered()
    book = fit_residual_kmeans(x, (64,), seed=0, init=init, iterations=20)
    ours = ((x - reconstruct(encode(x, book), book)) ** 2).sum()
    start = "k-means++" if init == "kmeans++" else "random"
    reference = np.median(
        [
            KMeans(64, init=start, n_init=1, max_iter=20, random_state=seed).fit(x).inertia_
            for seed in range(3)
        ]
    )
    assert ours <= 1.08 * reference


def test_fits_on_a_sample_smaller_than_the_catalogue():
    x = clustered()
    books = fit_residual_kmeans(x, (16, 16), seed=0, sample=300)
    assert encode(x, books).shape == (3000, 2)


def test_as_many_items_as_codes_gives_each_its_own():
    x = clustered(40)
    codes = encode(x, fit_residual_kmeans(x, (40, 40), seed=0))
    assert len(np.unique(codes[:, 0])) == 40


def test_fewer_distinct_vectors_than_codes_still_tells_them_apart():
    x = np.repeat(clustered(10), 5, axis=0)
    codes = encode(x, fit_residual_kmeans(x, (16, 4), seed=0))
    assert len(np.unique(codes, axis=0)) == 10


def test_catalogue_smaller_than_a_codebook_says_which_number_to_lower():
    with pytest.raises(
        UserError, match=r"50 items cannot fill a codebook of 256.*codebook_size to at most 50"
    ):
        fit_residual_kmeans(clustered(50), (256, 256, 256), seed=0)


def test_all_equal_vectors_are_refused():
    with pytest.raises(UserError, match="all 300 vectors are equal"):
        fit_residual_kmeans(np.ones((300, 8), dtype=np.float32), (256,), seed=0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_vectors_are_refused(value):
    x = clustered(300)
    x[17, 3] = value
    with pytest.raises(UserError, match="NaN or infinity, the first is row 17"):
        fit_residual_kmeans(x, (16,), seed=0)
