"""Times: one unit a column, found in it, and every value that does not fit named with its row."""

from __future__ import annotations

import datetime as dt
import json

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dig_ray.catalog.columns.cells import Column
from dig_ray.catalog.columns.faults import Faults
from dig_ray.catalog.columns.times import UNITS, Times, times
from dig_ray.errors import UserError

S = 1_600_000_000
EVENTS = {"user_id": ["u", "u", "u", "v", "v", "v"], "item_id": list("abcabc")}


def read(values, unit="auto", json_cells=False) -> tuple[Times | None, str]:
    faults = Faults("log.csv")
    cells = values if isinstance(values, pa.Array) else pa.array(values)
    found = times(Column("timestamp", cells, json_cells), unit, faults)
    assert (found is None) == bool(faults)
    assert "\n" not in str(faults)
    return found, str(faults) if faults else ""


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ([S, S + 1], "time unit: s, from 2 values of 2020"),
        ([S * 1000, S * 1000 + 999], "time unit: ms, from 2 values of 2020"),
        (["1600000000.25", "+1600000001"], "time unit: s, from 2 values of 2020"),
        (["1.6e9", "1600000001"], "time unit: s, from 2 values of 2020"),
        ([20180131, 20190228], "dates written as 20180131, from 2 values between 2018 and 2019"),
        (
            ["201801311259", "201902281300"],
            "dates written as 201801311259, from 2 values between 2018 and 2019",
        ),
        (["20180131125959"], "dates written as 20180131125959, from 1 value of 2018"),
        (["2018-01-31", "2018-01-31 12:59"], "dates, from 2 values of 2018"),
        (["2018-01-31 12:59:59 UTC", "2018-01-31T12:59:59.123456789Z"], "dates, from 2 values of 2018"),
        (["2018-01-31 12:59:59+00", "2018-01-31 12:59:59 +0530"], "dates, from 2 values of 2018"),
        ([dt.date(2018, 1, 31)], "dates, from 1 value of 2018"),
    ],
)
def test_the_rule_is_found_in_the_column_and_said(values, rule):
    assert read(values)[0].rule == rule


def test_zones_are_taken_into_account():
    found, _ = read(["2018-01-31 12:00:00+00:00", "2018-01-31T12:30:00+05:30"])
    assert found.milliseconds.tolist() == [1_517_400_000_000, 1_517_382_000_000]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["1700000000", "x", "1700000002"], "holds 'x' in data row 2, which is no number"),
        (["2018-01-31", "soon"], "holds 'soon' in data row 2, which is no date"),
        (["2018-01-31", "2018-02-30"], "holds '2018-02-30' in data row 2, which is no date in the calendar"),
        (["2018-01-31", "31.01.2018"], "holds '31.01.2018' in data row 2, which is no date"),
        (["2018-01-31", "1600000000", "2018-02-01"], "holds '1600000000' in data row 2, which is no date as most values are"),
        (["2018-01-31 10:00", "2018-01-31 10:00Z"], "'2018-01-31 10:00' in data row 1, which has no time zone, while data row 2 has one"),
        ([S, S * 1000, S], "holds 1600000000000 in data row 2, which is a time in ms, not in s (data row 1 holds 1600000000, a time in s)"),
        ([S, 0], "holds 0 in data row 2, which in s is outside the years 1990 to 2100"),
        ([S, -1, -1], "holds -1 in data row 2 (and 1 more row), which in s is outside"),
        ([S, 5_000_000_000], "holds 5000000000 in data row 2, which in s is outside"),
        ([200_000_000], "is in none of s, ms, us and ns a time in the years 1990 to 2100"),
        (["1970-01-01"], "holds 1970-01-01 00:00:00 in data row 1, which is outside the years 1990 to 2100"),
        ([dt.datetime(2262, 1, 1)], "outside the years 1990 to 2100"),
        ([*[20180131] * 19, 20181301], "holds 20181301 in data row 20, which is no date such as 20180131"),
        ([float(S), float("nan")], "is empty in data row 2"),
        ([S, None], "is empty in data row 2"),
        (["1600000000", "NaT"], "is empty in data row 2"),
        ([float(S), float("inf")], "holds inf in data row 2, which is infinite"),
        (pa.array([2**63 + 1, S], pa.uint64()), "holds 9223372036854775809 in data row 1, which is no time of 64 bits"),
        (pa.array([1], pa.duration("s")), "is duration[s], which is no time of an event"),
        (pa.array([1], pa.time32("s")), "is time32[s], which is no time of an event"),
        (pa.array([True]), "is bool, which is no time of an event"),
        (pa.nulls(2), "is empty in data row 1 (and 1 more row)"),
    ],
)  # fmt: skip
def test_the_value_at_fault_is_named_with_its_row(values, words):
    assert words in read(values)[1]


def test_a_number_beyond_64_bits_is_shown_as_it_is_written():
    for written in ("99999999999999999999", "1600000000000000000000"):
        _, said = read([str(S), written, str(S + 1)])
        assert written in said and "data row 2" in said and f"holds {S}, a time in s" in said


def test_mixed_units_name_the_setting_that_cures_them():
    sentence = read([S, S * 1000 + 1])[1]
    assert "set catalog.interactions.time_unit=each" in sentence
    found, _ = read([S * 1000 + 1, S, S * 10**9], "each")
    assert found.milliseconds.tolist() == [S * 1000 + 1, S * 1000, S * 1000]
    assert found.rule.startswith("time unit: of each value, s (1), ms (1), ns (1)")
    assert "holds 7 in data row 2" in read([S, 7], "each")[1]


def test_a_unit_that_is_given_is_held_against_the_values():
    assert read([S], "s")[0].rule == "time unit: s as given, from 1 value of 2020"
    sentence = read([S * 1000, S * 1000], "s")[1]
    assert (
        "which is a time in ms, not in s" in sentence and "set catalog.interactions.time_unit=ms" in sentence
    )


def test_small_numbers_are_an_order_and_no_times():
    found, _ = read([3, 1, 2])
    assert found.order_only and found.order.tolist() == [3, 1, 2]
    assert found.rule == "timestamp holds 1 to 3, no times since 1990: used as the order of events only"
    assert read([S, 7], "order")[0].order_only
    assert read([2**62, 7], "order")[0].order.tolist() == [2**62, 7]


def test_coarse_and_constant_times_are_said():
    assert "float keeps them to 128 s only" in read(pa.array([float(S)], pa.float32()))[0].rule
    assert "all are the same moment" in read([S, S])[0].rule
    assert "keeps" not in read([float(S)])[0].rule


def test_json_cells_of_numbers_and_texts():
    cells = [json.dumps(v) for v in (S, str(S + 2), S + 1.5)]
    assert read(cells, json_cells=True)[0].order.tolist() == [S, S + 2, S + 1.5]
    for bad, words in (
        (True, "is True"),
        ([S], "is a list"),
        ({"$date": S}, "is an object"),
        (10**30, "outside"),
    ):
        assert words in read([*cells, json.dumps(bad)], json_cells=True)[1]
    assert "is empty in data row 2" in read([str(S), "NaN"], json_cells=True)[1]
    assert "holds 'inf' in data row 2" in read([str(S), "Infinity"], json_cells=True)[1]


def test_a_cut_in_time_needs_one_clock(shop):
    events = EVENTS | {"timestamp": [0, 1, 2, 0, 1, 2]}
    with pytest.raises(UserError, match="begin at 0 for 2 of 2 users, so they count each user's events"):
        shop.write(None, events).load(split="global_time", ratios=(0.4, 0.3, 0.3))
    given = {"time_unit": "order"}
    assert shop.load(split="global_time", ratios=(0.4, 0.3, 0.3), interactions=given).n_events == 6
    assert shop.load().stats["time_from"] is None and shop.load().stats["ties_share"] == 0


def test_the_rule_reaches_the_statistics(shop):
    dataset = shop.load()
    assert dataset.stats["rules"] == ["time unit: s, from 7 values of 2020"]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(631_152_000, 4_102_444_799), min_size=1, max_size=5),
    st.sampled_from(list(UNITS)),
    st.booleans(),
)
def test_every_moment_is_read_back_in_every_unit(seconds, unit, as_text):
    values = [s * UNITS[unit] for s in seconds]
    found, _ = read(list(map(str, values)) if as_text else values)
    assert found.milliseconds.tolist() == [s * 1000 for s in seconds]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(st.text("0123456789-:T Z.+eNau", max_size=20), st.integers().map(str)),
        min_size=1,
        max_size=4,
    )
)
def test_any_texts_are_times_or_one_sentence(texts):
    found, sentence = read(texts)
    assert sentence or len(found.order) == len(texts)
