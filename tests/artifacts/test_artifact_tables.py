"""Tables that several rooms share, written and read again."""

from __future__ import annotations

import numpy as np

from dig_ray.artifacts.artifact_tables import read_vectors, write_vectors
from dig_ray.embedding.vectors import load_vectors


def test_vectors_are_read_in_any_order_and_as_those_from_outside_are(tmp_path):
    ids = [f"i{number}" for number in range(40_000)]
    vectors = np.random.default_rng(0).normal(size=(len(ids), 3)).astype(np.float32)
    vectors[5] = 0
    write_vectors(tmp_path / "e.parquet", ids, vectors, np.ones(len(ids), bool))
    some = [ids[number] for number in (39_999, 5, 0, 17_000)]
    found = read_vectors(tmp_path / "e.parquet", some)
    assert found.dtype == np.float32 and np.array_equal(found, vectors[[39_999, 5, 0, 17_000]])
    assert np.array_equal(found, load_vectors(tmp_path / "e.parquet", some))
