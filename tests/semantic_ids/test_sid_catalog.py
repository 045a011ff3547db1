"""SidCatalog is one-to-one both ways, has the published suffix rule, and believes no broken file."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dig_ray.errors import UserError
from dig_ray.semantic_ids.sid_catalog import SidCatalog, collision_suffix

quick = settings(deadline=None, max_examples=60)


@st.composite
def catalogues(draw) -> SidCatalog:
    sizes = draw(st.lists(st.integers(2, 5), min_size=1, max_size=4))
    rows = draw(st.lists(st.tuples(*[st.integers(0, size - 1) for size in sizes]), min_size=1, max_size=40))
    return SidCatalog.from_codes([f"item {i}" for i in range(len(rows))], np.asarray(rows), sizes)


def small() -> SidCatalog:
    codes = np.asarray([[1, 2, 3], [0, 0, 0], [1, 2, 3], [1, 2, 0], [1, 2, 3]])
    return SidCatalog.from_codes(list("pqrst"), codes, (4, 4, 4))


def test_every_item_of_a_shared_bucket_gets_a_suffix_and_no_other_item_does():
    assert small().suffix.tolist() == [0, -1, 1, -1, 2]
    assert small().n_tokens == 12 + 3
    assert small().text_of(4) == "<a_1><b_2><c_3><d_2>"
    assert small().text_of(1) == "<a_0><b_0><c_0>"


@quick
@given(catalogues())
def test_one_to_one_both_ways(catalog):
    table = catalog.token_table
    assert len(np.unique(table, axis=0)) == len(catalog)
    assert np.array_equal(catalog.items_of(table), np.arange(len(catalog)))
    for item in range(len(catalog)):
        tokens = catalog.tokens_of(item)
        assert catalog.item_of(tokens) == item
        assert len(tokens) == catalog.lengths[item]
        assert catalog.text_of(item) == "".join(catalog.token_strings[t] for t in tokens)
    assert len(set(catalog.token_strings)) == catalog.n_tokens == len(catalog.token_strings)


@quick
@given(catalogues())
def test_no_sid_is_the_beginning_of_another(catalog):
    sids = {tuple(catalog.tokens_of(i)) for i in range(len(catalog))}
    assert not any(sid[:length] in sids for sid in sids for length in range(1, len(sid)))


@quick
@given(catalogues(), st.data())
def test_what_is_no_item_is_never_taken_for_one(catalog, data):
    known = {tuple(row) for row in catalog.token_table.tolist()}
    token = st.integers(-1, catalog.n_tokens + 2)
    row = data.draw(st.lists(token, min_size=catalog.levels + 1, max_size=catalog.levels + 1))
    found = int(catalog.items_of(np.asarray([row]))[0])
    assert (found >= 0) == (tuple(row) in known)
    if found < 0:
        with pytest.raises(KeyError):
            catalog.item_of(row)


@quick
@given(catalogues())
def test_suffix_rule(catalog):
    codes = [tuple(row) for row in catalog.codes.tolist()]
    for bucket in set(codes):
        members = [i for i, row in enumerate(codes) if row == bucket]
        wanted = [-1] if len(members) == 1 else list(range(len(members)))
        assert catalog.suffix[members].tolist() == wanted
    assert np.array_equal(collision_suffix(catalog.codes), catalog.suffix)


@settings(deadline=None, max_examples=20)
@given(catalogues())
def test_saved_and_loaded_is_the_same(tmp_path_factory, catalog):
    path = tmp_path_factory.mktemp("sids") / "semantic_ids.parquet"
    catalog.save(path)
    loaded = SidCatalog.load(path)
    assert loaded.fingerprint == catalog.fingerprint
    assert loaded.sizes == catalog.sizes
    assert np.array_equal(loaded.token_table, catalog.token_table)


def test_the_schema_is_the_published_one(tmp_path):
    small().save(tmp_path / "s.parquet")
    table = pq.read_table(tmp_path / "s.parquet")
    assert table.column_names == ["item_id", "codes", "suffix"]
    assert table.column("suffix").to_pylist() == [0, None, 1, None, 2]
    assert table.column("codes").to_pylist()[0] == [1, 2, 3]


def test_many_levels_do_not_overflow():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 4096, size=(500, 20))
    catalog = SidCatalog.from_codes([str(i) for i in range(500)], codes, [4096] * 20)
    assert np.array_equal(catalog.items_of(catalog.token_table), np.arange(500))


def test_another_numbering_has_another_fingerprint():
    other = SidCatalog.from_codes(list("pqrst"), small().codes[::-1], (4, 4, 4))
    assert other.fingerprint != small().fingerprint
    assert SidCatalog.from_codes(list("pqrst"), small().codes, (4, 4, 5)).fingerprint != small().fingerprint


def write(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


def test_brought_along_without_suffix_and_sizes(tmp_path):
    path = write(tmp_path / "f.parquet", item_id=["a", "b"], sid=[["<a_3>", "<b_0>"], ["<a_3>", "<b_0>"]])
    catalog = SidCatalog.load(path, codes_column="sid")
    assert catalog.sizes == (4, 1)
    assert catalog.suffix.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"item_id": ["a", "b"], "codes": [[1, 2], [1, 2]], "suffix": [0, 0]}, "same Semantic ID"),
        (
            {"item_id": ["a", "b"], "codes": [[1, 2], [1, 2]], "suffix": pa.array([0, None], pa.int32())},
            "'b' shares all codes",
        ),
        (
            {"item_id": ["a", "b"], "codes": [[1, 2], [1, 3]], "suffix": pa.array([0, None], pa.int32())},
            "suffix it does not need",
        ),
        ({"item_id": ["a", "a"], "codes": [[1, 2], [1, 3]]}, "'a' appears more than once"),
        ({"item_id": ["a", "b"], "codes": [[1, 2], [1, -3]]}, "outside"),
        ({"item_id": ["a", "b"], "codes": [[1, 2], [1]]}, "must be one number"),
        ({"item_id": ["a", "b"], "codes": [[1, 2], None]}, "missing codes"),
        ({"item_id": ["a", "b"], "codes": [[1.5, 2.0], [1.0, 2.0]]}, "expected whole numbers"),
        ({"item_id": ["a", "b"], "codes": ["<a_1>", "<a_2>"]}, "expected a list"),
        (
            {"item_id": ["a", "b"], "codes": [["<a_1>", "<b_2>"], ["<a_1>", "<a_2>"]]},
            "'<a_2>' as code 2 of data row 2; .* <b_12>",
        ),
        (
            {"item_id": ["a", "b"], "codes": [["<b_1>", "<a_2>"], ["<b_1>", "<a_3>"]]},
            "'<b_1>' as code 1 of data row 1; .* <a_12>",
        ),
        ({"item_id": ["a", "b"], "codes": [["tent"], ["stove"]]}, "'tent' as code 1 of data row 1"),
        (
            {"item_id": ["a", "b"], "codes": [["<a_1>"], ["<a_99999999999>"]]},
            "'<a_99999999999>' as code 1 of data row 2",
        ),
        ({"item_id": ["a", "b"], "codes": [[1], [1 << 40]]}, "number them from 0"),
        ({"item_id": ["a", "b"], "codes": [[1], [1 << 30]]}, "would need as many tokens"),
        ({"item_id": ["a", "b"], "sid": [[1], [2]]}, "no column 'codes'"),
        ({"item_id": pa.array([], pa.string()), "codes": pa.array([], pa.list_(pa.int32()))}, "no rows"),
    ],
)
def test_broken_tables_are_one_clear_sentence(tmp_path, columns, message):
    path = write(tmp_path / "broken.parquet", **columns)
    with pytest.raises(UserError, match=message) as caught:
        SidCatalog.load(path)
    assert "broken.parquet" in str(caught.value)


@pytest.mark.parametrize("spell", [lambda level, code: f"<{'abc'[level]}_{code}>", lambda level, code: code])
def test_codes_need_not_start_at_zero_or_be_dense(tmp_path, spell):
    rows = [[300, 7, 0], [256, 9, 5]]
    codes = [[spell(level, code) for level, code in enumerate(row)] for row in rows]
    catalog = SidCatalog.load(write(tmp_path / "f.parquet", item_id=[10, 2], codes=codes))
    assert catalog.codes.tolist() == rows and catalog.sizes == (301, 10, 6)
    assert catalog.item_ids.tolist() == ["10", "2"] and catalog.text_of(1) == "<a_256><b_9><c_5>"


def test_a_code_beyond_its_codebook_is_refused(tmp_path):
    path = write(tmp_path / "f.parquet", item_id=["a", "b"], codes=[[1, 2], [1, 9]])
    with pytest.raises(UserError, match=r"item 'b' has code 9 at level 1, outside 0\.\.3"):
        SidCatalog.load(path, sizes=(4, 4))


def test_truncated_and_missing_files(tmp_path):
    path = tmp_path / "semantic_ids.parquet"
    small().save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="not a readable Parquet file"):
        SidCatalog.load(path)
    with pytest.raises(UserError, match="no such file"):
        SidCatalog.load(tmp_path / "absent.parquet")


@pytest.mark.parametrize(
    "codes",
    [
        pa.array([[1, 2], [3, 0]], pa.list_(pa.uint8())),
        pa.array([[1.0, 2.0], [3.0, 0.0]]),
        pa.array(["[1, 2]", "(3, 0)"]),
        pa.array(["['1', '2']", '["3", "0"]']),
        pa.array(["<a_1><b_2>", "<a_3> <b_0>"]),
        pa.array(["['<a_1>', '<b_2>']", "['<a_3>', '<b_0>']"]),
        pa.array([["<a_1>", "<b_2>"], ["<a_3>", "<b_0>"]], pa.list_(pa.dictionary(pa.int32(), pa.string()))),
        pa.array([[1, 2], [3, 0]], pa.list_view(pa.int64())),
    ],
)
def test_codes_in_every_shape(tmp_path, codes):
    given = SidCatalog.load(write(tmp_path / "s.parquet", item_id=[7.0, 8.0], codes=codes))
    assert given.codes.tolist() == [[1, 2], [3, 0]] and given.item_ids.tolist() == ["7", "8"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"item_id": ["a", "None"], "codes": [[1], [2]]},
            r"item_id is empty \(written as None\) in data row 2",
        ),
        ({"item_id": [True, False], "codes": [[1], [2]]}, "item_id is bool, which is no id"),
        (
            {"item_id": ["a", "b"], "codes": [[1.0], [2.5]]},
            "has 2.5 as code 1 of data row 2, expected whole numbers",
        ),
        ({"item_id": ["a", "b"], "codes": [[1.0], [float("nan")]]}, "has nan as code 1 of data row 2"),
        (
            {"item_id": ["a", "b", "c"], "codes": [[1, 2], [2], [1, 3]]},
            "1 to 2 codes per item; it must be one number .data row 2 has 1",
        ),
        ({"item_id": ["a", "b"], "codes": ["[1]", "1-2"]}, "holds '1-2' in data row 2, expected a list"),
        ({"item_id": ["a", "b"], "codes": ["[1]", "[1.5]"]}, "holds '.1.5.' in data row 2, expected a list"),
        (
            {"item_id": ["a", "b"], "codes": ["[1]", "<a_1><b_2>"]},
            "numbers in some rows and tokens in others",
        ),
        ({"item_id": ["a", "b"], "codes": [{"a": 1}, {"a": 2}]}, "is struct<a: int64>, expected a list"),
        ({"item_id": ["a", "b"], "codes": [[1], [1]], "suffix": [0.0, 1.5]}, "not '1.5' in data row 2"),
        ({"item_id": ["a", "b"], "codes": [[1], None]}, "missing codes in data row 2"),
    ],
)
def test_wrong_values_are_named_with_their_row(tmp_path, columns, message):
    with pytest.raises(UserError, match=message):
        SidCatalog.load(write(tmp_path / "s.parquet", **columns))


def test_rows_without_codes_are_left_out_and_the_others_keep_their_numbers(tmp_path):
    path = write(tmp_path / "s.parquet", item_id=["a", "b", "c", "nan"], codes=["[1]", "", "nan", "[2]"])
    with pytest.raises(UserError, match="in data row 4"):
        SidCatalog.load(path, skip_uncoded=True)
    path = write(
        tmp_path / "s.parquet", item_id=["a", "b", None], codes=[[1], [2], None], suffix=[None, None, 7]
    )
    assert SidCatalog.load(path, skip_uncoded=True).item_ids.tolist() == ["a", "b"]
