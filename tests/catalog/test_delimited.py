"""CSV and TSV: whatever a writer may write is read back, and no damage makes a row vanish without a word."""

import bz2
import csv
import gzip
import io
import lzma
import pickle
import re
from collections import Counter

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from dig_ray.catalog.readers.tables import read_table
from dig_ray.errors import UserError

TEXT = st.text(st.sampled_from("ab,;\t\"' \n\ré=#"), max_size=6)
STYLES = [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("delimited")


def read(folder, name, data, quoting="auto"):
    """Header and rows, and the notes."""
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8"))
    notes: Counter[str] = Counter()
    table = read_table(path, notes, quoting, "catalog.items.quoting")
    return [table.column_names, *map(list, zip(*(c.to_pylist() for c in table.columns), strict=True))], notes


@st.composite
def tables(draw):
    width = draw(st.integers(2, 4))
    names = draw(st.lists(TEXT.filter(lambda t: t.strip()), min_size=width, max_size=width, unique=True))
    rows = draw(st.lists(st.lists(TEXT, min_size=width, max_size=width), min_size=1, max_size=5))
    assume(names not in rows)
    return [names, *rows]


def written(rows, delimiter, style, end):
    """As Python writes it; line ends other than its own it leaves without quotes, which it could not read back itself."""
    if style == csv.QUOTE_MINIMAL:
        for other in set("\r\n") - set(end):
            rows[:] = [[cell.replace(other, "+") for cell in row] for row in rows]
        assume(len(set(rows[0])) == len(rows[0]) and rows[0] not in rows[1:])
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter, quoting=style, lineterminator=end).writerows(rows)
    return out.getvalue()


ENDS = st.sampled_from(["\n", "\r\n", "\r"])


@settings(max_examples=150, deadline=None)
@given(tables(), st.sampled_from([",", "\t"]), st.sampled_from(STYLES), ENDS, st.booleans())
def test_what_pythons_csv_writes_is_read_back(folder, rows, delimiter, style, end, mark):
    assume(not rows[0][0].startswith("sep="))
    text = ("\ufeff" if mark else "") + written(rows, delimiter, style, end)
    name = "t.csv" if delimiter == "," else "t.tsv"
    assert read(folder, name, text, "quoted")[0] == rows
    try:
        assert read(folder, name, text)[0] == rows
    except UserError as error:  # both readings are possible, and they differ
        assert "looks like a row of its own" in str(error) and "quoting=quoted" in str(error)


@settings(max_examples=200, deadline=None)
@given(tables(), st.sampled_from([",", "\t"]), st.sampled_from(STYLES), ENDS, st.data())
def test_a_stray_quote_never_loses_a_row_without_a_word(folder, rows, delimiter, style, end, data):
    text = written(rows, delimiter, style, end)
    at = data.draw(st.integers(0, len(text)))
    damaged = text[:at] + '"' + text[at + data.draw(st.integers(0, 1)) :]
    try:
        got, _ = read(folder, "d.csv" if delimiter == "," else "d.tsv", damaged)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert len(got) >= len(rows)


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from('a," \n\r'), max_size=40))
@example('a,b\nx,"y"\nz,w\n')
def test_what_is_read_is_what_pythons_csv_reads(folder, text):
    """Any soup of characters is refused, or read as another strict reader does."""
    try:
        got, notes = read(folder, "s.csv", text, "quoted")
    except UserError:
        return
    text = re.sub(r"^(?: *[\r\n])+", "", text)
    wanted = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    if not notes.keys() & {"columns_without_name", "empty_columns_dropped"}:
        assert got == wanted
    assert len(got) == len(wanted)


def test_a_title_that_begins_with_a_quote_keeps_all_rows_of_a_tsv(folder):
    got, notes = read(folder, "t.tsv", 'id\ttitle\nA\tfirst\nB\t"Second\nC\tthird\nD\tfourth "x\nE\tfifth\n')
    assert [row[0] for row in got] == ["id", *"ABCDE"] and got[2][1] == '"Second' and got[4][1] == 'fourth "x'
    assert notes == {"quotes_read_as_text": 2}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("t.csv", 'id,title\nA,first\nB,"Second\nC,x\n', r'quote at line 3, character 3 \("Second\) is never closed'),
        ("t.csv", 'id,title\r\nA,"ä"b\r\n', "'b' at line 2, character 6 stands after a closing quote"),
        ("t.csv", 'id,title\rA,x\rB,"b" \r', "' ' at line 3, character 6 stands after a closing quote"),
        ("t.csv", 'id,title\nA,"say \\"hi\\""\n', "'h' at line 2, character 10 .*a backslash before a quote means nothing here"),
        ("t.csv", 'id,title\nA, "b, c"\n', "a space stands before the opening quote at line 2, character 4"),
        ("t.csv", 'id,title\nB,"Second\nC,x\nD,Monitor 17"\n', "line 2, character 3 goes over several lines, each of"),
        ("t.tsv", 'id\ttitle\nB\t"Second\nC\tx\nD\tMonitor 17"\n', "line 2, character 3 goes over several lines, each of"),
        ("t.csv", 'id,title\nA,"x\ny"\nB,5" z\n', "the quote at line 4, character 4 stands inside a value without quotes"),
        ("t.tsv", 'id\ttitle\nA\t"hello"\nB\t"hi" there\n', "line 3, character 7 is not around a value; .*set catalog.items.quoting=plain"),
    ],
)  # fmt: skip
def test_a_quote_that_is_wrong_is_named_by_its_place(folder, name, text, words):
    with pytest.raises(UserError, match=words):
        read(folder, name, text)
    got, _ = read(folder, name, 'id,title\nA,"a"\n'.replace(",", "\t" if name == "t.tsv" else ","), "plain")
    assert got[1] == ["A", '"a"']  # what the sentence offers


def test_quoting_can_be_set_where_both_readings_are_possible(folder):
    text = 'id,title\nB,"Second\nC,x\nD,Monitor 17"\n'
    assert len(read(folder, "t.csv", text, "plain")[0]) == 4
    assert read(folder, "t.csv", text, "quoted")[0][1:] == [["B", "Second\nC,x\nD,Monitor 17"]]


def test_a_quote_inside_a_value_without_quotes_is_text(folder):
    assert read(folder, "t.csv", 'id,title\nA,5" disk\nB,"x, y"\n')[0][1:] == [
        ["A", '5" disk'],
        ["B", "x, y"],
    ]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("\n\nid,title\nA,a\n", ["id", "title"]),
        ("  \r\n\r\nid,title\r\nA,a\r\n\r\n", ["id", "title"]),
        ('"id","the\ntitle"\nA,a\n', ["id", "the\ntitle"]),
        ('"id","a, ""title"""\nA,a\n', ["id", 'a, "title"']),
        ("id,title\rA,a\r", ["id", "title"]),
        ("\ufeffid,title\nA,a", ["id", "title"]),
        ("sep=,\r\nid,title\r\nA,a\r\n", ["id", "title"]),
        ("id,title,\nA,a,\n", ["id", "title"]),
    ],
)
def test_headers_are_read_as_they_are(folder, text, names):
    assert read(folder, "t.csv", text)[0] == [names, ["A", "a"]]


@pytest.mark.parametrize("name", ["PAR1", "BZh", "ARROW1"])
def test_a_column_may_be_called_as_a_format(folder, name):
    assert read(folder, "t.csv", f"{name},title\nA,a\n")[0][0] == [name, "title"]


def test_columns_without_a_name_get_one_if_they_hold_something(folder):
    got, notes = read(folder, "t.csv", ",id,title,\n0,A,a,\n1,B,b,\n")
    assert got[0] == ["unnamed_1", "id", "title"] and got[2] == ["1", "B", "b"]
    assert notes == {"columns_without_name": 1, "empty_columns_dropped": 1}


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("t.csv", b"id;title\nA;a\n", "'id;title', so the file seems to be delimited by semicolons"),
        ("t.csv", b"id\ttitle\nA\ta\n", "delimited by tabs; let its name end in .tsv"),
        ("t.tsv", b"id,title\nA,a\n", "delimited by commas; let its name end in .csv"),
        ("t.csv", b"sep=;\nid;title\n", "delimited by semicolons, as its first line says"),
        ("t.csv", b"id,title\nA,a\nid,title\n", "data row 2 is the header again"),
        ("t.csv", "id,title\nA,a\n\ufeffid,title\nB,b\n".encode(), "data row 2 is the header again"),
        ("t.csv", b",\n1,2\n", "the header names no column"),
        ("t.csv", b"id,a,a\n1,2,3\n", "column 'a' stands twice in the header"),
        ("t.csv", b"# made today\nid,title\nA,a\n", r"line 2 has 2 values and the header 1 \(and 1 more line\)"),
        ("t.csv", b"id,title\nA,a\nsum\n", "line 3 has 1 value and the header 2"),
        ("t.csv", "id,größe\nA,a\n".encode("latin-1"), "the header .* holds bytes that are not UTF-8"),
        ("t.csv", "id,title\nA,a\n".encode("utf-16"), "is text in UTF-16; save it as UTF-8"),
        ("t.csv", "id,title\nA,a\n".encode("utf-16-le"), "full of NUL bytes"),
        ("t.csv", b"PK\x03\x04....", "is a zip archive"),
        ("t.csv", b"\x28\xb5\x2f\xfd....", "is packed with zstd"),
        ("t.csv.gz", b"", "is empty"),
        ("t.csv", b"<!DOCTYPE html><html></html>", "is a page of the web"),
        ("t.csv", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("t.csv.gz", gzip.compress(gzip.compress(b"id,title\nA,a\n")), "is packed with gzip twice"),
        ("t.csv", bz2.compress(b"id,title"), "is packed with bzip2"),
        ("t.csv", lzma.compress(b"id,title"), "is packed with xz"),
        ("t.csv", pickle.dumps({"id": 1}), "a Python pickle, which is never opened"),
        ("t.csv", b"PAR1\x15\x04....", "is a Parquet file; let its name end in .parquet"),
    ],
)  # fmt: skip
def test_what_is_no_such_table_is_called_by_its_name(folder, name, data, words):
    with pytest.raises(UserError, match=words):
        read(folder, name, data)


def test_rows_of_wrong_length_are_told_together_and_by_line(folder):
    text = 'id,title\nA,"a\nb"\n\nB,"b",c\nC\nD,d\nE\n'
    with pytest.raises(UserError) as caught:
        read(folder, "t.csv", text)
    assert (
        "line 5 has 3 values and the header 2; line 6 has 1 value and the header 2 (and 1 more line)"
        in str(caught.value)
    )
    assert "put it in quotes" in str(caught.value)


def test_lines_that_are_no_utf8_are_counted_once_each(folder):
    _, notes = read(folder, "t.csv", b"id,title\nA,\x93x\x94\nB,b\nC,\xe9\n")
    assert notes == {"lines_not_utf8": 2}


def test_a_row_longer_than_a_block_is_read(folder):
    long = "x" * (17 << 20)
    assert read(folder, "t.csv", f'id,title\nA,a\nB,"{long}"\nC,c\n')[0][2] == ["B", long]


def test_a_cure_is_only_named_where_it_helps(folder):
    with pytest.raises(UserError) as caught:
        read(folder, "t.csv", 'id,title\nA,"a, b\n')
    assert "quoting=plain" not in str(caught.value)  # the row would have three values
    (folder / "t.csv").write_text('id,title\nA,"a\n')
    with pytest.raises(UserError, match=r"twice \(\"\"\), or write the table as Parquet or JSON lines"):
        read_table(folder / "t.csv", Counter())  # a file whose quoting no setting says
