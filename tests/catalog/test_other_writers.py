"""Files as pandas, Polars, DuckDB and Hugging Face datasets write them, in every field: read, or one sentence."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dig_ray.errors import UserError
from tests.catalog.test_arrow_types import EVENT_FIELDS, ITEM_FIELDS, load, tables

DAY = dt.datetime(2020, 9, 13, 12, 26, 40)


def in_every_field(tmp_path: Path, path: Path) -> dict[tuple[str, str], object]:
    """Each column of the file as each field; what was kept, by field and column. Anything but a sentence is a failure."""
    table = pq.read_table(path)
    kept: dict[tuple[str, str], object] = {}
    for number, name in enumerate(table.column_names):
        for field in (*ITEM_FIELDS, *EVENT_FIELDS):
            items, events = tables()
            if field in ITEM_FIELDS:
                items |= {field: table.column(number)}
            if field in EVENT_FIELDS:
                events |= {field: table.column(number)}
            try:
                dataset = load(tmp_path, items, events)
            except UserError as error:
                assert "\n" not in str(error)
                continue
            dataset.save(tmp_path / "out")
            if field in dataset.items.column_names:
                kept[field, name] = dataset.items[field].to_pylist()[:4]
            if field == "timestamp":
                kept[field, name] = dataset.stats["time_from"]
    return kept


def test_polars(tmp_path):
    pl = pytest.importorskip("polars")
    frame = pl.DataFrame(
        {
            "text": ["a", "b", None, "d"],
            "category": pl.Series(["a", "b", None, "d"], dtype=pl.Categorical),
            "enum": pl.Series(["a", "b", None, "d"], dtype=pl.Enum(["a", "b", "d"])),
            "list": [["a"], ["b", None], None, []],
            "array": pl.Series([[1.0, 2.0]] * 4, dtype=pl.Array(pl.Float32, 2)),
            "object": [{"text": "a", "confidence": 0.5}, {"text": "b", "confidence": 0.1}, None, None],
            "objects": [[{"name": "a"}], [], None, [{"name": "b"}]],
            "moment": pl.Series([DAY] * 4, dtype=pl.Datetime("ns", "UTC")),
            "day": [DAY.date()] * 4,
            "time": [DAY.time()] * 4,
            "span": [dt.timedelta(days=1)] * 4,
            "decimal": pl.Series(
                [Decimal("1.50"), None, Decimal("3"), Decimal("4")], dtype=pl.Decimal(10, 2)
            ),
            "bytes": [b"a", b"\xff", None, b""],
            "flag": [True, False, None, True],
            "nothing": pl.Series([None] * 4, dtype=pl.Null),
            "small": pl.Series([1, 2, None, 4], dtype=pl.UInt8),
        }
    )
    frame.write_parquet(tmp_path / "polars.parquet")
    kept = in_every_field(tmp_path, tmp_path / "polars.parquet")
    assert kept["title", "category"] == kept["title", "enum"] == kept["title", "text"] == ["a", "b", "", "d"]
    assert kept["categories", "objects"] == [["a"], [], [], ["b"]]
    assert kept["interests", "object"] == [["a"], ["b"], [], []]
    assert kept["price", "decimal"] == [1.5, None, 3.0, 4.0]
    assert str(kept["timestamp", "moment"]).startswith("2020-09-13")


def test_duckdb(tmp_path):
    duckdb = pytest.importorskip("duckdb")
    path = tmp_path / "duck.parquet"
    duckdb.sql(
        f"""COPY (SELECT ('0000000' || i || '-0000-0000-0000-000000000000')::UUID AS uuid, i::HUGEINT AS huge, i::UTINYINT AS small,
        TIMESTAMP_NS '2020-09-13 12:26:40.123456789' AS fine, TIMESTAMPTZ '2020-09-13 12:26:40+02' AS zoned, TIME '12:00:00' AS hour,
        INTERVAL 1 DAY AS span, DATE '2020-09-13' AS day, ['a', NULL] AS words, {{'text': 'a', 'confidence': 0.5}} AS object,
        MAP {{'tea': 0.9}} AS map, '{{"a": 1}}'::JSON AS json, 'x'::BLOB AS blob, 1.50::DECIMAL(5, 2) AS price, i = 1 AS flag,
        ('a')::ENUM('a', 'b') AS enum, NULL AS nothing FROM range(1, 5) t(i)) TO '{path}' (FORMAT parquet)"""
    )
    kept = in_every_field(tmp_path, path)
    assert kept["item_id", "uuid"][0] == "00000001-0000-0000-0000-000000000000"
    assert kept["interests", "map"] == [["tea"]] * 4 and kept["interests", "object"] == [["a"]] * 4
    assert kept["title", "enum"] == ["a"] * 4 and kept["price", "price"] == [1.5] * 4
    assert str(kept["timestamp", "zoned"]).startswith("2020-09-13T10:26:40")


def test_pandas(tmp_path):
    import pandas as pd

    frame = pd.DataFrame(
        {
            "gaps": [1.0, 2.0, None, 4.0],
            "whole": pd.array([1, 2, None, 4], dtype="Int64"),
            "text": pd.array(["a", "b", None, "d"], dtype="string"),
            "category": pd.Categorical(["a", "b", None, "d"]),
            "fine": pd.to_datetime([1_600_000_000_123_456_789 + n for n in range(4)]),
            "zoned": pd.to_datetime(["2020-09-13 12:26:40"] * 4).tz_localize("Europe/Berlin"),
            "span": pd.to_timedelta([1, 2, 3, 4], unit="D"),
            "period": pd.period_range("2020-01", periods=4, freq="M"),
            "interval": pd.interval_range(0, 4),
            "list": [["a"], ["b"], None, []],
            "object": [{"text": "a"}, {"text": "b"}, None, None],
        }
    )
    frame.to_parquet(tmp_path / "pandas.parquet")
    kept = in_every_field(tmp_path, tmp_path / "pandas.parquet")
    assert kept["title", "gaps"] == kept["title", "whole"] == ["1", "2", "", "4"]
    assert kept["title", "category"] == ["a", "b", "", "d"] and kept["categories", "list"] == [
        ["a"],
        ["b"],
        [],
        [],
    ]
    assert str(kept["timestamp", "fine"]).startswith("2020-09-13")


def test_a_frame_of_lists_in_a_csv_is_the_frame_in_parquet(shop, tmp_path):
    import numpy as np
    import pandas as pd

    frame = pd.DataFrame(
        {
            "item_id": ["a", "b", "c", "d"],
            "title": ["A", "B", "None", "D"],
            "categories": [["Home", "Cups"], ["Gifts, small", "it's"], None, []],
            "interests": [
                [{"text": "tea", "confidence": 0.9}],
                [],
                None,
                [{"text": "gifts", "confidence": np.nan}],
            ],
        }
    )
    found = []
    for name in ("a.csv", "b.csv", "c.parquet", "d.jsonl"):
        path, table = tmp_path / name, frame
        if name == "b.csv":
            table = frame.assign(categories=[c if c is None else np.array(c) for c in frame["categories"]])
        if name.endswith("csv"):
            table.to_csv(path, index=False)
        elif name.endswith("jsonl"):
            table.to_json(path, orient="records", lines=True)
        else:
            table.to_parquet(path)
        shop.items = str(path)
        found.append(shop.load(columns={}).items.select(["title", "categories", "interests"]).to_pydict())
    assert found[0]["categories"] == [["Home", "Cups"], ["Gifts, small", "it's"], [], []]
    assert found[0]["interests"] == [["tea"], [], [], ["gifts"]]
    assert all(one == found[0] for one in found[1:])


def test_hugging_face_pictures(tmp_path):
    datasets = pytest.importorskip("datasets")
    from PIL import Image

    Image.new("RGB", (4, 4), "red").save(tmp_path / "a.png")
    rows = {"item_id": ["a", "b"], "title": ["A", "B"], "image": [str(tmp_path / "a.png"), None]}
    made = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    made.to_parquet(str(tmp_path / "hf.parquet"))
    items = pq.read_table(tmp_path / "hf.parquet")
    _, events = tables()
    dataset = load(tmp_path, {name: items.column(name) for name in items.column_names}, events)
    raw = dataset.items["image_bytes"].to_pylist()[0] if "image_bytes" in dataset.items.column_names else None
    assert raw == (tmp_path / "a.png").read_bytes() or dataset.items["image"].to_pylist()[0].endswith("a.png")
