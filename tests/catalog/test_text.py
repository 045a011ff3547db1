"""What an encoder sees, and how broken text is mended."""

from collections import Counter

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from dig_ray.catalog.text import as_strings, clean_text, cut, item_text, plain_text


def test_fields_are_joined_by_line_and_blanks_skipped():
    items = pa.table(
        {
            "title": ["Tent", " ", None],
            "brand": ["N", "", None],
            "categories": [["A", None, "B"], [], None],
            "description": ["dry", "only this", None],
        }
    )
    assert item_text(items, ["title", "brand", "categories", "description"]) == [
        "Tent\nN\nA, B\ndry",
        "only this",
        "",
    ]
    assert item_text(items, ["description", "title", "no such column"]) == ["dry\nTent", "only this", ""]
    assert item_text(items, []) == ["", "", ""]


@given(st.text(st.characters(codec=None, exclude_categories=[]), max_size=40))
def test_clean_text_is_always_encodable_and_keeps_good_text(text):
    clean = clean_text(text)
    assert "\0" not in clean
    assert clean.encode("utf-8").decode("utf-8") == clean
    assert clean_text(clean) == clean
    if text.isascii() and "\0" not in text:
        assert clean == text


def test_surrogate_pairs_become_one_character_and_lone_ones_are_replaced():
    assert clean_text("\ud83d\ude00!") == "😀!"
    assert clean_text("a\udc80b") == "a\ufffdb"


def test_bytes_that_are_no_utf8_are_replaced_and_counted():
    notes: Counter[str] = Counter()
    broken = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.array([0, 3, 7], pa.int32()).buffers()[1], pa.py_buffer(b"a\xffb\0x\0y")]
    )
    assert as_strings(broken, notes).to_pylist() == ["a\ufffdb", "xy"]
    assert notes == {"texts_not_utf8": 1, "texts_with_nul": 1}
    assert as_strings(pa.array([b"caf\xe9", None]), notes).to_pylist() == ["caf\ufffd", None]
    assert as_strings(pa.array(["a\0b", None, ""]), notes).to_pylist() == ["ab", None, ""]
    assert notes == {"texts_not_utf8": 2, "texts_with_nul": 2}


def test_long_texts_are_cut_visibly():
    notes: Counter[str] = Counter()
    column = cut(pa.array(["é" * 1_000_000, "short"]), 100, notes)
    assert column.to_pylist() == ["é" * 100, "short"] and notes == {"texts_cut": 1}


def test_html_is_taken_off():
    assert plain_text("Tom &amp; Jerry <b>big</b><br/>\n <!-- x > y -->now") == "Tom & Jerry big now"
    assert plain_text("<script>var a = '<b>';</script>5 < 6 and 7 > 3") == "5 < 6 and 7 > 3"
