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
        (INTER.replace("978301", "late"), "column timestamp"),
        ("", "is empty"),
    ],
)
def test_wrong_files_are_one_sentence(tmp_path, inter, words):
    with pytest.raises(UserError, match=words):
        load(tmp_path, inter=inter)


def test_an_unknown_column_is_named(tmp_path):
    with pytest.raises(UserError, match="no column 'name'"):
        load(tmp_path, columns={"title": "name"})
