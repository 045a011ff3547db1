"""The published sets load with their published counts. Needs the data; see ``DIG_RAY_DATA``."""

import os
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from dig_ray.catalog.build import build
from dig_ray.catalog.config import CatalogConfig
from dig_ray.catalog.dataset import Dataset
from dig_ray.catalog.read import read_raw
from dig_ray.catalog.text import item_text
from dig_ray.evaluation.metrics import target_in_history

ROOT = Path(os.environ.get("DIG_RAY_DATA") or Path(__file__).parents[2] / ".." / "shared" / "data")
KEYWORDS = {"description": ["idgenrec_text_id", "gram_tokens"]}


def load(name, columns=None, **settings):
    folder = ROOT / name
    if not folder.is_dir():
        pytest.skip(f"{name} is not under {ROOT}; set DIG_RAY_DATA to the folder that has it")
    config = CatalogConfig(
        source="table",
        items={"path": str(folder / "items.parquet"), "columns": columns or {}},
        interactions={"path": str(folder / "interactions.parquet")},
        **settings,
    )
    return build(read_raw(config), config)


@pytest.mark.parametrize(
    ("name", "columns", "users", "items", "events"),
    [
        ("amazon14_beauty", {}, 22_363, 12_101, 198_502),
        ("amazon14_sports", KEYWORDS, 35_598, 18_357, 296_337),
        ("amazon18_instruments_lcrec", {}, 24_772, 9_922, 206_153),
    ],
)
def test_published_counts(name, columns, users, items, events):
    given = load(name, columns, split="given")
    assert (given.n_users, given.n_items, given.n_events) == (users, items, events)
    assert len(given.cases("valid")) == len(given.cases("test")) == users
    assert load(name, columns).split_hash == given.split_hash  # the given split is leave-last-out
    assert given.stats["repeats_share"] == 0


def test_published_sets_are_5_cores_already():
    dataset = load("amazon14_beauty", k_core=5)
    assert dataset.n_events == 198_502 and "events_outside_k_core" not in dataset.stats["notes"]


def test_keywords_stand_in_for_missing_titles():
    dataset = load("amazon14_sports", KEYWORDS)
    assert dataset.stats["items_without_title"] == 18_357 and dataset.stats["items_without_text"] == 0
    assert item_text(dataset.items)[0].startswith("ghost armorers tool")


def test_mini_set_with_times():
    everything = load("amazon23_all_beauty_mini", {"categories": "category"}, duplicates="keep_all")
    assert (everything.n_users, everything.n_items, everything.n_events) == (357, 479, 3315)
    assert everything.stats["time_from"].startswith("2011-04")
    once = load(
        "amazon23_all_beauty_mini", {"categories": "category"}, duplicates="first", split="global_time"
    )
    assert once.stats["notes"]["duplicate_interactions_dropped"] == 444
    share = np.bincount(once.split) / once.n_events
    assert share == pytest.approx([0.8, 0.1, 0.1], abs=0.01)


def test_official_samples_are_exactly_the_cases():
    folder = ROOT / "amazon23_industrial_multimodal_vlm"
    if not folder.is_dir():
        pytest.skip(f"{folder.name} is not under {ROOT}; set DIG_RAY_DATA to the folder that has it")
    samples = str(folder / "samples.parquet")
    config = CatalogConfig(
        source="table",
        split="given",
        items={"path": str(folder / "items.parquet")},
        interactions={"path": samples, "columns": {"history": "history"}},
    )
    dataset = build(read_raw(config), config)
    assert (dataset.n_users, dataset.n_items) == (7_595, 1_204)
    users = dataset.user_ids.tolist()
    ids = dataset.item_ids
    rows = pq.read_table(samples).to_pylist()
    published = {
        (str(r["user_id"]), tuple(map(str, r["history"])), str(r["item_id"]), r["split"]) for r in rows
    }
    found = set()
    for user, low, high in zip(users, dataset.offsets[:-1], dataset.offsets[1:], strict=True):
        events = tuple(ids[dataset.events[low:high]].tolist())
        assert dataset.split[low] == 0
        for at in range(1, len(events)):
            found.add((user, events[:at], events[at], ("train", "valid", "test")[dataset.split[low + at]]))
    assert found == published and len(rows) == len(found) == dataset.n_events - dataset.n_users
    counts = [sum(row[3] == part for row in found) for part in ("train", "valid", "test")]
    assert counts == [7_672, 959, 959] == [counts[0], len(dataset.cases("valid")), len(dataset.cases("test"))]
    assert target_in_history(dataset.events, dataset.cases("test")).sum() == 213


def test_300k_interactions_take_seconds(tmp_path):
    started = time.perf_counter()
    dataset = load("amazon14_sports", KEYWORDS)
    built = time.perf_counter() - started
    dataset.save(tmp_path)
    saved = time.perf_counter() - started - built
    Dataset.load(tmp_path)
    print(
        f"sports: read and build {built:.1f} s, save {saved:.1f} s, load {time.perf_counter() - started - built - saved:.1f} s"
    )
    assert time.perf_counter() - started < 30
