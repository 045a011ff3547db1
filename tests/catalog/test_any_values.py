"""Whatever stands in a file of any source, there are rows or one sentence, and never a trace."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dig_ray.catalog.build import build
from dig_ray.catalog.config import CatalogConfig
from dig_ray.catalog.read import read_raw
from dig_ray.errors import UserError

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 1_500_000_000, 2**53, 2**63, 10**25, 0.5, 1e300, math.nan, math.inf, -math.inf]),
    st.sampled_from(["", " ", "nan", "0", "12.5", "$1,299.00", "1.299,00", "2020-01-01", "\ud800", "a\0b", "é", "[1, 2]", '"', "[nan]"]),
)  # fmt: skip
VALUE = st.recursive(
    ODD, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "large"]), inner, max_size=2), max_leaves=4
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("any")


def load(folder, source, interactions, items, ending="json", **settings):
    """The catalogue, or None where a sentence says why there is none."""
    for name, text in (("x", interactions), ("m", items)):
        (folder / f"{name}.{ending}").write_text(text, encoding="utf-8")
    columns = settings.pop("columns", {})
    config = CatalogConfig(
        source=source,
        items={"path": str(folder / f"m.{ending}")},
        interactions={"path": str(folder / f"x.{ending}"), "columns": columns},
        **settings,
    )
    try:
        return build(read_raw(config, log=lambda line: None), config)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 2_000
        return None


def lines(records):
    return "".join(json.dumps(record) + "\n" for record in records)


REVIEW = {
    "amazon14": ("reviewerID", "asin", "unixReviewTime", "overall", 1_400_000_000),
    "amazon18": ("reviewerID", "asin", "unixReviewTime", "overall", 1_500_000_000),
    "amazon23": ("user_id", "parent_asin", "timestamp", "rating", 1_600_000_000_000),
}
META = [
    "title",
    "brand",
    "store",
    "description",
    "categories",
    "category",
    "price",
    "imUrl",
    "imageURL",
    "images",
    "related",
]
META += ["details", "features", "feature", "also_buy", "bought_together", "main_category", "main_cat"]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(list(REVIEW)), st.data())
def test_amazon(folder, source, data):
    user, item, time, rating, start = REVIEW[source]
    reviews = [{user: "u", item: f"i{n}", time: start + n, rating: 5.0} for n in range(4)]
    meta = [{item: f"i{n}", "title": "t"} for n in range(4)]
    for _ in range(data.draw(st.integers(0, 2))):
        reviews[data.draw(st.integers(0, 3))][data.draw(st.sampled_from([user, item, time, rating]))] = (
            data.draw(VALUE)
        )
    for _ in range(data.draw(st.integers(0, 3))):
        meta[data.draw(st.integers(0, 3))][data.draw(st.sampled_from([item, *META]))] = data.draw(VALUE)
    settings = {"unknown_items": "add", "duplicates": "first", "duplicate_items": "first"}
    dropped = data.draw(st.sampled_from(["error", "drop"]))
    dataset = load(
        folder,
        source,
        lines(reviews),
        lines(meta),
        bad_ids=dropped,
        k_core=data.draw(st.integers(0, 1)),
        **settings,
    )
    if dataset is not None:
        assert dataset.n_events + dataset.stats["notes"].get("rows_without_id_dropped", 0) + dataset.stats[
            "notes"
        ].get("duplicate_interactions_dropped", 0) >= len(reviews)
        assert not {"nan", "NaN", "None", ""} & {*dataset.user_ids.tolist(), *dataset.item_ids.tolist()}
        assert not any("\ufffd" in text or "\0" in text for text in [*dataset.user_ids, *dataset.item_ids])
        assert not {"nan", "NaN", "None"} & set(dataset.items.column("title").to_pylist()) - {"nan"}


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_histories(folder, data):
    rows = [
        {"user_id": f"u{n}", "history": [f"i{n}", n + 7], "item_id": "a", "split": "train" if n else "test"}
        for n in range(4)
    ]
    for _ in range(data.draw(st.integers(0, 2))):
        row = rows[data.draw(st.integers(0, 3))]
        odd = data.draw(VALUE)
        row["history"] = data.draw(
            st.sampled_from([odd, [odd, "b"], str([odd, "b"]), json.dumps(["b", odd])])
        )
    dataset = load(
        folder, "table", lines(rows), '{"item_id": "a"}\n', "jsonl",
        columns={"history": "history"}, split="given", unknown_items="add", duplicates="keep_all",
    )  # fmt: skip
    if dataset is not None:
        assert dataset.n_users == 4 and not {"nan", "NaN", "None", ""} & set(dataset.item_ids.tolist())


CELL = st.text(st.sampled_from('a0.-" \r\x1cé'), max_size=4) | st.sampled_from(
    ["nan", "inf", "1e400", "1500000000"]
)


@settings(max_examples=100, deadline=None)
@given(st.data(), st.sampled_from(["token", "float"]), st.sampled_from(["token", "float", "float_seq"]))
def test_recbole(folder, data, kind, other):
    rows = [["1", str(n), f"{1_500_000_000 + n}.0", "5"] for n in range(4)]
    for _ in range(data.draw(st.integers(0, 2))):
        rows[data.draw(st.integers(0, 3))][data.draw(st.integers(0, 3))] = data.draw(CELL)
    text = f"user_id:token\titem_id:{kind}\ttimestamp:float\trating:{other}\n"
    text += "".join("\t".join(row) + "\n" for row in rows)
    items = f"item_id:{kind}\ttitle:token_seq\n1\ta\n"
    dataset = load(folder, "recbole", text, items, "inter", unknown_items="add", duplicates="keep_all")
    if dataset is not None:
        assert dataset.n_events == len(rows)
