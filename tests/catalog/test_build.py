"""Order and policies: what is kept of the interactions."""

import numpy as np
import pytest

from dig_ray.errors import UserError

ITEMS = {"item_id": ["a", "b", "c", "d"], "title": ["Tent", "Stove", "Lamp", "Rope"]}


def log(*rows):
    """Events from ("user item time") texts."""
    cells = [row.split() for row in rows]
    return {
        "user_id": [c[0] for c in cells],
        "item_id": [c[1] for c in cells],
        "timestamp": [int(c[2]) for c in cells],
    }


def test_events_are_ordered_by_time_and_ties_keep_the_file_order(shop, sequences):
    events = log("u c 5", "v a 1", "u b 5", "u a 5", "v b 0", "u d 1", "v c 2")
    dataset = shop.write(ITEMS, events).load()
    assert sequences(dataset) == {"u": ["d", "c", "b", "a"], "v": ["b", "a", "c"]}
    assert dataset.stats["ties_share"] == pytest.approx(3 / 7)


def test_position_breaks_ties_and_orders_without_times(shop, sequences):
    events = {**log("u c 5", "u b 5", "u a 5", "u d 1"), "position": [2, 1, 3, 9]}
    assert sequences(shop.write(ITEMS, events).load()) == {"u": ["d", "b", "c", "a"]}
    assert sequences(shop.load(order="position")) == {"u": ["b", "c", "a", "d"]}
    assert sequences(shop.load(order="file")) == {"u": ["c", "b", "a", "d"]}
    del events["timestamp"]
    assert sequences(shop.write(ITEMS, events).load()) == {"u": ["b", "c", "a", "d"]}
    with pytest.raises(UserError, match="order is timestamp"):
        shop.load(order="timestamp")


def test_row_order_of_the_file_decides_nothing_but_ties(shop):
    rng = np.random.default_rng(0)
    rows = [f"u{rng.integers(30)} {'abcd'[rng.integers(4)]} {i}" for i in range(300)]
    first = shop.write(ITEMS, log(*rows)).load()
    second = shop.write(ITEMS, log(*[rows[i] for i in rng.permutation(300)])).load()
    assert first.split_hash == second.split_hash
    assert np.array_equal(first.events, second.events) and np.array_equal(first.user_ids, second.user_ids)


def test_unknown_items_by_policy(shop, sequences):
    shop.write(ITEMS, log("u a 1", "u x 2", "u b 3", "u y 4", "u c 5"))
    with pytest.raises(UserError, match=r"item 'x' is not in .*items.parquet \(2 such interactions\)"):
        shop.load()
    dropped = shop.load(unknown_items="drop")
    assert sequences(dropped) == {"u": ["a", "b", "c"]}
    assert dropped.stats["notes"] == {"interactions_with_unknown_items_dropped": 2}
    added = shop.load(unknown_items="add")
    assert sequences(added) == {"u": ["a", "x", "b", "y", "c"]} and added.n_items == 6
    assert added.stats["items_without_text"] == 2


def test_duplicate_items_by_policy(shop):
    shop.write(
        {"item_id": ["a", "b", "a", "c"], "title": ["1", "2", "3", "4"]}, log("u a 1", "u b 2", "u c 3")
    )
    with pytest.raises(UserError, match="item_id 'a' stands there more than once"):
        shop.load()
    dataset = shop.load(duplicate_items="first")
    assert dataset.items.column("title").to_pylist() == ["1", "2", "4"]
    assert dataset.stats["notes"] == {"duplicate_items_dropped": 1}


def test_duplicate_interactions_by_policy(shop):
    events = {**log("u a 1", "u b 2", "u b 2", "u c 3", "v b 2"), "rating": [1.0, 2.0, 3.0, 4.0, 5.0]}
    shop.write(ITEMS, events)
    with pytest.raises(
        UserError, match="user 'u' has several rows with the same item and timestamp .item 'b'; 1 such"
    ):
        shop.load()
    assert shop.load(duplicates="first").ratings.tolist() == [1, 2, 4, 5]
    assert shop.load(duplicates="last").ratings.tolist() == [1, 3, 4, 5]
    assert shop.load(duplicates="keep_all").ratings.tolist() == [1, 2, 3, 4, 5]


def test_all_broken_rules_come_together_and_each_with_its_setting(shop):
    twice = {"item_id": ["a", "b", "a", "c"], "title": ["1", "2", "3", "4"]}
    events = log("u a 1", "u x 2", "u b 3", "u b 3", "u c 4", "v a 1", "v y 2")
    shop.write(twice, events)
    with pytest.raises(UserError) as caught:
        shop.load(short_users="error")
    text = str(caught.value)
    assert "the data cannot be used as they are, for 4 reasons: (1) " in text
    for part in (
        "item_id 'a' stands there more than once (1 such", "set catalog.duplicate_items=first",
        "item 'x' is not in", "(2 such interactions)", "set catalog.unknown_items=drop or add",
        "user 'u' has several rows with the same item and timestamp", "set catalog.duplicates=first",
        "user 'v' has fewer than 3 events when what breaks the other rules is left out", "set catalog.short_users=",
    ):  # fmt: skip
        assert part in text
    mended = shop.load(duplicate_items="first", unknown_items="drop", duplicates="first")
    assert mended.n_events == 4
    with pytest.raises(UserError, match=r"2 reasons: \(1\) .*item 'x' is not in.* \(2\) .*order is position"):
        shop.load(duplicate_items="first", duplicates="first", order="position")


def test_two_items_at_one_moment_are_a_tie_and_no_duplicate(shop):
    assert shop.write(ITEMS, log("u a 1", "u b 1", "u c 2")).load().n_events == 3


def test_the_same_position_twice_is_a_duplicate(shop):
    events = {"user_id": ["u"] * 4, "item_id": list("abcd"), "position": [0, 1, 1, 2]}
    with pytest.raises(UserError, match="same position"):
        shop.write(ITEMS, events).load()


def test_repeats_by_policy(shop, sequences):
    shop.write(ITEMS, log("u a 1", "u a 2", "u b 3", "u a 4", "u c 5", "u c 6", "u d 7"))
    kept = shop.load()
    assert kept.stats["repeats_share"] == pytest.approx(3 / 7)
    assert kept.stats["consecutive_repeats_share"] == pytest.approx(2 / 7)
    assert sequences(shop.load(repeats="collapse_consecutive")) == {"u": ["a", "b", "a", "c", "d"]}
    dropped = shop.load(repeats="drop_repeats")
    assert sequences(dropped) == {"u": ["a", "b", "c", "d"]}
    assert dropped.stats["notes"] == {"repeats_dropped": 3}


def test_short_users_by_policy(shop):
    shop.write(ITEMS, log("u a 1", "u b 2", "u c 3", "v a 1", "v b 2", "w d 1"))
    train = shop.load()
    assert train.n_users == 3 and len(train.cases("test")) == 1
    assert train.stats["notes"] == {"users_short_train_only": 2}
    dropped = shop.load(short_users="drop")
    assert dropped.user_ids.tolist() == ["u"] and dropped.n_items == 4
    assert dropped.stats["notes"] == {"events_of_short_users_dropped": 3, "users_short_dropped": 2}
    with pytest.raises(UserError, match="user 'v' has fewer than 3 events"):
        shop.load(short_users="error")


def test_nobody_long_enough_to_test_on(shop):
    shop.write(ITEMS, log("u a 1", "u b 2", "v a 1"))
    with pytest.raises(UserError, match="nothing to test on"):
        shop.load()
    with pytest.raises(UserError, match="no interaction is left"):
        shop.load(short_users="drop")
    with pytest.raises(UserError, match="no interaction is left"):
        shop.load(k_core=9)


def test_unused_items_stay_unless_filtered(shop):
    shop.write(ITEMS, log("u a 1", "u b 2", "u c 3", "v a 1", "v b 2", "v c 3"))
    assert shop.load().n_items == 4 and shop.load().stats["items_without_events"] == 1
    assert shop.load(unused_items="drop").item_ids.tolist() == ["a", "b", "c"]
    core = shop.load(k_core=2)
    assert core.item_ids.tolist() == ["a", "b", "c"] and core.stats["notes"] == {"unused_items_dropped": 1}
    assert shop.load(k_core=2, unused_items="keep").n_items == 4


def test_without_an_items_file_the_used_items_are_the_catalogue(shop):
    shop.write(ITEMS, log("u b 1", "u a 2", "u c 3"))
    config = shop.config().model_copy(update={"items": None})
    from dig_ray.catalog.build import build
    from dig_ray.catalog.read import read_raw

    dataset = build(read_raw(config), config)
    assert dataset.item_ids.tolist() == ["a", "b", "c"] and dataset.stats["items_without_text"] == 3


def test_given_split_is_kept_and_checked(shop):
    events = {**log("u a 1", "u b 2", "u c 3", "u d 4"), "split": ["train", "train", "validation", "TEST"]}
    dataset = shop.write(ITEMS, events).load(split="given")
    assert dataset.split.tolist() == [0, 0, 1, 2] and dataset.split_name == "given"
    events["split"] = ["train", "test", "valid", "train"]
    with pytest.raises(UserError, match="user 'u' is not train, then valid, then test"):
        shop.write(ITEMS, events).load(split="given")
    events["split"] = ["test"] * 4
    with pytest.raises(UserError, match="no train interaction"):
        shop.write(ITEMS, events).load(split="given")
