"""Published (history, target) samples become the sequences they were made from, or one clear sentence."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dig_ray.catalog.columns.ids import id_text
from dig_ray.catalog.config import CatalogConfig, InteractionsConfig
from dig_ray.catalog.readers.histories import read_histories
from dig_ray.catalog.readers.literals import LONGEST
from dig_ray.catalog.readers.samples import samples_to_events
from dig_ray.catalog.readers.tables import read_table
from dig_ray.errors import UserError

SPLITS = ("train", "valid", "test")
SAMPLES = CatalogConfig(
    source="table",
    split="given",
    interactions={"path": "samples.parquet", "columns": {"history": "history"}},
).interactions


@st.composite
def worlds(draw) -> tuple[dict[str, list[str]], dict[str, list[int]]]:
    """Sequences of at least two events, and the split of each: train, then valid, then test, the first one train."""
    lists = st.lists(st.sampled_from("abc"), min_size=2, max_size=9)
    sequences = draw(st.dictionaries(st.sampled_from([f"u{i}" for i in range(9)]), lists, min_size=1))
    splits = {}
    for user, events in sequences.items():
        splits[user] = [0, *sorted(draw(st.integers(0, 2)) for _ in events[1:])]
    return sequences, splits


def rows_of(sequences, splits, cut: int | None = None) -> list[dict]:
    return [
        {
            "user_id": user,
            "history": events[:at][-cut:] if cut else events[:at],
            "item_id": events[at],
            "split": splits[user][at],
            "position": at,
        }
        for user, events in sequences.items()
        for at in range(1, len(events))
    ]


def back(rows: list[dict], duplicates: str = "keep_all", position: bool = True) -> tuple[dict, dict, Counter]:
    table = pa.Table.from_pylist(rows)
    targets = table.select(["user_id", "item_id", "split", *(["position"] if position else [])])
    notes: Counter[str] = Counter()
    assert isinstance(SAMPLES, InteractionsConfig)
    events = samples_to_events(table, targets, SAMPLES, duplicates, notes).to_pylist()
    sequences: dict[str, list[str]] = {}
    splits: dict[str, list[int]] = {}
    for row in events:
        assert row["position"] == len(sequences.setdefault(row["user_id"], []))
        sequences[row["user_id"]].append(row["item_id"])
        splits.setdefault(row["user_id"], []).append(row["split"])
    return sequences, splits, notes


@given(worlds(), st.randoms(use_true_random=False))
def test_samples_in_any_order_give_the_sequences_back(world, random):
    rows = rows_of(*world)
    random.shuffle(rows)
    sequences, splits, notes = back(rows, position=False)
    assert (sequences, splits) == world
    assert notes["events_only_in_histories"] == len(sequences) and not notes["histories_cut_by_publisher"]


@given(worlds(), st.integers(1, 5))
def test_histories_that_the_publisher_cut_give_the_sequences_back(world, cut):
    sequences, splits, _ = back(rows_of(*world, cut=cut)[::-1])
    assert (sequences, splits) == world


@settings(max_examples=30)
@given(st.lists(st.lists(st.text(min_size=1, max_size=4), min_size=1, max_size=4), min_size=1, max_size=5))
def test_histories_may_be_lists_json_or_python_literals(rows):
    rows = [[text if id_text(text) else "x" for text in row] for row in rows]
    for cells in (rows, [json.dumps(row) for row in rows], [repr(row) for row in rows]):
        lengths, flat = read_histories(pa.table({"h": cells}), "h", "x.csv")
        assert lengths.tolist() == [len(row) for row in rows]
        assert flat.to_pylist() == [text for row in rows for text in row]


def test_numbers_become_ids_as_elsewhere():
    for cells in ([[1, 20], [3]], ["[1, 20]", "[3]"], [[1.0, 20.0], [3.0]], ["[1.0, 20]", "[3]"]):
        assert read_histories(pa.table({"h": cells}), "h", "x")[1].to_pylist() == ["1", "20", "3"]


@pytest.mark.parametrize(
    "cell",
    [
        "__import__('os').abort()",
        "[__import__('os').abort()]",
        "{'a': 1}",
        "1 2 3",
        "[" * 5_000 + "]" * 5_000,
        "[" + "-" * 50_000 + "1]",
        "[1" + " " * LONGEST + "]",
    ],
)
def test_text_that_is_no_list_is_refused_and_never_run(cell):
    with pytest.raises(
        UserError, match=r"x.csv: column h holds .* in data row 2, which is no list of item ids"
    ):
        read_histories(pa.table({"h": ["[1]", cell]}), "h", "x.csv")


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ([["a"], []], "holds an empty history in data row 2; a sample needs"),
        ([["a"], None, None], r"holds an empty history in data row 2 \(and 1 more row\)"),
        (["[]", "['a']"], "holds an empty history in data row 1"),
        (["['a']", "[None]"], "holds an empty history in data row 2"),
        ([[1.5]], "holds an entry that is a fraction in data row 1, which is no id"),
        (["[[1]]"], "holds an entry that is a list in data row 1, which is no id"),
        (["[true]"], "holds an entry that is True in data row 1"),
        (["['a']", "[" + "9" * 400 + "]"], "holds an entry that is a number of more than 40 digits in data row 2"),
        (["['a']", "['Zo\ufffd']"], "holds an entry that holds bytes that are not UTF-8 in data row 2"),
        ([[2.0**53]], "holds an entry that is a float of"),
        ([3], "is int64, which is no history"),
        ([[[1]]], "holds lists of list<.*>, which are no ids"),
        ([[True]], "holds lists of bool, which are no ids"),
    ],
)  # fmt: skip
def test_unusable_histories_name_file_column_and_row(cells, words):
    with pytest.raises(UserError, match=rf"x.csv: column h {words}"):
        read_histories(pa.table({"h": cells}), "h", "x.csv")


def test_all_faults_of_the_histories_come_together():
    with pytest.raises(
        UserError,
        match="is a fraction in data row 1, which is no id; column h holds an empty history in data row 2",
    ):
        read_histories(pa.table({"h": ["['a', 1.5]", "[]"]}), "h", "x.csv")


def test_entries_that_are_missing_are_dropped_and_counted():
    for cells in ([["a", None, "b"], ["", "c", "nan"]], ["['a', nan, 'b']", "['', 'c', None]"]):
        notes: Counter[str] = Counter()
        lengths, flat = read_histories(pa.table({"h": cells}), "h", "x", notes=notes)
        assert lengths.tolist() == [2, 1] and flat.to_pylist() == ["a", "b", "c"]
        assert notes["history_gaps_dropped"] == 3


def test_an_array_printed_without_commas_is_not_glued():
    assert read_histories(pa.table({"h": ["['a' 'b']", "('c', 'd')"]}), "h", "x")[1].to_pylist() == list(
        "abcd"
    )


def test_json_lines_with_histories_of_several_kinds(tmp_path):
    lines = [["a", 1], "['b', 'c']", [2, None], [3.0]]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"h": line}) + "\n" for line in lines))
    table = read_table(tmp_path / "t.jsonl", Counter())
    assert read_histories(table, "h", "x")[1].to_pylist() == ["a", "1", "b", "c", "2", "3"]


def row(user, history, item, split=0, position=0):
    return {"user_id": user, "history": history, "item_id": item, "split": split, "position": position}


def test_rows_that_do_not_follow_one_another_name_user_and_row():
    with pytest.raises(
        UserError, match=r"data row 3 of user 'u' \(a, c\) is not the user's events so far \(a, b\)"
    ):
        back([row("u", ["a"], "b"), row("v", ["a"], "b"), row("u", ["a", "c"], "d")])
    with pytest.raises(UserError, match=r"data row 2 of user 'u' \(a, b, c\) is not .* \(a, b\)"):
        back([row("u", ["a"], "b"), row("u", ["a", "b", "c"], "d")])
    with pytest.raises(UserError, match="data row 2 of user 'u'"):  # one history, two targets
        back([row("u", ["a"], "b"), row("u", ["a"], "c"), row("v", ["a", "b"], "c")])


def test_the_same_sample_twice_follows_duplicates():
    rows = [row("u", ["a"], "b", 0), row("u", ["a"], "b", 1), row("u", ["a", "b"], "c", 2)]
    with pytest.raises(
        UserError, match="data row 2 of user 'u' is the sample of data row 1 of user 'u' again.*duplicates"
    ):
        back(rows, "error")
    for duplicates, split in (("first", 0), ("last", 1)):
        sequences, splits, notes = back(rows, duplicates)
        assert sequences == {"u": ["a", "b", "c"]} and splits == {"u": [0, split, 2]}
        assert notes["duplicate_samples_dropped"] == 1


def events(**columns):
    return {
        "user_id": ["u", "u", "w"],
        "item_id": ["b", "c", "c"],
        "split": ["train", "test", "valid"],
    } | columns


def test_samples_are_a_source_like_any_other(shop, sequences):
    shop.write(events=events(history=["['a']", "['a', 'b']", "['b']"]))
    dataset = shop.load(split="given", columns={"history": "history"})
    assert sequences(dataset) == {"u": ["a", "b", "c"], "w": ["b", "c"]}
    assert dataset.split.tolist() == [0, 0, 2, 0, 1] and dataset.stats["test_cases"] == 1
    assert dataset.stats["notes"] == {"events_only_in_histories": 2}


PADDED = [[0, 0, 0], [0, 0, "b"], [0, "b", "c"], [0, 0, "c"]]


def padded(histories):
    return {
        "user_id": ["u", "u", "u", "w"],
        "item_id": ["b", "c", "a", "b"],
        "split": ["train", "train", "test", "valid"],
        "history": histories,
    }


@pytest.mark.parametrize("right", [False, True])
def test_padding_of_histories_is_dropped_where_it_is_named(shop, sequences, right):
    lists = [sorted(cell, key=lambda entry: (entry == 0) == right, reverse=True) for cell in PADDED]
    shop.write(events=padded([str(cell) for cell in lists]))
    settings = {"split": "given", "columns": {"history": "history"}}
    with pytest.raises(
        UserError, match="'0' is no item and stands only at the beginning or end .*padding to '0'"
    ):
        shop.load(**settings)
    dataset = shop.load(**settings, interactions={"padding": "0"})
    assert sequences(dataset) == {"u": ["b", "c", "a"], "w": ["c", "b"]}
    notes = dataset.stats["notes"]
    assert notes["history_padding_dropped"] == 8 and notes["samples_without_history_dropped"] == 1


def test_zero_is_an_id_like_any_other_where_there_is_such_an_item(shop, sequences):
    shop.write(
        items={"item_id": ["0", "b", "c"]},
        events=events(history=["[0]", "[0, 'b']", "[0, 'b']"], item_id=["b", "c", "c"]),
    )
    assert sequences(shop.load(split="given", columns={"history": "history"}))["u"] == ["0", "b", "c"]


def test_zero_may_be_the_first_of_a_history_that_is_not_filled_up(shop, sequences):
    shop.write(events=events(history=["[0]", "[0, 'b']", "['b']"]))
    dataset = shop.load(split="given", columns={"history": "history"}, unknown_items="add")
    assert sequences(dataset)["u"] == ["0", "b", "c"]


def test_histories_of_nothing_but_padding_are_refused(shop):
    shop.write(events=events(history=["['a']", "['a', 'a']", "['a']"]))
    with pytest.raises(UserError, match="every history .* is nothing but 'a'"):
        shop.load(split="given", columns={"history": "history"}, interactions={"padding": "a"})


def test_padding_needs_histories(shop):
    with pytest.raises(ValidationError, match="padding is about published histories"):
        shop.config(interactions={"padding": "0"})


def test_unknown_items_in_histories_follow_the_policy(shop, sequences):
    shop.write(events=events(history=[["x"], ["x", "b"], ["b"]]))
    settings = {"split": "given", "columns": {"history": "history"}}
    with pytest.raises(UserError, match="item 'x' is not in .*items.parquet"):
        shop.load(**settings)
    assert sequences(shop.load(unknown_items="drop", **settings)) == {"u": ["b", "c"], "w": ["b", "c"]}
    assert sequences(shop.load(unknown_items="add", **settings))["u"] == ["x", "b", "c"]


def test_a_part_that_comes_too_early_is_refused(shop):
    shop.write(events=events(history=[["a"], ["a", "b"], ["b"]], split=["test", "train", "valid"]))
    with pytest.raises(UserError, match="user 'u' is not train, then valid, then test"):
        shop.load(split="given", columns={"history": "history"})
    with pytest.raises(
        UserError, match="no column 'past'; set catalog.interactions.columns.history to one of"
    ):
        shop.load(split="given", columns={"history": "past"})


@pytest.mark.parametrize(
    ("settings", "columns", "words"),
    [
        ({}, {}, "needs source: table and split: given"),
        ({"split": "given", "source": "recbole"}, {}, "needs source: table and split: given"),
        ({"split": "given"}, {"timestamp": "t"}, "no time or rating"),
        ({"split": "given", "order": "timestamp"}, {}, "no time or rating"),
    ],
)
def test_settings_that_samples_cannot_have(tmp_path: Path, settings, columns, words):
    files = {"interactions": {"path": "x.parquet", "columns": {"history": "h", **columns}}}
    with pytest.raises(ValidationError, match=words):
        CatalogConfig(**{"source": "table", **settings}, **files)
