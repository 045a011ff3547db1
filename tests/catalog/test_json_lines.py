"""JSON lines: every value comes back as it was, NaN is missing, and broken lines are told together."""

import json
import math
from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dig_ray.catalog.columns.cells import CELLS_ARE_JSON, cells_are_json
from dig_ray.catalog.readers.tables import read_table
from dig_ray.errors import UserError

PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters(codec="utf-8"), max_size=4)
)
VALUE = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=2)
)  # fmt: skip
RECORDS = st.lists(st.dictionaries(st.sampled_from("abc"), VALUE, min_size=1), min_size=1, max_size=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("json")


def read(folder, data, name="t.jsonl"):
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8"))
    notes: Counter[str] = Counter()
    return read_table(path, notes), notes


def values(table, name):
    """A column as Python values, JSON cells parsed."""
    cells = table.column(name).to_pylist()
    return (
        [c if c is None else json.loads(c) for c in cells]
        if cells_are_json(table.schema.field(name))
        else cells
    )


def same(got, wanted):
    """Equal, but that NaN is missing at the top of a cell and in a plain list, and that 1 may stand for 1.0."""
    if isinstance(wanted, float) and math.isnan(wanted):
        return got is None or (isinstance(got, float) and math.isnan(got))
    if isinstance(wanted, list):
        return isinstance(got, list) and len(got) == len(wanted) and all(map(same, got, wanted))
    if isinstance(wanted, dict):
        return (
            isinstance(got, dict)
            and got.keys() == wanted.keys()
            and all(same(got[k], wanted[k]) for k in wanted)
        )
    if isinstance(wanted, bool) or isinstance(got, bool):
        return got is wanted
    return got == wanted and isinstance(got, str) == isinstance(wanted, str)


@settings(max_examples=150, deadline=None)
@given(RECORDS, st.booleans(), st.sampled_from(["t.jsonl", "t.json", "t.ndjson"]), st.booleans())
def test_what_pythons_json_writes_is_read_back(folder, records, ascii_only, name, as_list):
    dumped = [json.dumps(record, ensure_ascii=ascii_only) for record in records]
    try:
        table, notes = read(folder, f"[{','.join(dumped)}]" if as_list else "\n".join(dumped), name)
    except UserError as error:
        assert len(records) == 1 and "object that holds the columns" in str(error)
        return
    assert not notes and table.num_rows == len(records)
    for key in "abc":
        wanted = [record.get(key) for record in records]
        if key in table.column_names:
            assert same(values(table, key), wanted), (table.schema, wanted)
            assert all(
                g is None for g, w in zip(values(table, key), wanted, strict=True) if w is None or w != w
            )
        else:
            assert wanted == [None] * len(records)


@pytest.mark.parametrize(
    ("cells", "kind", "json_cells"),
    [
        (["a", None, math.nan], pa.string(), False),
        ([1, None, math.nan], pa.int64(), False),
        ([1, 2.5], pa.float64(), False),
        ([True, None], pa.bool_(), False),
        ([["a"], [], None], pa.list_(pa.string()), False),
        ([[1, 2], [3.5]], pa.list_(pa.float64()), False),
        ([[], []], pa.list_(pa.string()), False),
        ([math.nan, None], pa.null(), False),
        (["5", 5], pa.string(), True),
        ([True, 1], pa.string(), True),
        ([1.0, math.inf], pa.string(), True),
        ([2**63, 1], pa.string(), True),
        ([2**53, 0.5], pa.string(), True),
        ([{"a": 1}], pa.string(), True),
        ([[[1]]], pa.string(), True),
        ([["a", 1]], pa.string(), True),
        (["a", ["a"]], pa.string(), True),
    ],
)
def test_the_type_of_a_column_is_that_of_all_its_values(folder, cells, kind, json_cells):
    lines = [json.dumps({"id": str(n), "x": cell}) for n, cell in enumerate(cells)]
    table, _ = read(folder, "\n".join(lines))
    field = table.schema.field("x")
    assert field.type == kind and cells_are_json(field) == json_cells
    assert (field.metadata == CELLS_ARE_JSON) == json_cells and not cells_are_json(table.schema.field("id"))
    assert same(values(table, "x"), cells)


def test_a_text_and_a_number_stay_apart_and_infinity_is_kept(folder):
    table, _ = read(
        folder, '{"x": "5"}\n{"x": 5}\n{"x": NaN}\n{"x": -Infinity}\n{"x": {"y": NaN}}\n{"y": 1}\n'
    )
    assert table.column("x").to_pylist() == ['"5"', "5", None, "-Infinity", '{"y": NaN}', None]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("t.jsonl", '{"a": 1, "a": 2}\n', "line 1 has the key 'a' twice in one object"),
        ("t.jsonl", '{"a": {"b": 1, "b": 2}}\n', "line 1 has the key 'b' twice"),
        ("t.jsonl", '{"a": 1}{"a": 2}\n', "line 1 holds more than one object"),
        ("t.jsonl", '{"a": 1}\r{"a": 2}\r', "line 1 holds more than one object"),
        ("t.jsonl", '{"a": 1},\n', "line 1 has ',' after the object"),
        ("t.jsonl", '{"a": 1,}\n', r"line 1 is not valid JSON \(Illegal trailing comma|Expecting property name"),
        ("t.jsonl", "{'a': 1}\n", "line 1 is not valid JSON .*double quotes"),
        ("t.jsonl", '{"a": %s}\n' % ("[" * 99_999), "line 1 is not valid JSON .nested too deep"),
        ("t.jsonl", '{"a": %s}\n' % ("9" * 5_000), "line 1 is not valid JSON .Exceeds the limit"),
        ("t.jsonl", '{"a": 1}\nnull\n3\n"x"\n', "line 2 holds a null, .*line 3 holds a number, .*line 4 holds a text, "),
        ("t.jsonl", '{"a": 1}\n[1]\n[2]\n', r"line 2 holds a list, not an object \(and 1 more line\)"),
        ("t.json", '{"id": {"0": "A", "1": "B"}, "title": {"0": "a", "1": "b"}}', "holds the columns.*orient='records', lines=True"),
        ("t.json", '{"data": [{"a": 1}, {"a": 2}]}', "holds the columns"),
        ("t.json", '{\n "a": 1\n}\n', "is one JSON value over many lines"),
        ("t.json", '[\n {"a": 1},\n {"a": 2},\n]\n', "begins as a JSON list and is not valid JSON in line [34]"),
        ("t.json", '[{"a": 1}, 2]', "element 2 of it is no object"),
        ("t.json", '[{"a": 1, "a": 2}]', "key 'a' twice"),
        ("t.jsonl", '{"a": 1}\n'.encode("utf-16"), "is text in UTF-16"),
    ],
)  # fmt: skip
def test_what_is_no_object_per_line_is_one_sentence(folder, name, data, words):
    with pytest.raises(UserError, match=words) as caught:
        read(folder, data, name)
    assert "\n" not in str(caught.value)


def test_all_broken_lines_are_told_together(folder):
    with pytest.raises(UserError) as caught:
        read(folder, '{"a": 1}\nx\n{"a": 1}{"a": 2}\ny\n[1]\n')
    message = str(caught.value)
    assert "line 2 is not valid JSON (Expecting value, character 1) (and 1 more line)" in message
    assert "line 3 holds more than one object" in message and "line 5 holds a list" in message


def test_lone_surrogates_are_replaced_and_counted(folder):
    table, notes = read(
        folder, '{"a": "x\\ud800", "b": ["\\udfff"], "c": {"d": "\\ud800"}, "e\\ud800": 1}\n{"a": "y"}\n'
    )
    assert table.to_pylist()[0] == {"a": "x\ufffd", "b": ["\ufffd"], "c": '{"d": "\ufffd"}', "e\ufffd": 1}
    assert notes == {"texts_not_utf8": 3}


def test_values_as_keys_are_no_columns(folder):
    with pytest.raises(
        UserError, match="10,001 different keys, such as 'user.*seem to be values and no columns"
    ):
        read(folder, "\n".join(json.dumps({f"user{n}": n}) for n in range(10_001)))
