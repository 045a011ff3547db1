"""RecBole atomic files."""

import pytest

from dig_ray.catalog.build import build
from dig_ray.catalog.config import CatalogConfig
from dig_ray.catalog.read import read_raw
from dig_ray.errors import UserError

INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + "".join(
    f"{user}\t{item}\t{rating}\t97830{n}.0\n"
    for n, (user, item, rating) in enumerate([("1", "007", 5), ("1", "8", 3), ("1", "9", 4), ("2", "9", 1)])
)
ITEM = (
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    '007\t"Toy Story\t1995\tAnimation Comedy\n8\tJumanji\t1995\tAdventure\n9\tHeat\t\t\n'
)


def load(folder, inter=INTER, item=ITEM, **settings):
    (folder / "ml.inter").write_text(inter)
    (folder / "ml.item").write_text(item)
    columns = settings.pop("columns", {"title": "movie_title", "categories": "class"})
    config = CatalogConfig(
        source="recbole",
        items={"path": str(folder / "ml.item"), "columns": columns},
        interactions={"path": str(folder / "ml.inter")},
        **settings,
    )
    return build(read_raw(config), config)


def test_atomic_files(tmp_path):
    dataset = load(tmp_path)
    assert dataset.item_ids.tolist() == ["007", "8", "9"]
    assert dataset.items.column("title").to_pylist() == ['"Toy Story', "Jumanji", "Heat"]
    assert dataset.items.column("categories").to_pylist() == [["Animation", "Comedy"], ["Adventure"], []]
    assert dataset.items.column("release_year").to_pylist() == ["1995", "1995", ""]
    assert dataset.ratings.tolist() == [5, 3, 4, 1] and dataset.timestamps[0] == 978_300_000


@pytest.mark.parametrize(
    ("inter", "words"),
    [
        (INTER.replace(":token", "", 1), "has no RecBole type"),
        (INTER.splitlines()[0] + "\n", "no rows"),
        (INTER + "1\t8\n", "every row needs"),
        (INTER.replace("978301", "late"), "column timestamp is of type float and holds 'late.0' in data row 2, which is no number"),
        (INTER.replace("\t4\t", "\tx\t").replace("\t1\t", "\ty\t"), r"column rating .* holds 'x' in data row 3 \(and 1 more row\)"),
        (INTER.replace("user_id:token", "user_id:token_seq"), "column user_id is a token_seq, which is no id"),
        (INTER.replace("1\t8", "nan\t8"), r"column user_id is empty \(written as nan\) in data row 2"),
        (INTER.replace("1\t8", "\t8"), "column user_id is empty in data row 2"),
        (INTER.replace("rating:float", "timestamp:token"), "column 'timestamp' stands twice"),
        (INTER.replace("user_id:token", "user_id:float").replace("2\t9", "2.5\t9"), "column user_id is a fraction in data row 4"),
        ("", "is empty"),
    ],
)  # fmt: skip
def test_wrong_files_are_one_sentence(tmp_path, inter, words):
    with pytest.raises(UserError, match=words):
        load(tmp_path, inter=inter)


def test_an_unknown_column_is_named(tmp_path):
    with pytest.raises(UserError, match="no column 'name'"):
        load(tmp_path, columns={"title": "name"})


def test_ids_of_type_float_are_those_of_tokens(tmp_path):
    inter = (
        INTER.replace("user_id:token", "user_id:float")
        .replace("\n1\t", "\n5863.0\t")
        .replace("\n2\t", "\n7\t")
    )
    assert load(tmp_path, inter).user_ids.tolist() == ["5863", "7"]


def test_vectors_in_a_column_are_checked(tmp_path):
    item = (
        ITEM.replace("class:token_seq", "class:float_seq")
        .replace("Animation Comedy", "0.5 1e-3")
        .replace("Adventure", "")
    )
    assert load(tmp_path, item=item, columns={}).items.column("class").to_pylist() == ["0.5 1e-3", "", ""]
    with pytest.raises(
        UserError, match="column class is of type float_seq and holds 'x' in data row 1, which is no number"
    ):
        load(tmp_path, item=item.replace("1e-3", "x"), columns={})


def test_rows_may_be_dropped_that_have_no_id(tmp_path):
    dataset = load(tmp_path, INTER.replace("2\t9", "\t9"), bad_ids="drop")
    assert dataset.user_ids.tolist() == ["1"] and dataset.stats["notes"]["rows_without_id_dropped"] == 1
