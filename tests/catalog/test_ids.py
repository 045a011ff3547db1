"""What is an id, and how all faults of a file are told."""

import math
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dig_ray.catalog.columns.faults import Faults, shown
from dig_ray.catalog.columns.ids import MISSING, MISSING_WORDS, add_bad_ids, bad_id, id_column, id_text
from dig_ray.errors import UserError


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("007", "007"),
        (" a ", " a "),
        ("0", "0"),
        (5863, "5863"),
        (5863.0, "5863"),
        (-0.0, "0"),
        (Decimal("5.0"), "5"),
        (2**64 - 1, str(2**64 - 1)),
        (np.int32(7), "7"),
        (b"caf\xc3\xa9", "café"),
        ("Nancy", "Nancy"),
    ],
)
def test_ids_are_texts_as_they_stand_and_whole_numbers(value, text):
    assert id_text(value) == text and bad_id(value) is None


@pytest.mark.parametrize(
    ("value", "why"),
    [
        *((value, MISSING) for value in (None, math.nan, np.float32("nan"), "", " \t", Decimal("nan"))),
        *((word, f"is empty (written as {word})") for word in MISSING_WORDS),
        ("Zo\ufffd", "bytes that are not UTF-8"),
        ("a\ud800", "bytes that are not UTF-8"),
        (b"caf\xe9", "bytes that are not UTF-8"),
        ("a\0", "NUL"),
        (True, "is True"),
        (1.5, "fraction"),
        (Decimal("1.5"), "fraction"),
        (math.inf, "infinite"),
        (2.0**53, "2^53"),
        (10**40, "40 digits"),
        ([1], "is a list"),
        ({"a": 1}, "is an object"),
    ],
)
def test_what_is_missing_or_damaged_is_no_id(value, why):
    assert id_text(value) is None and why in str(bad_id(value))


@given(st.lists(st.one_of(st.none(), st.text(max_size=3), st.just("nan")), max_size=8))
def test_columns_of_text_follow_the_same_rule(values):
    values = [v if v is None else v.encode("utf-8", "replace").decode() for v in values]
    wanted = [id_text(value) for value in values]
    for column in (pa.array(values, pa.string()), pa.array(values, pa.large_string()), values):
        texts, bad = id_column(column)
        assert texts.to_pylist() == wanted
        assert bad == [(n, bad_id(value)) for n, value in enumerate(values) if bad_id(value)]
    assert id_column(pa.array(values, pa.string()).dictionary_encode())[0].to_pylist() == wanted


@given(st.lists(st.one_of(st.none(), st.floats(), st.integers(-5, 5).map(float)), max_size=8))
def test_columns_of_numbers_follow_the_same_rule(values):
    texts, bad = id_column(pa.array(values, pa.float64()))
    assert texts.to_pylist() == [id_text(value) for value in values]
    assert bad == [(n, bad_id(value)) for n, value in enumerate(values) if bad_id(value)]


@pytest.mark.parametrize(
    "column", [pa.array([[1], None]), pa.array([{"a": 1}, None]), pa.array([7, None], pa.timestamp("ns"))]
)
def test_other_types_are_no_ids(column):
    texts, bad = id_column(column)
    assert texts.to_pylist() == [None, None]
    assert bad == [(0, f"is of type {column.type}, which is no id"), (1, MISSING)]


def test_a_column_of_broken_utf8_names_its_rows():
    offsets = pa.array([0, 1, 3], pa.int32()).buffers()[1]
    broken = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"aZ\xe9")])
    assert id_column(broken)[1] == [(1, "holds bytes that are not UTF-8")]
    assert id_column(pa.nulls(2)) == (pa.array([None, None], pa.string()), [(0, MISSING), (1, MISSING)])


def test_faults_of_a_file_are_one_sentence():
    faults = Faults("x.csv")
    faults.raise_any()
    add_bad_ids([(3, MISSING), (5, MISSING)], "column user_id", faults)
    faults.add("column price", "holds {value}, which is no number", 2, "a" * 99, rows=1200, cure="set a.b=c")
    faults.add("column price", "holds {value}, which is no number", 5, "later")
    with pytest.raises(UserError) as caught:
        faults.raise_any()
    assert str(caught.value) == (
        "x.csv: column user_id is empty in data row 4 (and 1 more row); column price holds "
        f"'{'a' * 57}...' in data row 2 (and 1,200 more rows), which is no number; set a.b=c"
    )


def test_only_the_first_kinds_of_faults_are_told():
    faults = Faults("x.jsonl", "line")
    for n in range(8):
        faults.add("", f"is wrong in way {n}", n + 1)
    assert str(faults).startswith("x.jsonl: line 1 is wrong in way 0; line 2 ")
    assert str(faults).endswith("line 5 is wrong in way 4; faults of 3 more kinds; correct the file")
    assert shown("a\nb") == r"'a\nb'" and len(shown(list(range(99)))) == 60


def test_a_value_cannot_write_into_the_sentence():
    faults = Faults("x")
    faults.add("column {value}", "holds {value}", 1, "{value} {path}")
    assert str(faults).startswith("x: column {value} holds '{value} {path}' in data row 1;")
