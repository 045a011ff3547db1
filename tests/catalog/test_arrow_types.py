"""Every type that pandas, Polars, DuckDB or Hugging Face writes into Parquet is read, or refused in one sentence, in every field."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dig_ray.catalog.build import build
from dig_ray.catalog.config import CatalogConfig
from dig_ray.catalog.dataset import Dataset
from dig_ray.catalog.read import read_raw
from dig_ray.errors import UserError

MOMENT = dt.datetime(2020, 9, 13, 12, 26, 40)
WORDS = ["a", "b", None, "d"]


def _struct(**columns: list) -> pa.Array:
    return pa.StructArray.from_arrays([pa.array(v) for v in columns.values()], names=list(columns))


TYPES: dict[str, pa.Array] = {
    **{f"{kind}": pa.array([1, 2, None, 4], kind) for kind in (
        pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64(), pa.float16(), pa.float32(),
        pa.float64(), pa.duration("s"), pa.duration("ns"), pa.time32("s"), pa.time64("ns"), pa.date32(), pa.date64(),
        pa.timestamp("s"), pa.timestamp("ms"), pa.timestamp("us", "UTC"), pa.timestamp("ns", "Europe/Berlin"),
    )},
    "huge uint64": pa.array([2**64 - 1, 2**63, 2**63 + 1, 5], pa.uint64()),
    "huge int64": pa.array([2**63 - 1, -(2**63), 2**53 + 1, 5], pa.int64()),
    "odd floats": pa.array([float("nan"), float("inf"), -0.0, 1e308], pa.float64()),
    "fine timestamps": pa.array([1_600_000_000_123_456_789 + n for n in range(4)], pa.timestamp("ns")),
    "far timestamps": pa.array([-(2**63) + 1, 2**63 - 1, 0, 1], pa.timestamp("ms")),
    "far dates": pa.array([-(2**31), 2**31 - 1, 0, 1], pa.date32()),
    "decimal": pa.array([Decimal("1.50"), None, Decimal("3"), Decimal("4")], pa.decimal128(10, 2)),
    "small decimal": pa.array([Decimal("1.50"), None, Decimal("3"), Decimal("4")], pa.decimal32(5, 2)),
    "wide decimal": pa.array([Decimal(10) ** 50, None, Decimal("3"), Decimal("4")], pa.decimal256(70, 2)),
    "bool": pa.array([True, False, None, True]),
    "null": pa.nulls(4),
    "text": pa.array(WORDS),
    "large text": pa.array(WORDS, pa.large_string()),
    "text view": pa.array(WORDS, pa.string_view()),
    "dictionary": pa.array(WORDS).dictionary_encode(),
    "dictionary of numbers": pa.array([1, 2, 1, None]).dictionary_encode(),
    "no utf8": pa.Array.from_buffers(
        pa.string(), 4, [None, pa.py_buffer(np.array([0, 1, 2, 3, 4], np.int32)), pa.py_buffer(b"\xe9b\xffd")]
    ),
    "binary": pa.array([b"a", b"\xff", None, b""]),
    "binary view": pa.array([b"a", b"\xff", None, b""], pa.binary_view()),
    "fixed binary": pa.array([b"ab", b"cd", None, b"\xff\xff"], pa.binary(2)),
    "list": pa.array([["a"], ["b", None], None, []]),
    "large list": pa.array([["a"], ["b", None], None, []], pa.large_list(pa.large_string())),
    "list view": pa.array([["a"], ["b", None], None, []], pa.list_view(pa.string())),
    "fixed list": pa.array([[1.0, 2.0], [3.0, 4.0], None, [5.0, 6.0]], pa.list_(pa.float32(), 2)),
    "list of dictionary": pa.array([["a"], ["b"], None, []], pa.list_(pa.dictionary(pa.int32(), pa.string()))),
    "list of lists": pa.array([[["a", "b"], ["c"]], [[]], None, []]),
    "list of objects": pa.array([[{"text": "a", "confidence": 0.5}], [None], None, []]),
    "list of named": pa.array([[{"id": 1, "name": "a"}], [{"id": 2, "name": "b"}], None, []]),
    "list of bytes": pa.array([[1, 2], [255], None, []], pa.list_(pa.uint8())),
    "object": _struct(text=["a", "b", "c", None], confidence=[0.5, 1.0, None, None]),
    "picture": _struct(bytes=[b"x", None, b"", None], path=["a.png", "b.png", None, None]),
    "deep": pa.array([{"a": {"b": [1]}}, {"a": {"b": []}}, {"a": None}, None]),
    "map": pa.array([[("a", 0.5)], [("b", 1.0), ("c", 0.1)], None, []], pa.map_(pa.string(), pa.float64())),
    "uuid": pa.ExtensionArray.from_storage(pa.uuid(), pa.array([bytes([n]) * 16 for n in range(4)], pa.binary(16))),
    "json": pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a": 1}', '["b"]', '"c"', None])),
    "tensor": pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.float32(), [2]), pa.array([[1, 2], [3, 4], [5, 6], [7, 8]], pa.list_(pa.float32(), 2))
    ),
}  # fmt: skip
ITEM_FIELDS = (
    "item_id",
    "title",
    "description",
    "brand",
    "categories",
    "price",
    "image",
    "image_bytes",
    "caption",
    "interests",
    "x",
)
EVENT_FIELDS = ("user_id", "item_id", "timestamp", "position", "rating", "split")


def load(folder, items: dict, events: dict, **more) -> Dataset:
    for name, table in (("items", items), ("events", events)):
        pq.write_table(pa.table(table), folder / f"{name}.parquet")
    config = CatalogConfig.model_validate(
        {
            "source": "table",
            "unknown_items": "add",
            "duplicates": "keep_all",
            "duplicate_items": "first",
            "split": "given" if "split" in events else "leave_last_out",
            "items": {"path": str(folder / "items.parquet")},
            "interactions": {"path": str(folder / "events.parquet")},
            **more,
        }
    )
    return build(read_raw(config, log=lambda line: None), config)


def tables() -> tuple[dict, dict]:
    items = {"item_id": ["a", "b", "c", "d"], "title": ["A", "B", "C", "D"]}
    events = {
        "user_id": ["u"] * 4,
        "item_id": ["a", "b", "c", "d"],
        "timestamp": [1_600_000_000 + n for n in range(4)],
    }
    return items, events


def read_or_refused(folder, items: dict, events: dict, column: str) -> Dataset | None:
    try:
        dataset = load(folder, items, events)
    except UserError as error:
        named = column in str(error) or "nothing to test on" in str(error)  # which is true of four users
        assert ".parquet" in str(error) and named and "\n" not in str(error), error
        return None
    dataset.save(folder / "out")
    kept = Dataset.load(folder / "out").items
    texts = [text for name in ("title", "description", "brand") for text in kept[name].to_pylist()]
    texts += [text for cell in kept["categories"].to_pylist() for text in cell]
    assert not any(set("{}[]") & set(text) for text in texts), texts
    assert not {"nan", "NaN", "None"} & set(kept["item_id"].to_pylist())
    return dataset


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_in_every_field_of_items(tmp_path, kind):
    for field in ITEM_FIELDS:
        items, events = tables()
        read_or_refused(tmp_path, items | {field: TYPES[kind]}, events, field)


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_in_every_field_of_interactions(tmp_path, kind):
    for field in EVENT_FIELDS:
        items, events = tables()
        read_or_refused(tmp_path, items, events | {field: TYPES[kind]}, field)


KEPT = {
    ("title", "dictionary"): ["a", "b", "", "d"],
    ("title", "int64"): ["1", "2", "", "4"],
    ("title", "halffloat"): ["1", "2", "", "4"],
    ("title", "list of dictionary"): ["a", "b", "", ""],
    ("categories", "list of lists"): [["a > b", "c"], [], [], []],
    ("categories", "list of named"): [["a"], ["b"], [], []],
    ("categories", "list view"): [["a"], ["b"], [], []],
    ("interests", "list of objects"): [["a"], [], [], []],
    ("interests", "object"): [["a"], ["b"], ["c"], []],
    ("interests", "map"): [["a"], ["b", "c"], [], []],
    ("image", "picture"): [None, "b.png", None, None],
    ("image_bytes", "picture"): [b"x", None, None, None],
    ("image_bytes", "list of bytes"): [b"\x01\x02", b"\xff", None, b""],
    ("price", "decimal"): [1.5, None, 3.0, 4.0],
    ("price", "small decimal"): [1.5, None, 3.0, 4.0],
    ("price", "halffloat"): [1.0, 2.0, None, 4.0],
    ("item_id", "uuid"): [f"{n:02x}" * 4 + f"-{n:02x}{n:02x}" * 3 + "-" + f"{n:02x}" * 6 for n in range(4)],
    ("item_id", "huge uint64"): [str(2**64 - 1), str(2**63), str(2**63 + 1), "5"],
}


@pytest.mark.parametrize(("field", "kind"), KEPT)
def test_what_is_read_is_what_was_written(tmp_path, field, kind):
    items, events = tables()
    dataset = load(tmp_path, items | {field: TYPES[kind]}, events)
    assert dataset.items[field].to_pylist()[:4] == KEPT[field, kind]


def test_pictures_of_a_hugging_face_column_are_their_bytes(tmp_path):
    items, events = tables()
    dataset = load(tmp_path, items | {"image": TYPES["picture"]}, events)
    assert dataset.items["image_bytes"].to_pylist() == [b"x", None, None, None]
    assert dataset.items["image"].to_pylist() == [None, "b.png", None, None]


@pytest.mark.parametrize(
    "moments",
    [
        pa.array([1_600_000_000_000_000_000 + n for n in (3, 1, 2, 4)], "timestamp[ns]"),
        pa.array([MOMENT.replace(microsecond=n) for n in (3, 1, 2, 4)]),
        pa.array([18_518 + n for n in (3, 1, 2, 4)], pa.date32()),
        pa.array([MOMENT + dt.timedelta(days=n) for n in (3, 1, 2, 4)], pa.date64()),
        pa.array([MOMENT + dt.timedelta(days=n) for n in (3, 1, 2, 4)], pa.timestamp("s", "Asia/Tokyo")),
        pa.array([Decimal(1_600_000_000 + n) for n in (3, 1, 2, 4)], pa.decimal128(20, 0)),
        pa.array([1_600_000_000 + n for n in (3, 1, 2, 4)], pa.uint64()),
    ],
)  # fmt: skip
def test_times_of_every_type_give_the_order_they_hold(tmp_path, moments):
    items, events = tables()
    dataset = load(tmp_path, items, events | {"timestamp": moments})
    assert dataset.item_ids[dataset.events].tolist() == ["b", "c", "a", "d"]
    assert dataset.stats["time_from"].startswith("2020-09")


_scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=4),
    st.sampled_from(["nan", "None", "12,99", "1.800", "$5", "2020-01-01", "[1]", "{'a': 1}", "<NA>", "\ufffd", "1600000000"]),
)  # fmt: skip
_json = st.recursive(
    _scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["name", "text", "confidence", "path", "x"]), inner, max_size=2),
    ),
    max_leaves=4,
)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(ITEM_FIELDS + EVENT_FIELDS),
    st.lists(_json, min_size=4, max_size=4),
    st.sampled_from(["error", "drop"]),
)
def test_any_json_lines_give_a_catalogue_or_one_sentence(tmp_path_factory, field, values, bad_ids):
    folder = tmp_path_factory.mktemp("json")
    items, events = tables()
    for name, table in (("items", items), ("events", events)):
        if field in (ITEM_FIELDS if name == "items" else EVENT_FIELDS):
            table = table | {field: values}
        rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = CatalogConfig.model_validate(
        {
            "source": "table",
            "unknown_items": "add",
            "bad_ids": bad_ids,
            "duplicates": "keep_all",
            "duplicate_items": "first",
            "items": {"path": str(folder / "items.jsonl")},
            "interactions": {"path": str(folder / "events.jsonl")},
        }
    )
    try:
        dataset = build(read_raw(config, log=lambda line: None), config)
    except UserError as error:
        assert ".jsonl" in str(error) and "\n" not in str(error)
        return
    dataset.save(folder / "out")
    ids = [*dataset.user_ids.tolist(), *dataset.item_ids.tolist()]
    assert not {"", "nan", "NaN", "None", "<NA>", "True", "False", "inf"} & set(ids)
    assert not any(
        cell and cell[0] in "[{" for cell in dataset.items["title"].to_pylist() if cell not in values
    )
