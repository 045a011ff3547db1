"""Texts, categories, interests and pictures in every shape; and what is no such shape is refused with its row."""

from __future__ import annotations

import contextlib
import json
from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dig_ray.catalog.columns import shapes
from dig_ray.catalog.columns.cells import Column
from dig_ray.catalog.columns.faults import Faults
from dig_ray.catalog.readers.literals import read_literal


def forms(values):
    """The same cells as Arrow values (where Arrow can), as JSON cells, as JSON text and as Python text."""
    with contextlib.suppress(pa.ArrowException, TypeError):
        yield "arrow", pa.array(values), False
    yield "json cells", pa.array([json.dumps(v) for v in values]), True
    texts = [v if v is None or isinstance(v, str) else json.dumps(v) for v in values]
    yield "json text", pa.array(texts, pa.string()), False
    yield (
        "python text",
        pa.array([v if v is None or isinstance(v, str) else repr(v) for v in values], pa.string()),
        False,
    )


def read(function, cells, json_cells=False, *more):
    faults, notes = Faults("items.csv"), Counter()
    found = function(Column("x", cells, json_cells), *more, faults, notes)
    return found.to_pylist() if isinstance(found, pa.Array) else found, str(faults) if faults else "", +notes


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (["a cup", None], ["a cup", ""]),
        ([["a", "cup"], []], ["a cup", ""]),
        ([["a", None], None], ["a", ""]),
        (["[Sealed] cup", "{sic}"], ["[Sealed] cup", "{sic}"]),
    ],
)
def test_texts_in_every_form(values, texts):
    for form, cells, json_cells in forms(values):
        assert read(shapes.texts, cells, json_cells)[:2] == (texts, ""), form


def test_what_reads_nan_is_missing_and_counted():
    found, _, notes = read(shapes.texts, pa.array(["nan", "NaN", "None", "<NA>", "NaT", "Nan bread", "none"]))
    assert found == ["", "", "", "", "", "Nan bread", "none"] and notes == {"texts_that_read_nan": 5}


def test_numbers_become_texts_and_are_counted():
    for cells, json_cells in (
        (pa.array([5.0, float("nan"), 1984.0]), False),
        (pa.array(["5", "NaN", "1984.0"]), True),
    ):
        assert read(shapes.texts, cells, json_cells) == (["5", "", "1984"], "", {"texts_from_numbers": 2})


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"en": "a cup"}, "is an object (en) in data row 2, which is no text"),
        ([{"en": "a"}], "is an object (en) in data row 2, which is no text"),
        ([["a"]], "is a list of lists in data row 2, which is no text"),
    ],
)
def test_what_is_no_text_is_refused_in_every_form(value, words):
    for form, cells, json_cells in forms([None, value]):
        assert words in read(shapes.texts, cells, json_cells)[1], form


def test_yes_or_no_and_infinity_are_no_texts():
    assert "is True in data row 1, which is no text" in read(shapes.texts, pa.array(["true"]), True)[1]
    assert "is bool, which is no text" in read(shapes.texts, pa.array([True]))[1]
    assert "is infinite in data row 1" in read(shapes.texts, pa.array([float("inf")]))[1]


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([["Home", "Cups"], None], [["Home", "Cups"], []]),
        ([[" Home ", "", None], []], [["Home"], []]),
        ([[["Home", "Cups"], ["Gifts"]]], [["Home > Cups", "Gifts"]]),
        ([[{"id": 1, "name": "Cups", "slug": "cups"}]], [["Cups"]]),
        ([{"name": "Cups"}], [["Cups"]]),
        (["Home", ""], [["Home"], []]),
        (["Books [used]", "nan"], [["Books [used]"], []]),
    ],
)
def test_categories_in_every_form(values, found):
    for form, cells, json_cells in forms(values):
        assert read(shapes.categories, cells, json_cells, None)[:2] == (found, ""), form


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("['Home', nan]", ["Home"]),
        ("['Home' 'Cups']", ["Home", "Cups"]),
        ("['Home'\n 'Cups']", ["Home", "Cups"]),
        ("[array(['Home', 'Cups'], dtype=object)]", ["Home > Cups"]),
        ("('Home', 'Cups')", ["('Home', 'Cups')"]),
        ("{'Home'}", ["Home"]),
        ("['O\\'Neill', \"a 'b' c\"]", ["O'Neill", "a 'b' c"]),
        ("['Home', <NA>]", ["Home"]),
        ("A|B", ["A", "B"]),
        ("A||B", ["A", "B"]),
    ],
)
def test_categories_as_pandas_and_numpy_print_them(text, found):
    assert read(shapes.categories, pa.array([text]), False, "|")[:2] == ([found], "")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("['Home', 'Cu", "begins like a list and is none"),
        ("[['a', ['b']]]", "nested deeper than lists of lists"),
        ("[{'id': 1}]", "holds an object without a text called name (id)"),
        ("[true]", "is True"),
        ('["a" + "b"]', "begins like a list and is none"),
        ("[__import__('os')]", None),
    ],
)
def test_categories_that_are_none(text, words):
    found, sentence, _ = read(shapes.categories, pa.array([text]), False, None)
    assert words in sentence if words else found == [[text]]


INTERESTS = [
    ([["tea at home", "gifts"]], [["tea at home", "gifts"]]),
    ([[{"text": "tea", "confidence": 0.9}, {"text": "gifts", "confidence": 0.1}]], [["tea", "gifts"]]),
    ([[{"interest": "tea", "confidence": 1}]], [["tea"]]),
    ([[{"descriptor": "tea"}]], [["tea"]]),
    ([{"text": "tea", "confidence": 0.9}], [["tea"]]),
    ([{"interests": [{"interest": "tea", "confidence": 0.9}]}], [["tea"]]),
    ([[["tea", 0.9], ["gifts", 0.2]]], [["tea", "gifts"]]),
    ([["tea", 0.9]], [["tea"]]),
    (["tea at home", None], [["tea at home"], []]),
    ([[], None], [[], []]),
]


@pytest.mark.parametrize(("values", "found"), INTERESTS)
def test_interests_in_every_form(values, found):
    for form, cells, json_cells in forms(values):
        assert read(shapes.interests, cells, json_cells)[:2] == (found, ""), form


def test_interests_as_a_keyphrase_extractor_prints_them():
    assert read(shapes.interests, pa.array(["[('tea at home', 0.9), ('gifts', 0.2)]"]))[0] == [
        ["tea at home", "gifts"]
    ]
    table = pa.array([[("tea", 0.9), ("gifts", 0.2)]], pa.map_(pa.string(), pa.float64()))
    assert read(shapes.interests, table)[0] == [["tea", "gifts"]]


@pytest.mark.parametrize("value", [[1, 2], [{"id": 1}], [[["tea"]]], [True], "[{'text': 'te"])
def test_what_is_no_interest_is_refused(value):
    for form, cells, json_cells in forms([value]):
        sentence = read(shapes.interests, cells, json_cells)[1]
        assert "column x" in sentence and ("in data row 1" in sentence or "which is no" in sentence), form


def test_pictures():
    paths = ["a.png", None, "nan", ["b.png", "c.png"], {"path": "d.png"}]
    faults, notes = Faults("items.csv"), Counter()
    found, raw = shapes.images(Column("image", pa.array([json.dumps(p) for p in paths]), True), faults, notes)
    assert found.to_pylist() == ["a.png", None, None, "b.png", "d.png"] and raw is None and not faults
    assert notes["images_more_than_one"] == 1
    for bad in (5, True, {"url": "x"}, [["a"]]):
        assert read(lambda c, f, n: shapes.images(c, f, n)[0], pa.array([json.dumps(bad)]), True)[1]
    assert "which is no picture's bytes" in read(shapes.image_bytes, pa.array(["aGk="]))[1]


@settings(max_examples=300, deadline=None)
@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.text()),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=8,
    )
)
def test_literals_are_what_python_wrote(value):
    assert read_literal(repr(value)) == value


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text("ab'\" \\\n", max_size=5), min_size=1, max_size=4))
def test_arrays_without_commas_are_not_glued(texts):
    assert read_literal("[" + " ".join(map(repr, texts)) + "]") == texts


@settings(max_examples=300, deadline=None)
@given(st.text("[]{}()'\",:abnN<>A 0.1\\", max_size=14))
def test_any_text_is_read_or_refused(text):
    for function, more in ((shapes.texts, ()), (shapes.categories, (None,)), (shapes.interests, ())):
        found, sentence, _ = read(function, pa.array([text]), False, *more)
        assert len(found) == 1 and "\n" not in sentence
