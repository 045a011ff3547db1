"""Parquet: whatever a library writes comes out in types that every later step knows, with the same values."""

import datetime
import decimal
import uuid
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dig_ray.catalog.columns.cells import cells_are_json
from dig_ray.catalog.readers.parquet import plain_table, plain_type
from dig_ray.catalog.readers.tables import read_table
from dig_ray.errors import UserError

ID = uuid.UUID("12345678-1234-5678-1234-567812345678")


@pytest.mark.parametrize(
    ("column", "kind", "cells"),
    [
        (pa.array(["a", None], pa.large_string()), pa.string(), ["a", None]),
        (pa.array(["a", None], pa.string_view()), pa.string(), ["a", None]),
        (pa.array([b"a", None], pa.binary_view()), pa.binary(), [b"a", None]),
        (pa.array([b"a", None], pa.large_binary()), pa.binary(), [b"a", None]),
        (pa.array(["a", None, "a"]).dictionary_encode(), pa.string(), ["a", None, "a"]),
        (pa.array(["a", None], pa.large_string()).dictionary_encode(), pa.string(), ["a", None]),
        (pa.array([[1, None], None], pa.large_list(pa.int32())), pa.list_(pa.int32()), [[1, None], None]),
        (pa.array([[1, 2], None], pa.list_(pa.float32(), 2)), pa.list_(pa.float32()), [[1, 2], None]),
        (pa.array([["a"], []], pa.list_view(pa.string_view())), pa.list_(pa.string()), [["a"], []]),
        (pa.array([["a"], None], pa.list_(pa.dictionary(pa.int8(), pa.string()))), pa.list_(pa.string()), [["a"], None]),
        (pa.ExtensionArray.from_storage(pa.uuid(), pa.array([ID.bytes, None], pa.binary(16))), pa.string(), [str(ID), None]),
        (pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, None], pa.int8())), pa.bool_(), [True, None]),
        (pa.array([{"a": "x"}, None], pa.struct([("a", pa.large_string())])), pa.struct([("a", pa.string())]), [{"a": "x"}, None]),
        (pa.RunEndEncodedArray.from_arrays([2, 3], ["a", "b"]), pa.string(), ["a", "a", "b"]),
    ],
)  # fmt: skip
def test_packed_views_and_extensions_are_plain(column, kind, cells):
    table = plain_table(pa.table({"x": column}))
    assert table.column("x").type == kind and table.column("x").to_pylist() == cells
    assert plain_type(kind) == kind


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1, 2**64 - 1], pa.uint64()),
        pa.array([decimal.Decimal("1.50"), None]),
        pa.array([datetime.datetime(2020, 1, 1), None], pa.timestamp("ns", "UTC")),
        pa.array([datetime.date(2020, 1, 1)]),
        pa.array([datetime.time(1, 2)]),
        pa.array(np.array([1.5, 2], np.float16)),
        pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
        pa.nulls(2),
        pa.array([b"ab"], pa.binary(2)),
    ],
)
def test_other_types_stay_as_they_are(tmp_path, column):
    pq.write_table(pa.table({"x": column}), tmp_path / "t.parquet")
    got = read_table(tmp_path / "t.parquet", Counter())
    assert got.column("x").type == column.type and got.column("x").to_pylist() == column.to_pylist()


def test_a_column_of_json_texts_is_known_as_such(tmp_path):
    cells = pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a": 1}', None]))
    got = plain_table(pa.table({"x": cells}))
    assert got.column("x").to_pylist() == ['{"a": 1}', None] and cells_are_json(got.schema.field("x"))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.text(st.characters(codec="utf-8"), max_size=3)), min_size=1, max_size=6),
    st.data(),
)
def test_texts_come_back_from_any_of_their_types(tmp_path_factory, texts, data):
    kinds = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
    column = pa.array(texts, pa.string())
    kind = data.draw(st.sampled_from(kinds))
    column = column.dictionary_encode() if pa.types.is_dictionary(kind) else column.cast(kind)
    path = tmp_path_factory.getbasetemp() / "texts.parquet"
    pq.write_table(pa.table({"x": column}), path)
    got = read_table(path, Counter()).column("x")
    assert got.type == pa.string() and got.to_pylist() == texts


def test_a_column_that_stands_twice_is_named(tmp_path):
    table = pa.Table.from_arrays([pa.array(["A"])] * 3, names=["item_id", "title", "title"])
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(UserError, match="column 'title' stands twice in the file"):
        read_table(tmp_path / "t.parquet", Counter())


@pytest.mark.parametrize("library", ["pandas", "polars", "duckdb"])
def test_files_of_other_libraries(tmp_path, library):
    module = pytest.importorskip(library)
    path = tmp_path / "t.parquet"
    if library == "pandas":
        frame = module.DataFrame(
            {"item_id": ["A", "B"], "kind": module.Categorical(["x", "y"]), "n": [1, None]}
        )
        frame.to_parquet(path)
    elif library == "polars":
        frame = module.DataFrame({"item_id": ["A", "B"], "kind": ["x", "y"], "n": [1.0, None]})
        frame.with_columns(module.col("kind").cast(module.Categorical)).write_parquet(path)
    else:
        query = "select * from (values ('A', 'x'::enum('x', 'y'), 1.0::double), ('B', 'y', null)) t(item_id, kind, n)"
        module.sql(query.replace("'x'::enum('x', 'y')", "'x'")).write_parquet(str(path))
    got = read_table(path, Counter())
    assert got.to_pylist() == [
        {"item_id": "A", "kind": "x", "n": 1.0},
        {"item_id": "B", "kind": "y", "n": None},
    ]
    assert got.schema.field("kind").type == pa.string() and got.schema.metadata is None


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x1f\x8b\x08", "is packed with gzip"),
        (b"PK\x03\x04", "is a zip archive"),
        (b"item_id,title\n", "not a readable Parquet"),
        (b"PAR1", "not a readable Parquet"),
    ],
)
def test_what_is_no_parquet_is_one_sentence(tmp_path, data, words):
    (tmp_path / "t.parquet").write_bytes(data)
    with pytest.raises(UserError, match=words) as caught:
        read_table(tmp_path / "t.parquet", Counter())
    assert "\n" not in str(caught.value)


def test_objects_with_a_key_twice_are_refused(tmp_path):
    twice = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"])
    pq.write_table(pa.table({"x": pa.ListArray.from_arrays([0, 1], twice)}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match="column 'x' holds objects with the key 'a' twice"):
        read_table(tmp_path / "t.parquet", Counter())


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_texts_that_are_no_utf8_pass_to_the_rule_of_their_column(kind):
    offsets = pa.array([0, 1, 3], pa.int32()).buffers()[1]
    broken = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"aZ\xe9")])
    column = broken.dictionary_encode() if pa.types.is_dictionary(kind) else broken.cast(kind)
    got = plain_table(pa.table({"x": column})).column("x")
    assert got.cast(pa.binary()).to_pylist() == [b"a", b"Z\xe9"]
