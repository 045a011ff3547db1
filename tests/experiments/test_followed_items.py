"""The same items under each variant: who their neighbours are, who is gained and lost, and the pictures beside them."""

from __future__ import annotations

import hashlib
import io
from itertools import combinations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dig_ray.catalog.dataset import Dataset
from dig_ray.embedding.vectors import write_vectors
from dig_ray.experiments.followed_items import follow_items, near_in_tree, nearest, pairs_kept
from dig_ray.report.page import render_page
from dig_ray.semantic_ids.sid_catalog import SidCatalog


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=25))
def test_pairs_kept_is_the_jaccard_of_the_pairs(rows):
    first, other = (np.array(column) for column in zip(*rows, strict=True))

    def pairs(groups):
        return {(a, b) for a, b in combinations(range(len(groups)), 2) if groups[a] == groups[b]}

    either = pairs(first) | pairs(other)
    expected = len(pairs(first) & pairs(other)) / len(either) if either else None
    assert pairs_kept(first, other) == (None if expected is None else pytest.approx(expected))


def test_neighbours_share_the_longest_prefix_and_then_lie_nearest():
    codes = np.array([[0, 0], [0, 0], [0, 1], [0, 2], [1, 0], [0, 0]], np.int32)
    sids = SidCatalog.from_codes([f"i{n}" for n in range(6)], codes, (2, 3))
    vectors = np.array([[0.0], [5.0], [1.0], [0.5], [0.0], [2.0]], np.float32)
    assert near_in_tree(sids, 0, vectors, 4) == [5, 1, 3, 2]
    assert near_in_tree(sids, 0, None, 2) == [1, 5]
    assert near_in_tree(sids, 4, vectors) == []  # alone on its branch


def test_nearest_leaves_out_items_without_a_vector():
    vectors = np.array([[9.0, 1.0], [9.0, 2.0], [9.0, -3.0], [0.0, 0.0]], np.float32)
    known = np.array([True, True, True, False])
    assert nearest(vectors, known, 1)[-1] == 2 and 3 not in nearest(vectors, known, 1)
    assert nearest(vectors, known, 3) == []


def png(colour: tuple[int, int, int]) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (200, 150), colour).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def variants(tmp_path):
    """Two variants of one catalogue of 24 items: the second one fuses pictures."""
    n = 24
    rng = np.random.default_rng(0)
    ids = [f"i{row}" for row in range(n)]
    titles = [f"<b>thing</b> {row}" for row in range(n)]
    users = np.array([f"u{u}" for u in range(8)])
    items = pa.table({"item_id": ids, "title": titles})
    Dataset(
        items,
        users,
        np.arange(0, 25, 3),
        np.arange(24, dtype=np.int32),
        np.tile(np.array([0, 1, 2], np.int8), 8),
    ).save(tmp_path / "catalog")
    found = {}
    for name in ("text", "with pictures"):
        base = tmp_path / name
        for stage in ("semantic_ids", "embedding", "image_embedding", "fusion", "pictures"):
            (base / stage).mkdir(parents=True)
        codes = rng.integers(0, 3, (n, 3)).astype(np.int32)
        SidCatalog.from_codes(ids, codes, (3, 3, 3)).save(base / "semantic_ids" / "semantic_ids.parquet")
        for stage in ("embedding", "fusion"):
            write_vectors(base / stage / "embeddings.parquet", ids, rng.normal(size=(n, 4)))
        known = np.arange(n) % 4 > 0
        write_vectors(base / "image_embedding" / "embeddings.parquet", ids, rng.normal(size=(n, 4)), known)
        raw = [png((10 * row, 0, 0)) if known[row] else None for row in range(n)]
        table = {
            "item_id": ids,
            "image": pa.array(raw, pa.binary()),
            "sha256": [hashlib.sha256(one).hexdigest() if one else "" for one in raw],
        }
        pq.write_table(pa.table(table), base / "pictures" / "pictures.parquet", row_group_size=5)
        stages = ["semantic_ids", "embedding"]
        stages += ["image_embedding", "fusion", "pictures"] if name == "with pictures" else []
        found[name] = {stage: base / stage for stage in stages} | {"catalog": tmp_path / "catalog"}
    return Dataset.load(tmp_path / "catalog"), found


def test_items_are_followed_through_the_variants(variants):
    dataset, inputs = variants
    followed = follow_items(dataset, inputs)
    assert 1 < len(followed["items"]) <= 6
    for item in followed["items"]:
        assert item["picture"]  # items that have one are chosen where there are any
        before, after = item["variants"]
        assert [v["name"] for v in item["variants"]] == ["text", "with pictures"]
        assert not any(one["new"] for one in before["near"]) and not before["lost"]
        old, new = ({one["item_id"] for one in v["near"]} for v in (before, after))
        assert {one["item_id"] for one in after["near"] if one["new"]} == new - old
        assert {one["item_id"] for one in after["lost"]} == old - new
        assert [space["name"] for space in item["spaces"]] == ["by text", "by picture", "by both"]
        assert all(
            one["picture"] for one in item["spaces"][1]["near"]
        )  # only items with a picture are near by picture
    shown = {one["picture"] for item in followed["items"] for v in item["variants"] for one in v["near"]} - {
        ""
    }
    assert shown <= set(followed["thumbnails"])
    assert all(uri.startswith("data:image/jpeg;base64,") for uri in followed["thumbnails"].values())


def test_titles_of_products_are_text_on_the_page(variants):
    dataset, inputs = variants
    followed = follow_items(dataset, inputs)
    comparison = {
        "name": "c",
        "variants": [],
        "seeds": [0],
        "test_cases": 8,
        "splits": {"0": "x" * 64},
        "repeats": None,
    }
    empty = {"caption": "", "columns": [], "groups": []}
    page = render_page(
        "comparison.html",
        comparison={**comparison, "items": followed["items"]},
        tables={"rules": [], "sids": empty, "llm": None},
        thumbnails=followed["thumbnails"],
    )
    assert (
        "<b>thing</b>" not in page and "&lt;b&gt;thing&lt;/b&gt;" in page and "background-image:url(" in page
    )


def test_without_titles_and_pictures_ids_are_shown(tmp_path):
    ids = ["a", "b", "c"]
    users = np.array(["u"])
    Dataset(
        pa.table({"item_id": ids}),
        users,
        np.array([0, 3]),
        np.arange(3, dtype=np.int32),
        np.array([0, 1, 2], np.int8),
    ).save(tmp_path)
    SidCatalog.from_codes(ids, np.zeros((3, 2), np.int32), (2, 2)).save(tmp_path / "semantic_ids.parquet")
    followed = follow_items(Dataset.load(tmp_path), {"only": {"semantic_ids": tmp_path}})
    assert followed["items"][0]["title"] in ids and followed["thumbnails"] == {}
    assert followed["items"][0]["spaces"] == []
