"""The dataset: cases, training sequences, saving and loading."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dig_ray.catalog.build import build
from dig_ray.catalog.config import CatalogConfig
from dig_ray.catalog.dataset import Dataset
from dig_ray.catalog.read import read_raw
from dig_ray.errors import UserError

ITEMS = {"item_id": list("abcdef"), "title": list("ABCDEF")}


def long_log(n_users=20, seed=1):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 9, n_users)
    users = np.repeat(np.arange(n_users), lengths)
    return {
        "user_id": [f"u{u:02d}" for u in users],
        "item_id": [ITEMS["item_id"][i] for i in rng.integers(0, 6, len(users))],
        "timestamp": rng.permutation(len(users)).tolist(),
    }


@pytest.mark.parametrize("split", ["leave_last_out", "global_time"])
def test_a_case_sees_exactly_what_came_before(shop, split):
    dataset = shop.write(ITEMS, long_log()).load(split=split)
    for name, code in (("valid", 1), ("test", 2)):
        cases = dataset.cases(name)
        assert (cases.end > cases.start).all()
        assert (dataset.split[cases.end] == code).all() and (dataset.events[cases.end] == cases.target).all()
        assert (dataset.users[cases.end] == cases.user).all() and (
            dataset.users[cases.start] == cases.user
        ).all()
        assert (dataset.offsets[cases.user] == cases.start).all()
        for start, end in zip(cases.start, cases.end, strict=True):
            assert (dataset.timestamps[start:end] < dataset.timestamps[end]).all()
        everything = dataset.cases(name, min_history=0)
        assert len(everything) == (dataset.split == code).sum()
        first = dataset.stats[f"{name}_events_without_history"]
        assert len(everything) - len(cases) == first
    if split == "leave_last_out":
        test = dataset.cases("test")
        assert (dataset.split[test.end - 1] == 1).all()  # the valid event is history by then
    else:
        assert dataset.timestamps[dataset.split == 0].max() < dataset.timestamps[dataset.split == 1].min()
        assert dataset.split_name == "global_time 0.8:0.1:0.1"


def test_histories_are_cut_to_the_latest(shop):
    dataset = shop.write(ITEMS, long_log()).load(max_history=2)
    cases = dataset.cases("test")
    assert (cases.end - cases.start).max() == 2
    assert len(cases) == len(shop.load().cases("test"))


def test_train_sequences_hold_nothing_else(shop):
    dataset = shop.write(ITEMS, long_log()).load()
    offsets, items = dataset.train_sequences()
    assert offsets.dtype == np.int64 and len(offsets) == dataset.n_users + 1 and offsets[-1] == len(items)
    for user in range(dataset.n_users):
        low, high = dataset.offsets[user], dataset.offsets[user + 1]
        own = dataset.events[low:high][dataset.split[low:high] == 0]
        assert items[offsets[user] : offsets[user + 1]].tolist() == own.tolist()


def test_save_and_load_give_the_same_and_the_same_bytes(shop, tmp_path):
    events = long_log()
    events["rating"] = [float(i % 5) for i in range(len(events["user_id"]))]
    dataset = shop.write(ITEMS, events).load(max_history=3)
    dataset.save(tmp_path / "one")
    again = Dataset.load(tmp_path / "one")
    for name in ("user_ids", "item_ids", "offsets", "events", "split", "timestamps", "ratings"):
        left, right = getattr(dataset, name), getattr(again, name)
        assert left.dtype == right.dtype and np.array_equal(left, right), name
    assert again.items.equals(dataset.items) and again.stats == dataset.stats
    assert (again.split_name, again.split_hash, again.max_history) == (
        dataset.split_name,
        dataset.split_hash,
        3,
    )
    shop.load(max_history=3).save(tmp_path / "two")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_the_tables_are_as_documented(shop, tmp_path):
    shop.write(ITEMS, long_log()).load().save(tmp_path / "out")
    rows = pq.read_table(tmp_path / "out" / "interactions.parquet")
    assert rows.column_names == ["user_id", "item_id", "position", "timestamp", "split"]
    sequences = pq.read_table(tmp_path / "out" / "sequences.parquet").to_pylist()
    for row in sequences:
        own = [r for r in rows.to_pylist() if r["user_id"] == row["user_id"]]
        assert [r["item_id"] for r in own] == row["item_ids"]
        assert [r["position"] for r in own] == list(range(len(own)))
        assert [r["split"] for r in own][: row["valid_from"]] == ["train"] * row["valid_from"]
        assert [r["split"] for r in own][row["test_from"] :] == ["test"] * (len(own) - row["test_from"])


def _edit_split(path):
    rows = pq.read_table(path / "interactions.parquet")
    flipped = ["train" if s == "test" else s for s in rows.column("split").to_pylist()]
    at = rows.column_names.index("split")
    pq.write_table(rows.set_column(at, "split", pa.array(flipped)), path / "interactions.parquet")


def _drop_item(path):
    items = pq.read_table(path / "items.parquet")
    pq.write_table(items.slice(1), path / "items.parquet")


def _cut(path):
    data = (path / "items.parquet").read_bytes()
    (path / "items.parquet").write_bytes(data[:-40])


def _reverse(path):
    rows = pq.read_table(path / "interactions.parquet")
    pq.write_table(rows.take(list(range(rows.num_rows))[::-1]), path / "interactions.parquet")


def _no_hash(path):
    meta = json.loads((path / "dataset.json").read_text())
    del meta["split_hash"]
    (path / "dataset.json").write_text(json.dumps(meta))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_edit_split, "do not match the split hash"),
        (_drop_item, "that the other files lack"),
        (_cut, "damaged catalogue artifact"),
        (_reverse, "not in the order"),
        (_no_hash, "lacks 'split_hash'"),
        (lambda path: (path / "sequences.parquet").unlink(), "missing from the catalogue"),
        (lambda path: (path / "dataset.json").write_text("{"), "damaged catalogue artifact"),
    ],
)
def test_a_damaged_artifact_is_refused(shop, tmp_path, damage, words):
    shop.write(ITEMS, long_log()).load().save(tmp_path / "out")
    damage(tmp_path / "out")
    with pytest.raises(UserError, match=words):
        Dataset.load(tmp_path / "out")


def test_arrays_that_do_not_fit_are_refused():
    items = pa.table({"item_id": ["a"]})
    users = np.array(["u"])
    with pytest.raises(ValueError, match="offsets"):
        Dataset(items, users, np.array([0, 2]), np.zeros(1, np.int32), np.zeros(1, np.int8))
    with pytest.raises(ValueError, match="outside the catalogue"):
        Dataset(items, users, np.array([0, 1]), np.ones(1, np.int32), np.zeros(1, np.int8))


def test_a_catalogue_that_nobody_has_used_yet(shop, tmp_path):
    config = CatalogConfig(source="table", items={"path": shop.items})
    dataset = build(read_raw(config), config)
    assert (dataset.n_users, dataset.n_items, dataset.n_events) == (0, 4, 0)
    assert dataset.split_name == "none" and len(dataset.cases("test")) == 0
    assert dataset.train_sequences()[0].tolist() == [0]
    dataset.save(tmp_path / "out")
    assert "NaN" not in (tmp_path / "out" / "dataset.json").read_text()
    loaded = Dataset.load(tmp_path / "out")
    assert loaded.stats == dataset.stats and loaded.item_ids.tolist() == ["a", "b", "c", "d"]
    assert loaded.split_hash == dataset.split_hash
