"""Column mapping and wrong values."""

import datetime as dt
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dig_ray.errors import UserError

ITEMS = {"item_id": ["a", "b", "c"], "title": ["Tent", "Stove", "Lamp"]}
EVENTS = {"user_id": ["u"] * 3, "item_id": ["a", "b", "c"], "timestamp": [1, 2, 3]}


def test_columns_are_mapped_and_several_are_joined(shop):
    items = {
        "asin": [7, 8, 9],
        "name": ["Tent", None, "Lamp"],
        "words": [["x", None, "y"], [], None],
        "more": ["z", "w", " "],
        "cats": ["A|B", '["C", "D"]', ""],
        "cost": ["$1,299.50", "from 3", ""],
        "url": ["http://x/1.jpg", "", None],
        "truth": [["i1"], ["i2"], []],
    }
    events = {"who": [1.0, 1.0, 1.0], "what": [7, 8, 9], "n": [2, 0, 1], "stars": ["5", "4.5", None]}
    dataset = shop.write(items, events).load(
        item_columns={
            "item_id": "asin",
            "title": "name",
            "description": ["words", "more"],
            "categories": "cats",
            "price": "cost",
            "image": "url",
        },
        items={"category_separator": "|"},
        columns={"user_id": "who", "item_id": "what", "position": "n", "rating": "stars"},
    )
    assert dataset.items.to_pylist()[:2] == [
        {
            "item_id": "7",
            "title": "Tent",
            "description": "x y z",
            "brand": "",
            "categories": ["A", "B"],
            "price": 1299.5,
            "image": "http://x/1.jpg",
            "truth": ["i1"],
        },
        {
            "item_id": "8",
            "title": "",
            "description": "w",
            "brand": "",
            "categories": ["C", "D"],
            "price": None,
            "image": None,
            "truth": ["i2"],
        },
    ]
    assert dataset.user_ids.tolist() == ["1"]
    assert dataset.item_ids[dataset.events].tolist() == ["8", "9", "7"]
    assert dataset.ratings[[0, 2]].tolist() == [4.5, 5.0] and dataset.ratings[1] != dataset.ratings[1]
    assert dataset.stats["notes"]["prices_unreadable"] == 1


def test_pixels_in_the_image_column_become_image_bytes(shop):
    dataset = shop.write({**ITEMS, "image": [b"\x89PNG", None, b"x"]}, EVENTS).load()
    assert dataset.items.column("image_bytes").to_pylist() == [b"\x89PNG", None, b"x"]
    assert dataset.items.column("image").to_pylist() == [None] * 3


@pytest.mark.parametrize(
    ("times", "unit"),
    [
        ([1_600_000_000, 1_600_000_001, 1_600_000_002], "s"),
        ([1_600_000_000_000, 1_600_000_001_000, 1_600_000_002_000], "ms"),
        ([1_600_000_000_000_000, 1_600_000_001_000_000, 1_600_000_002_000_000], "us"),
        ([1_600_000_000_000_000_000, 1_600_000_001_000_000_000, 1_600_000_002_000_000_000], "ns"),
        ([1_600_000_000.0, 1_600_000_001.0, 1_600_000_002.0], "float s"),
        (["1600000000", "1600000001", "1600000002"], "text"),
        (["2020-09-13 12:26:40", "2020-09-13T12:26:41", "2020-09-13 12:26:42"], "ISO"),
        ([dt.datetime(2020, 9, 13, 12, 26, 40 + i) for i in range(3)], "datetime"),
    ],
)
def test_times_of_any_unit_become_milliseconds(shop, times, unit):
    dataset = shop.write(ITEMS, {**EVENTS, "timestamp": times}).load()
    assert dataset.timestamps.tolist() == [1_600_000_000_000, 1_600_000_001_000, 1_600_000_002_000]


def test_microseconds_still_decide_the_order(shop, sequences):
    times = [1_600_000_000_000_300, 1_600_000_000_000_100, 1_600_000_000_000_200]
    assert sequences(shop.write(ITEMS, {**EVENTS, "timestamp": times}).load()) == {"u": ["b", "c", "a"]}


@pytest.mark.parametrize(
    ("items", "events", "settings", "words"),
    [
        (
            ITEMS,
            {"item_id": ["a"]},
            {},
            "no column 'user_id'; set catalog.interactions.columns.user_id to one of item_id",
        ),
        ({"title": ["x"]}, EVENTS, {}, "no column 'item_id'"),
        (ITEMS, EVENTS, {"item_columns": {"title": "name"}}, "no column 'name'"),
        (ITEMS, EVENTS, {"item_columns": {"description": ["title", "words"]}}, "no column 'words'"),
        (ITEMS, EVENTS, {"columns": {"timestamp": "when"}}, "no column 'when'"),
        (ITEMS, {"user_id": ["u"], "item_id": ["a"]}, {}, "neither a timestamp nor a position"),
        (ITEMS, {**EVENTS, "timestamp": [1, None, 3]}, {}, "timestamp is empty in data row 2"),
        (ITEMS, {**EVENTS, "timestamp": [1.0, float("nan"), 3.0]}, {}, "timestamp is empty in data row 2"),
        (ITEMS, {**EVENTS, "timestamp": ["1", "soon", "3"]}, {}, "'soon' in data row 2, which is no number"),
        (ITEMS, {**EVENTS, "rating": ["5", "good", "1"]}, {}, "'good' in data row 2, which is no number"),
        (ITEMS, {**EVENTS, "user_id": ["u", None, "u"]}, {}, "user_id is empty in data row 2"),
        (ITEMS, {**EVENTS, "user_id": ["u", "", "u"]}, {}, "user_id is empty in data row 2"),
        (ITEMS, {**EVENTS, "item_id": [1.5, 2.0, 3.0]}, {}, "is a fraction in data row 1, which is no id"),
        (ITEMS, {**EVENTS, "item_id": [["a"], ["b"], ["c"]]}, {}, "no id"),
        ({**ITEMS, "categories": [[[["x"]]], [], []]}, EVENTS, {}, "nested deeper than lists of lists"),
        (ITEMS, {**EVENTS, "split": ["train", "valid", "later"]}, {"split": "given"}, "holds 'later'"),
        (ITEMS, EVENTS, {"split": "given"}, "no column 'split'"),
    ],
)
def test_wrong_columns_and_values_are_one_sentence(shop, items, events, settings, words):
    shop.write(items, events)
    with pytest.raises(UserError) as caught:
        shop.load(**settings)
    message = str(caught.value)
    assert words in message and ".parquet" in message and "\n" not in message


def test_hostile_ids_stay_text_and_never_become_paths(shop, tmp_path):
    ids = ["../../etc/passwd", "/abs", "%2e%2e\\x", "a b", "\u202eright to left", "x" * 5000]
    items = {"item_id": ids, "title": ["t"] * 6}
    events = {"user_id": ["../u"] * 6, "item_id": ids, "timestamp": list(range(6))}
    dataset = shop.write(items, events).load()
    out = tmp_path / "out"
    dataset.save(out)
    assert sorted(p.name for p in out.iterdir()) == [
        "dataset.json",
        "interactions.parquet",
        "items.parquet",
        "sequences.parquet",
    ]
    assert dataset.item_ids.tolist() == ids
    assert type(dataset).load(out).item_ids.tolist() == dataset.item_ids.tolist()


def test_texts_are_cut_counted_and_blank_items_reported(shop):
    items = {"item_id": ["a", "b", "c"], "title": ["t", "", None], "description": ["x" * 1_000_000, "", None]}
    dataset = shop.write(items, EVENTS).load(max_text_chars=1000)
    assert dataset.stats["notes"]["texts_cut"] == 1
    assert dataset.stats["items_without_text"] == 2
    assert dataset.stats["text_chars_max"] == 1002


def test_dictionary_columns_are_read(shop):
    pq.write_table(pa.table({name: pa.array(v).dictionary_encode() for name, v in ITEMS.items()}), shop.items)
    assert shop.write(None, EVENTS) and shop.load().n_items == 4


def test_all_faults_of_a_file_come_together(shop):
    events = {
        **EVENTS,
        "timestamp": ["1600000000", "x", "1600000002"],
        "rating": ["good", "5", "4"],
        "user_id": ["u", None, "u"],
    }
    shop.write(ITEMS, events)
    with pytest.raises(UserError) as caught:
        shop.load()
    for words in (
        "column user_id is empty in data row 2",
        "column timestamp holds 'x' in data row 2, which is no number",
        "column rating holds 'good' in data row 1, which is no number",
    ):
        assert words in str(caught.value)


BAD_IDS = {
    "null": None,
    "NaN": float("nan"),
    "blank": " ",
    "word": "<NA>",
    "fraction": 1.5,
    "infinite": float("inf"),
    "list": ["a"],
    "object": {"id": "a"},
    "true": True,
    "damaged": "Zo\ufffd",
    "float of many": 2.0**60,
}


@pytest.mark.parametrize("kind", BAD_IDS)
def test_what_is_no_id_is_refused_or_dropped_and_counted(shop, tmp_path, kind):
    users = ["u", "u", "u", "u", BAD_IDS[kind], "v"]
    path = tmp_path / "log.jsonl"
    path.write_text(
        "".join(
            json.dumps({"user_id": user, "item_id": item, "timestamp": 1_600_000_000 + n}) + "\n"
            for n, (user, item) in enumerate(zip(users, "abcabc", strict=True))
        )
    )
    shop.write(ITEMS)
    shop.interactions = str(path)
    with pytest.raises(UserError, match="column user_id .*in data row 5") as caught:
        shop.load()
    assert "catalog.bad_ids=drop" in str(caught.value) or kind not in ("null", "NaN", "blank", "word")
    dataset = shop.load(bad_ids="drop")
    assert dataset.user_ids.tolist() == ["u", "v"] and dataset.n_events == 5
    assert dataset.stats["notes"]["rows_without_id_dropped"] == 1


def test_dropped_rows_take_their_other_faults_along_and_rows_keep_their_numbers(shop):
    events = {
        "user_id": ["u", None, "u", "u"],
        "item_id": ["a", None, "b", "c"],
        "timestamp": ["1600000000", None, "1600000001", "x"],
    }
    shop.write(ITEMS, events)
    with pytest.raises(UserError, match="holds 'x' in data row 4") as caught:
        shop.load(bad_ids="drop")
    assert "is empty" not in str(caught.value)


def test_no_row_with_an_id_is_one_sentence(shop):
    shop.write(ITEMS, {**EVENTS, "user_id": [None] * 3})
    with pytest.raises(UserError, match="leave no row with an id"):
        shop.load(bad_ids="drop")


def test_the_same_id_as_number_float_and_text_is_one_and_counted(shop, tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(
        "".join(
            f'{{"user_id": "u", "item_id": {one}, "timestamp": {n}}}\n'
            for n, one in enumerate(["7", '"7"', "7.0", "8"])
        )
    )
    shop.write({"item_id": [7, 8], "title": ["a", "b"]})
    shop.interactions = str(path)
    dataset = shop.load()
    assert dataset.item_ids[dataset.events].tolist() == ["7", "7", "7", "8"]
    assert dataset.stats["notes"]["ids_written_as_number_and_as_text"] == 2


def test_ids_of_any_length_stay_exact_and_small_floats_are_refused_where_they_are_not(shop):
    items = {"item_id": [2**64 - 1, 2**64 - 2, 2**63], "title": ["a", "b", "c"]}
    events = {**EVENTS, "item_id": [str(2**64 - 1), str(2**64 - 2), str(2**63)]}
    items["item_id"] = pa.array(items["item_id"], pa.uint64())
    assert shop.write(items, events).load().item_ids.tolist() == events["item_id"]
    shop.write({**items, "item_id": pa.array([1.0, 2.0**24, 3.0], pa.float32())}, EVENTS)
    with pytest.raises(
        UserError,
        match=r"item_id is a float of 2\^24 or more in data row 2, where|item_id is a float of 2\^24 or more",
    ):
        shop.load()


def test_a_caption_column_is_text_and_interests_are_taken_apart(shop):
    items = {
        **ITEMS,
        "caption": ["a tent", "nan", None],
        "interests": [[{"text": "camping", "confidence": 0.9}], [], None],
    }
    dataset = shop.write(items, EVENTS).load()
    assert dataset.items["caption"].to_pylist() == ["a tent", "", ""]
    assert dataset.items["interests"].to_pylist() == [["camping"], [], []]
    with pytest.raises(UserError, match=r"column caption is .* which is no text|column caption is an object"):
        shop.write({**ITEMS, "caption": [{"en": "a"}, None, None]}, EVENTS).load()


def test_other_columns_of_json_lines_are_kept_as_strict_json(shop, tmp_path):
    path = tmp_path / "items.jsonl"
    cells = ['{"a": NaN}', '"text"', "NaN"]
    path.write_text(
        "".join(f'{{"item_id": "{i}", "x": {cell}}}\n' for i, cell in zip("abc", cells, strict=True))
    )
    shop.write(None, EVENTS)
    shop.items = str(path)
    assert shop.load().items["x"].to_pylist() == ['{"a": null}', "text", None]


@pytest.mark.parametrize(("written", "has"), [("7.0", "7"), (" 7", "7"), ("007", "7"), ("b0a", "B0A")])
def test_an_id_that_a_tool_has_written_in_another_way_is_hinted_at(shop, written, has):
    shop.write({"item_id": [has, "8"], "title": ["a", "b"]}, {**EVENTS, "item_id": [written, "8", "8"]})
    with pytest.raises(UserError, match=f"is not in .*it has '{has}', so write the ids of both files alike"):
        shop.load()


def test_ids_that_a_spreadsheet_has_rounded_are_refused(shop):
    shop.write(ITEMS, {**EVENTS, "user_id": ["5.86312E+12", "1E+05", "1E5"]})
    with pytest.raises(
        UserError,
        match=r"column user_id is written as 5.86312E\+12 in data row 1 .and 1 more row., which a spreadsheet",
    ):
        shop.load()


def test_white_space_around_ids_belongs_to_them_and_is_counted(shop):
    dataset = shop.write(ITEMS, {**EVENTS, "user_id": ["u", "u ", "u"], "item_id": ["a", "b", "c"]}).load(
        short_users="train",
        min_user_events=3,
        split="global_time",
        interactions={"time_unit": "order"},
        ratios=(0.4, 0.3, 0.3),
    )
    assert dataset.user_ids.tolist() == ["u", "u "] and dataset.stats["notes"]["ids_with_space_around"] == 1
