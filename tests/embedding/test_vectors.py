"""Vectors brought along: read in catalogue order, and every way they can be broken is one sentence."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dig_ray.embedding.vectors import known_vectors, load_vectors, write_vectors
from dig_ray.errors import UserError


def test_round_trip_in_any_order(tmp_path):
    x = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    write_vectors(tmp_path / "e.parquet", list("abcde"), x)
    assert pq.read_schema(tmp_path / "e.parquet").field("vector").type == pa.list_(pa.float32(), 3)
    assert np.array_equal(load_vectors(tmp_path / "e.parquet", list("dab")), x[[3, 0, 1]])


def test_other_number_types_and_plain_lists_are_read(tmp_path):
    pq.write_table(pa.table({"item_id": [7, 8], "vector": [[1, 2], [3, 4]]}), tmp_path / "e.parquet")
    assert load_vectors(tmp_path / "e.parquet", ["8", "7"]).tolist() == [[3, 4], [1, 2]]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"item_id": ["a", "b"], "vector": [[1.0, float("nan")], [1.0, 2.0]]},
            "NaN or infinity, the first is item 'a'",
        ),
        (
            {"item_id": ["a", "b"], "vector": [[1.0, 2.0], [1e300, 2.0]]},
            "NaN or infinity, the first is item 'b'",
        ),
        (
            {"item_id": ["a"], "vector": [[1.0, 2.0]]},
            "no vector for 1 of 2 catalogue items, the first is 'b'",
        ),
        ({"item_id": ["a", "b", "a"], "vector": [[1.0], [2.0], [3.0]]}, "'a' appears more than once"),
        ({"item_id": ["a", "b"], "vector": [[1.0, 2.0], [1.0]]}, "differ in length, 1 to 2"),
        ({"item_id": ["a", "b"], "vector": [[1.0], None]}, "item 'b' has no vector"),
        ({"item_id": ["a", "b"], "vector": [[1.0], [None]]}, "NaN or infinity, the first is item 'b'"),
        ({"item_id": ["a", "b"], "vector": [1.0, 2.0]}, "expected a list of numbers"),
        ({"item_id": ["a", "b"], "vector": [["x"], ["y"]]}, "expected numbers"),
        ({"item_id": ["a", None], "vector": [[1.0], [2.0]]}, "column item_id is empty in data row 2"),
        (
            {"item_id": ["a", "b"], "embedding": [[1.0], [2.0]]},
            "no column 'vector'; it has item_id, embedding",
        ),
    ],
)
def test_broken_vectors_are_one_clear_sentence(tmp_path, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "mine.parquet")
    with pytest.raises(UserError, match=message) as caught:
        load_vectors(tmp_path / "mine.parquet", ["a", "b"])
    assert "mine.parquet" in str(caught.value)


@pytest.mark.parametrize(
    "vectors",
    [
        pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float16())),
        pa.array([[1, 2], [3, 4]], pa.list_(pa.int8(), 2)),
        pa.array([[1, 2], [3, 4]], pa.large_list(pa.float64())),
        pa.array(["[1, 2]", "[3.0, 4.0]"]),
        pa.array(["(1, 2)", "[3, 4]"]).dictionary_encode(),
        pa.array([[1, 2], [3, 4]], pa.list_(pa.decimal128(5, 2))),
    ],
)
def test_vectors_of_any_number_type_and_as_text_are_read(tmp_path, vectors):
    pq.write_table(pa.table({"item_id": [8.0, 7.0], "vector": vectors}), tmp_path / "e.parquet")
    assert load_vectors(tmp_path / "e.parquet", ["7", "8"]).tolist() == [[3, 4], [1, 2]]
    found, known = known_vectors(tmp_path / "e.parquet", ["9", "7"])
    assert found.tolist() == [[0, 0], [3, 4]] and known.tolist() == [False, True]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"item_id": ["a", "nan"], "vector": [[1.0], [2.0]]},
            r"item_id is empty \(written as nan\) in data row 2",
        ),
        (
            {"item_id": [1.5, 2.0], "vector": [[1.0], [2.0]]},
            "item_id is a fraction in data row 1, which is no id",
        ),
        ({"item_id": [["a"], ["b"]], "vector": [[1.0], [2.0]]}, "item_id is list.*, which is no id"),
        (
            {"item_id": ["a", "b"], "vector": ["[1, 2]", "[0.1 0.2]"]},
            r"holds '\[0.1 0.2\]' in data row 2, expected a list",
        ),
        (
            {"item_id": ["a", "b"], "vector": [{"x": 1.0}, {"x": 2.0}]},
            "is struct<x: double>, expected a list of numbers",
        ),
        ({"item_id": ["a", "b"], "vector": [[True], [False]]}, "lists of bool, expected numbers"),
        ({"item_id": ["a", "b"], "vector": ["[1]", "[NaN]"]}, "NaN or infinity, the first is item 'b'"),
        ({"item_id": ["a", "b"], "vector": ["[1]", None]}, "item 'b' has no vector .null in data row 2"),
    ],
)
def test_ids_and_texts_that_are_none(tmp_path, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "mine.parquet")
    for function in (load_vectors, known_vectors):
        with pytest.raises(UserError, match=message):
            function(tmp_path / "mine.parquet", ["a", "b"])


def test_a_column_that_stands_twice_is_named(tmp_path):
    table = pa.Table.from_arrays(
        [pa.array(["a"]), pa.array([[1.0]]), pa.array([[2.0]])], ["item_id", "vector", "vector"]
    )
    pq.write_table(table, tmp_path / "mine.parquet")
    with pytest.raises(UserError, match="column 'vector' stands there twice"):
        load_vectors(tmp_path / "mine.parquet", ["a"])


def test_truncated_and_missing_files(tmp_path):
    path = tmp_path / "e.parquet"
    write_vectors(path, ["a"], np.ones((1, 4), dtype=np.float32))
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UserError, match="not a readable Parquet file"):
        load_vectors(path, ["a"])
    with pytest.raises(UserError, match="no such file"):
        load_vectors(tmp_path / "absent.parquet", ["a"])


def test_writing_many_vectors_takes_little_memory_beside_them(tmp_path):
    code = (
        "import resource, sys, numpy as np, pyarrow as pa, pyarrow.parquet\n"
        "from dig_ray.embedding.vectors import known_vectors, load_vectors, write_vectors\n"
        "x = np.random.default_rng(0).standard_normal((120_000, 256), dtype=np.float32)\n"
        "ids = [f'i{n}' for n in range(len(x))]\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10\n"
        "before = peak(); write_vectors(sys.argv[1], ids, x); print((peak() - before) / x.nbytes)\n"
        "assert (load_vectors(sys.argv[1], ids) == x).all()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "v.parquet")], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 1.4  # one row group with a dictionary takes twice the vectors' own size
