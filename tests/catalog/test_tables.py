"""Plain tables: formats, and every way a file can be broken."""

import gzip
import json
import os
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dig_ray.catalog.readers.json_lines import read_json_lines
from dig_ray.catalog.readers.tables import read_table
from dig_ray.errors import UserError

ROWS = [{"item_id": "007", "title": 'A "big", red\nbox'}, {"item_id": "8", "title": "naïve"}]
CSV = 'item_id,title\n007,"A ""big"", red\nbox"\n8,naïve\n'


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_every_format_gives_the_same_rows(tmp_path, kind, packed):
    if kind == "parquet":
        if packed:
            pytest.skip("Parquet packs itself")
        path = tmp_path / "t.parquet"
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    else:
        text = CSV if kind == "csv" else CSV.replace(",", "\t").replace('"big"\t ', '"big", ')
        text = text.replace('""\t', '"",') if kind == "tsv" else text
        data = ("\n".join(json.dumps(row) for row in ROWS) if kind == "jsonl" else text).encode()
        path = tmp_path / f"t.{kind}{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(data) if packed else data)
    notes: Counter[str] = Counter()
    assert read_table(path, notes).to_pylist() == ROWS
    assert not notes


def test_a_gzipped_file_is_known_by_its_bytes(tmp_path):
    (tmp_path / "t.csv").write_bytes(gzip.compress(CSV.encode()))
    assert read_table(tmp_path / "t.csv", Counter()).num_rows == 2


def test_bytes_that_are_no_utf8_are_replaced_and_counted(tmp_path):
    notes: Counter[str] = Counter()
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbfitem_id,title\n1,caf\xe9\n2,ok\n")
    assert read_table(tmp_path / "t.csv", notes).column("title").to_pylist() == ["caf\ufffd", "ok"]
    (tmp_path / "t.jsonl").write_bytes(
        b'{"item_id": "1", "title": "caf\xe9"}\n\n{"item_id": "2", "title": "x\\ud800y"}\n'
    )
    assert read_table(tmp_path / "t.jsonl", notes).column("title").to_pylist() == ["caf\ufffd", "x\ufffdy"]
    assert notes == {"lines_not_utf8": 2, "texts_not_utf8": 1}


def _parquet_cut(path):
    pq.write_table(pa.table({"a": list(range(5000))}), path)
    path.write_bytes(path.read_bytes()[:-500])


def _parquet_flipped(path):
    pq.write_table(pa.table({"a": ["text"] * 5000}), path, compression="gzip", use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[20:40] = b"\xff" * 20
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing.csv", None, "does not exist"),
        ("table.xlsx", b"x", "unknown format"),
        ("table.parquet.gz", b"x", "unknown format"),
        ("empty.csv", b"", "is empty"),
        ("header.csv", b"item_id,title\n", "no rows"),
        ("empty.jsonl", b"\n\n", "no rows"),
        ("ragged.csv", b"a,b\n1,2\n3\n", "every row needs"),
        ("twice.csv", b"a,a\n1,2\n", "stands twice"),
        ("bad.jsonl", b'{"a": 1}\n{"a": \n', "line 2 is not valid JSON"),
        ("list.jsonl", b"[1, 2]\n", "line 1 holds a list"),
        ("deep.jsonl", b"[" * 100_000, "line 1 is not valid JSON"),
        ("cut.csv.gz", gzip.compress(CSV.encode() * 1000)[:-60], "truncated"),
        ("flipped.jsonl.gz", b"\x1f\x8b\x08\x00" + b"\x55" * 200, "damaged"),
        ("cut.parquet", _parquet_cut, "not a readable Parquet"),
        ("flipped.parquet", _parquet_flipped, "not a readable Parquet"),
        ("none.parquet", b"", "not a readable Parquet"),
    ],
)
def test_a_broken_file_is_one_sentence(tmp_path, name, content, words):
    path = tmp_path / name
    if callable(content):
        content(path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_table(path, Counter())
    message = str(caught.value)
    assert words in message and name in message and "\n" not in message


def test_a_folder_is_no_table(tmp_path):
    (tmp_path / "t.csv").mkdir()
    with pytest.raises(UserError, match="is no file"):
        read_table(tmp_path / "t.csv", Counter())


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_give_a_table_or_one_sentence(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp()
    for name in ("any.csv", "any.tsv", "any.jsonl", "any.parquet", "any.csv.gz"):
        (folder / name).write_bytes(data)
        try:
            read_table(folder / name, Counter())
        except UserError as error:
            assert "\n" not in str(error).strip()


def test_lines_are_read_one_by_one(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"a": 1}\n' * 3 + "oops\n")
    lines = read_json_lines(tmp_path / "t.jsonl", Counter())
    assert [next(lines) for _ in range(3)] == [{"a": 1}] * 3
    with pytest.raises(UserError, match="line 4"):
        next(lines)


@pytest.mark.parametrize("name", ["x" * 5000 + ".csv", "a\0b.csv"])
def test_a_path_that_cannot_be_is_one_sentence(name):
    with pytest.raises(UserError, match="cannot be looked at|does not exist"):
        read_table(name, Counter())


def test_a_pipe_is_no_table_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "t.csv")
    with pytest.raises(UserError, match="is no file but a pipe or device"):
        read_table(tmp_path / "t.csv", Counter())


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"a": 1}\n' * 3)
    lines = read_json_lines(path, Counter())
    next(lines)
    with path.open("a") as file:
        file.write('{"a": 2}\n')
    with pytest.raises(UserError, match="changed while it was read"):
        list(lines)


def test_names_that_are_easily_overlooked_are_counted(tmp_path):
    notes: Counter[str] = Counter()
    (tmp_path / "t.jsonl").write_text('{"item_id": "A", "Title": "a"}\n{"item_id": "B", "title": "b"}\n')
    assert read_table(tmp_path / "t.jsonl", notes).column_names == ["item_id", "Title", "title"]
    (tmp_path / "t.csv").write_text("item_id, title\nA, a\n")
    assert read_table(tmp_path / "t.csv", notes).column_names == ["item_id", " title"]
    assert notes == {
        "columns_whose_names_differ_in_case_or_space_only": 2,
        "columns_with_space_around_their_name": 1,
    }
