"""Numbers out of texts: one rule a column, found in it, and nothing guessed."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dig_ray.catalog.columns.cells import Column
from dig_ray.catalog.columns.faults import Faults
from dig_ray.catalog.columns.numbers import positions, prices, ratings

NOT_ONE = ", which are not one scale"
BOTH = "decimal point in 1 value and decimal comma in 1, each read as it tells itself"


def read(values, mark="auto", notes=None, json=False):
    """Prices, the rule, and the sentence of faults."""
    faults, notes = Faults("items.csv"), Counter() if notes is None else notes
    cells = values if isinstance(values, pa.Array) else pa.array(values)
    found, rule = prices(Column("price", cells, json), mark, faults, notes)
    return found.to_pylist(), rule, str(faults) if faults else ""


@pytest.mark.parametrize(
    ("texts", "numbers", "rule"),
    [
        (["12.99", "5"], [12.99, 5], "decimal point, from 1 of 2 values"),
        (["12,99", "5"], [12.99, 5], "decimal comma, from 1 of 2 values"),
        (["1.299,00", "1.800"], [1299, 1800], "decimal comma, from 1 of 2 values"),
        (["$1,299.00", "$1,800"], [1299, 1800], "decimal point, from 1 of 2 values; in $ (2)"),
        (["1.800", "12.5"], [1.8, 12.5], "decimal point, from 1 of 2 values"),
        (["0.800", "1.800"], [0.8, 1.8], "decimal point, from 1 of 2 values"),
        (["1234.567", "1.800"], [1234.567, 1.8], "decimal point, from 1 of 2 values"),
        (["1 299,00 €", "7\u00a0000 €"], [1299, 7000], "decimal comma, from 1 of 2 values; in € (2)"),
        (["1'299.50", "CHF 20.-"], [1299.5, 20], "decimal point, from 1 of 2 values; in CHF (1)"),
        (["12,- €", "9,90 €"], [12, 9.9], "decimal comma, from 1 of 2 values; in € (2)"),
        (["₹1,29,999", "Rs. 2,50,000.50"], [129999, 250000.5], "decimal point, from 2 of 2 values; in ₹ (1), Rs. (1)" + NOT_ONE),
        (["US$ 5.50", "5,50 zł"], [5.5, 5.5], BOTH + "; in US$ (1), zł (1)" + NOT_ONE),
        (["1.5e3", "2E2"], [1500, 200], "decimal point, from 1 of 2 values"),
        (["", "nan", "None", "<NA>", "NA", "5"], [None] * 5 + [5], "whole numbers, 1 value"),
        (["+5", " 6 "], [5, 6], "whole numbers, 2 values"),
    ],
)  # fmt: skip
def test_a_column_is_read_by_what_its_values_tell(texts, numbers, rule):
    notes: Counter[str] = Counter()
    assert read(texts, notes=notes) == (numbers, rule, "")
    assert not +notes


@pytest.mark.parametrize(
    "text",
    [
        "12.99 - 20",
        "$5.99–$7.99",
        "from 3",
        "1,2,3",
        "1.2.3",
        "5%",
        "1/2",
        "12⁹⁹ €",
        "0x10",
        "1_2",
        "5 5",
        "--5",
        "(12.99)",
        "١٢",
        "12,99.50,1",
    ],
)
def test_what_is_no_single_number_is_null_and_counted(text):
    notes: Counter[str] = Counter()
    assert read([text, "5.50"], notes=notes)[0] == [None, 5.5]
    assert +notes == {"prices_unreadable": 1}


def test_what_could_be_two_numbers_is_null_unless_the_column_or_the_setting_tells():
    notes: Counter[str] = Counter()
    assert read(["1.800", "5"], notes=notes)[0] == [None, 5] and notes["prices_ambiguous"] == 1
    assert read(["1.800", "1,5", "1.5"])[0] == [None, 1.5, 1.5]  # the column tells both
    assert read(["1.800", "5"], "comma")[:2] == ([1800, 5], "decimal comma, as decimal_mark says")
    assert read(["1.800", "5"], "point")[0] == [1.8, 5]
    assert read(["1,5", "5"], "point")[0] == [None, 5]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["1.800", "2.500"], "holds '1.800' in data row 1 (and 1 more row), which is two numbers"),
        (["cheap", "dear"], "holds 'cheap' in data row 1 (and 1 more row), which is no number"),
        (["5.5", "Infinity"], "holds 'Infinity' in data row 2, which is infinite"),
        (["5.5", "1e999"], "holds '1e999' in data row 2, which is infinite"),
        ([5.5, float("inf")], "holds inf in data row 2, which is infinite"),
        ([5, 2**53 + 1], "holds 9007199254740993 in data row 2, which is too large to be kept exactly"),
        (pa.array([True]), "column price is bool, which is no number"),
        (pa.array([[1.0]]), "which is no number"),
        (pa.array([{"amount": 5.0}]), "which is no number"),
    ],
)
def test_what_cannot_be_a_price_is_one_sentence(values, words):
    sentence = read(values)[2]
    assert words in sentence and sentence.startswith("items.csv: column price ") and "\n" not in sentence


def test_json_cells_of_numbers_and_texts_are_one_column():
    cells = ["12.5", '"12,99"', "NaN", '"$5"', "null", '{"amount": 5}', "true", "[5]"]
    notes: Counter[str] = Counter()
    assert read(cells, notes=notes, json=True)[0] == [12.5, 12.99, None, 5, None, None, None, None]
    assert notes["prices_unreadable"] == 3


def test_negative_prices_are_null_and_counted():
    notes: Counter[str] = Counter()
    assert read(["-1", "5.5", "−3.5"], notes=notes)[0] == [None, 5.5, None] and notes["prices_negative"] == 2
    assert read([-1.0, 5.0], notes=notes)[0] == [None, 5]


def test_ratings_take_a_decimal_comma_and_refuse_what_is_no_number():
    faults = Faults("log.csv")
    found, rule = ratings(Column("rating", pa.array(["4,5", "5", None])), "auto", faults)
    assert found.to_pylist() == [4.5, 5, None] and rule == "decimal comma, from 1 of 2 values" and not faults
    for bad in ("good", "5/5", "inf", "4.000"):
        faults = Faults("log.csv")
        ratings(Column("rating", pa.array([bad, bad])), "auto", faults)
        assert f"column rating holds {bad!r} in data row 1 (and 1 more row)" in str(faults)
    faults = Faults("log.csv")
    ratings(Column("rating", pa.array([1e300])), "auto", faults)
    assert "no rating" in str(faults)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([1, None], "is empty in data row 2"),
        (["1", "nan"], "is empty in data row 2"),
        ([1.0, 1.5], "holds 1.5 in data row 2, which is no whole number"),
        ([1.0, float("inf")], "infinite"),
        (pa.array([1, 2**63], pa.uint64()), "holds 9223372036854775808 in data row 2, which is no number"),
        (["1", "first"], "holds 'first' in data row 2, which is no number"),
    ],
)
def test_positions_are_whole_numbers(values, words):
    faults = Faults("log.csv")
    positions(Column("position", values if isinstance(values, pa.Array) else pa.array(values)), faults)
    assert words in str(faults)
    faults = Faults("log.csv")
    assert positions(Column("position", pa.array(["2", "1.0"])), faults).to_pylist() == [2, 1] and not faults


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.decimals(0, 10**9, places=2), min_size=1, max_size=6),
    st.sampled_from(["point", "comma"]),
    st.booleans(),
    st.sampled_from(["", "$", "€ ", "EUR "]),
)
def test_what_a_shop_writes_is_read_back(amounts, mark, grouped, currency):
    texts = [f"{currency}{amount:{',' if grouped else ''}.2f}" for amount in amounts]
    if mark == "comma":
        texts = [text.translate(str.maketrans(",.", ".,")) for text in texts]
    found, rule, sentence = read(texts)
    assert found == [float(amount) for amount in amounts] and not sentence
    assert f"decimal {mark}" in rule


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text("0123456789.,' €$-+eE", max_size=9), min_size=1, max_size=4))
def test_no_text_ends_in_a_trace_or_in_a_number_it_does_not_write(texts):
    notes: Counter[str] = Counter()
    found, _, sentence = read(texts, notes=notes)
    for text, number in zip(texts, found, strict=True):
        if number is not None:
            digits = "".join(c for c in text if c.isdigit())
            assert "e" in text.lower() or f"{number:.9f}".replace(".", "").strip("0").startswith(
                digits.strip("0")[:12]
            )
    lost = sum(n is None and t.strip() not in ("",) for t, n in zip(texts, found, strict=True))
    assert (
        sentence or lost == notes["prices_unreadable"] + notes["prices_ambiguous"] + notes["prices_negative"]
    )
