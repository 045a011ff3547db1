"""Answers are whole or refused, with a reason; nothing is guessed."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dig_ray.mining import answers
from dig_ray.mining.answers import LONGEST_ANSWER, AnswerError, fold, json_schema, read_answer, strict_json

GOOD = '{"descriptors": [{"descriptor": "camping in rain", "confidence": 0.9}, {"descriptor": "gift", "confidence": 0}]}'
STEPS = '"surface": "a tent", "usage_context": "hills", "motive": "sleep dry"'


def reason(kind: str, text: str) -> str:
    with pytest.raises(AnswerError) as caught:
        read_answer(kind, text)  # type: ignore[arg-type]
    return caught.value.reason


def test_good_answers() -> None:
    answer = read_answer("descriptors", GOOD)
    assert answer.texts == ("camping in rain", "gift") and answer.confidences == (0.9, 0.0)
    answer = read_answer(
        "interests", "{" + STEPS + ', "interests": [{"interest": " ultralight \\n hiking", "confidence": 1}]}'
    )
    assert answer.texts == ("ultralight hiking",) and answer.reasoning["motive"] == "sleep dry"
    assert read_answer("caption", '{"caption": "A red kettle."}').texts == ("A red kettle.",)
    assert [read_answer("judgement", text).label for text in ("0", " 1\n")] == [0, 1]


@pytest.mark.parametrize(
    "text, why",
    [
        ("", "empty"),
        ("   ", "empty"),
        ("sorry, I cannot", "not_json"),
        ("```json\n" + GOOD + "\n```", "not_json"),
        (GOOD + " Hope this helps!", "not_json"),
        (GOOD[:-3], "not_json"),
        ("[" * 100_000, "too_long"),
        ("[" * 50_000, "not_json"),
        ('{"descriptors": ' + "9" * 5_000 + "}", "not_json"),
        ('{"descriptors": [], "descriptors": []}', "duplicate_key"),
        ('{"descriptors": [{"descriptor": "a", "confidence": NaN}]}', "not_finite"),
        ('{"descriptors": [{"descriptor": "a", "confidence": -Infinity}]}', "not_finite"),
        ('{"descriptors": [{"descriptor": "a", "confidence": 1e999}]}', "not_finite"),
        ('{"descriptors": [{"descriptor": "a", "confidence": 1.01}]}', "out_of_range"),
        ('{"descriptors": [{"descriptor": "a", "confidence": -0.1}]}', "out_of_range"),
        ('{"descriptors": [{"descriptor": "a", "confidence": true}]}', "wrong_type"),
        ('{"descriptors": [{"descriptor": "a", "confidence": "0.5"}]}', "wrong_type"),
        ('{"descriptors": [{"descriptor": "a", "confidence": null}]}', "wrong_type"),
        ('{"descriptors": [{"descriptor": "a"}]}', "wrong_keys"),
        ('{"descriptors": [{"descriptor": "a", "confidence": 1, "why": "b"}]}', "wrong_keys"),
        ('{"descriptors": ["a"]}', "wrong_type"),
        ('{"descriptors": []}', "empty"),
        ('{"descriptors": [{"descriptor": " ", "confidence": 1}]}', "empty"),
        ('{"descriptors": [{"descriptor": "a\\u0000b", "confidence": 1}]}', "wrong_type"),
        ('{"descriptors": [{"descriptor": "\\ud800", "confidence": 1}]}', "wrong_type"),
        ('{"descriptors": "a"}', "wrong_type"),
        ("[]", "wrong_type"),
        ("null", "wrong_type"),
        ("{}", "wrong_keys"),
    ],
)
def test_bad_answers_are_named(text: str, why: str) -> None:
    assert reason("descriptors", text) == why


def test_the_same_descriptor_twice_is_refused_after_folding() -> None:
    pair = [{"descriptor": d, "confidence": 1} for d in ("Stra\u00dfe  Lauf", "\uff33TRASSE lauf")]
    assert fold(pair[0]["descriptor"]) == fold(pair[1]["descriptor"])  # type: ignore[arg-type]
    assert reason("descriptors", json.dumps({"descriptors": pair})) == "duplicate"


@pytest.mark.parametrize("text", ["true", "1.0", '"1"', "[1]", "null"])
def test_a_judge_answers_a_bare_integer(text: str) -> None:
    assert reason("judgement", text) == "wrong_type"


def test_a_judge_answers_0_or_1() -> None:
    assert reason("judgement", "2") == "out_of_range"


def test_a_ten_megabyte_answer_is_refused_unread() -> None:
    assert reason("caption", '{"caption": "' + "a" * 10_000_000 + '"}') == "too_long"


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(
    st.one_of(_json.map(json.dumps), st.text()),
    st.sampled_from(["caption", "descriptors", "interests", "judgement"]),
)
def test_anything_is_an_answer_or_an_answer_error(text: str, kind: str) -> None:
    try:
        answer = read_answer(kind, text)  # type: ignore[arg-type]
    except AnswerError as error:
        assert error.reason
    else:
        assert all(t == " ".join(t.split()) and t for t in answer.texts)
        assert all(0 <= c <= 1 and math.isfinite(c) for c in answer.confidences)


_entries = st.lists(
    st.tuples(st.text("abcdefgh ", min_size=1).filter(str.strip), st.floats(0, 1)),
    min_size=1,
    max_size=8,
    unique_by=lambda e: fold(e[0]),
)


@given(_entries)
def test_what_fits_the_schema_is_read_back_as_it_was(entries: list[tuple[str, float]]) -> None:
    text = json.dumps({"descriptors": [{"descriptor": t, "confidence": c} for t, c in entries]})
    answer = read_answer("descriptors", text)
    assert answer.texts == tuple(" ".join(t.split()) for t, _ in entries)
    assert answer.confidences == tuple(c for _, c in entries)


def test_schemas_allow_nothing_else() -> None:
    for kind in ("caption", "descriptors", "interests"):
        schema = json_schema(kind)  # type: ignore[arg-type]
        assert schema["additionalProperties"] is False and set(schema["required"]) == set(
            schema["properties"]
        )
    assert json_schema("judgement")["enum"] == [0, 1]
    assert LONGEST_ANSWER < 100_000
    assert strict_json('{"a": [1, 2.5, "x"]}') == {"a": [1, 2.5, "x"]}


PIECES = [
    '"descriptors"',
    '"confidence": 0.5,',
    '"descriptor": "x",',
    '\\u003a"',
    '\\":',
    '" :',
    "NaN",
    "true",
    "null",
]
PIECES += [" ", "\n", ",", ":", "}", "]", "0", "-", "\x07", "é", "\u212a"]


@settings(max_examples=500)
@given(
    st.sampled_from(["descriptors", "interests"]),
    st.lists(st.tuples(st.text(max_size=12), st.floats(-0.2, 1.2) | st.integers(0, 1)), max_size=4),
    st.sampled_from([(", ", ": "), (",", ":"), (" , ", " : ")]),
    st.lists(st.tuples(st.integers(0, 200), st.sampled_from(PIECES)), max_size=2),
    st.booleans(),
)
def test_the_quick_reader_says_what_the_thorough_one_says(
    kind, entries, separators, spoil, ascii_only
) -> None:
    key = kind.removesuffix("s")
    steps = dict.fromkeys(answers.REASONING, "why") if kind == "interests" else {}
    value = {**steps, kind: [{key: text, "confidence": confidence} for text, confidence in entries]}
    text = json.dumps(value, separators=separators, ensure_ascii=ascii_only)
    for at, piece in spoil:
        text = text[:at] + piece + text[at:]

    def outcome() -> object:
        try:
            return read_answer(kind, text, 3)
        except AnswerError as error:
            return error.reason, str(error)

    quick = outcome()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answers, "_well_formed", lambda kind, text, most: None)
        assert outcome() == quick


def test_a_key_twice_is_seen_however_it_is_spaced() -> None:
    for spaced in ('"descriptors":', '"descriptors" :', '"descriptors"\n:'):
        text = f'{{{spaced} [{{"descriptor": "a", "confidence": 1}}], "descriptors": [{{"descriptor": "b", "confidence": 1}}]}}'
        with pytest.raises(AnswerError, match="stands twice"):
            read_answer("descriptors", text)
