"""The stage as the pipeline runs it."""

import pyarrow.parquet as pq

from dig_ray.base import Stage
from dig_ray.catalog.config import CatalogConfig
from dig_ray.catalog.dataset import Dataset
from dig_ray.catalog.stage import make_catalog


def make_stage(tmp_path, seed=3):
    out = tmp_path / "out"
    out.mkdir()
    lines = []
    return Stage("catalog", "f", seed, out, str(tmp_path / "work"), log=lines.append), lines


def test_demo_stage_saves_the_dataset_the_truth_and_the_figures(tmp_path):
    stage, lines = make_stage(tmp_path)
    make_catalog(CatalogConfig(demo={"n_items": 60, "n_users": 50, "n_intents": 8}), stage)
    dataset = Dataset.load(stage.out)
    assert stage.stats["split_hash"] == dataset.split_hash and stage.stats["users"] == 50
    assert stage.stats["rows"] == dataset.n_events and stage.stats["source"] == "demo"
    assert len(lines) == 1 and dataset.split_hash[:12] in lines[0] and "50 users, 60 items" in lines[0]
    assert pq.read_table(stage.out / "truth_users.parquet").num_rows == 50
    assert pq.read_table(stage.out / "truth_events.parquet").num_rows == dataset.n_events


def test_what_was_dropped_is_said(shop, tmp_path):
    shop.write(
        {"item_id": ["a", "b", "c"], "title": ["", "B", "C"]},
        {"user_id": ["u"] * 4, "item_id": ["a", "b", "x", "c"], "timestamp": [1, 2, 3, 4]},
    )
    stage, lines = make_stage(tmp_path)
    make_catalog(shop.config(unknown_items="drop"), stage)
    assert stage.stats["notes"] == {"interactions_with_unknown_items_dropped": 1}
    assert (
        "interactions with unknown items dropped: 1" in lines[0] and "1 of 3 items have no text" in lines[1]
    )
