"""The three Amazon releases, each in its own words."""

import gzip
import json
from pathlib import Path

import pytest

from dig_ray.catalog.build import build
from dig_ray.catalog.config import CatalogConfig
from dig_ray.catalog.read import read_raw
from dig_ray.catalog.readers.amazon import parse_literal
from dig_ray.errors import UserError

DAY = 86_400


def reviews_2014(users=("A1", "A2"), items=("B1", "B2", "B3")):
    return [
        {
            "reviewerID": u,
            "asin": i,
            "overall": 5.0,
            "reviewText": "ok",
            "unixReviewTime": 1_400_000_000 + n * DAY,
        }
        for u in users
        for n, i in enumerate(items)
    ]


META_2014 = [
    "{'asin': 'B1', 'title': 'L\\'Oreal &amp; Co <b>Balm</b>', 'price': 12.99, 'imUrl': 'http://x/1.jpg', "
    "'brand': 'LO', 'description': 'Line\\none', 'salesRank': {'Beauty': 5}, "
    "'categories': [['Beauty', 'Lips'], ['Gifts']], 'related': {'also_bought': ['B2'], 'also_viewed': ['B3', 'B9']}}",
    "{'asin': 'B2', 'title': u'Caf\\xe9'}",
    json.dumps({"asin": "B3", "categories": [["Beauty"]]}),
    "{'asin': 'B9', 'title': 'never reviewed'}",
]


class Raw:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, lines: list, packed: bool = True) -> str:
        text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
        path = self.folder / name
        path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
        return str(path)

    def load(self, source: str, reviews: list, meta: list, **settings):
        config = CatalogConfig(
            source=source,
            interactions={"path": self.write("reviews.json.gz", reviews)},
            items={"path": self.write("meta.json.gz", meta)},
            **settings,
        )
        return build(read_raw(config, log=lambda line: None), config)


@pytest.fixture
def raw(tmp_path):
    return Raw(tmp_path)


def test_2014(raw):
    dataset = raw.load("amazon14", reviews_2014(), META_2014)
    first, second, third, unused = dataset.items.to_pylist()
    assert first == {
        "item_id": "B1",
        "title": "L'Oreal & Co Balm",
        "description": "Line one",
        "brand": "LO",
        "categories": ["Beauty > Lips", "Gifts"],
        "price": 12.99,
        "image": "http://x/1.jpg",
        "main_category": "Beauty",
        "features": [],
        "also_buy": ["B2"],
        "also_view": ["B3", "B9"],
    }
    assert second["title"] == "Café" and third["categories"] == ["Beauty"] and unused["item_id"] == "B9"
    assert dataset.user_ids.tolist() == ["A1", "A2"] and dataset.n_events == 6
    assert dataset.timestamps[1] - dataset.timestamps[0] == DAY * 1000
    assert dataset.ratings.tolist() == [5.0] * 6


def test_2014_k_core_leaves_unreviewed_items_unparsed(raw):
    broken = [*META_2014, "{'asin': 'B8', 'title': oops"]
    dataset = raw.load("amazon14", reviews_2014(), broken, k_core=2)
    assert dataset.item_ids.tolist() == ["B1", "B2", "B3"]
    with pytest.raises(UserError, match="line 5 is no record"):
        raw.load("amazon14", reviews_2014(), broken)


def test_2018(raw):
    reviews = [
        {
            "overall": 4.0,
            "verified": True,
            "reviewerID": "A1",
            "asin": i,
            "unixReviewTime": t,
            "style": {"Size:": " L"},
        }
        for t, i in enumerate(("B1", "B2", "B3"), 1_500_000_000)
    ]
    meta = [
        {
            "asin": "B1",
            "title": "Oboe reed",
            "category": ["Musical Instruments", "Reeds &amp; More"],
            "description": ["<p>Cane</p>", "", "soft"],
            "feature": ["hand made"],
            "also_buy": ["B2"],
            "also_view": [],
            "brand": "Reedy",
            "price": "$1,012.50",
            "main_cat": "Musical &amp; Co",
            "imageURL": ["s.jpg"],
            "imageURLHighRes": ["l.jpg"],
        },
        {
            "asin": "B2",
            "title": "var aPageStart = (new Date()).getTime();",
            "category": [],
            "imageURL": ["only.jpg"],
        },
        {"asin": "B3", "title": "x", "description": "a text", "price": "$1.00 - $2.00"},
    ]
    dataset = raw.load("amazon18", reviews, meta)
    first, second, third = dataset.items.to_pylist()
    assert (
        first["categories"] == ["Musical Instruments > Reeds & More"]
        and first["main_category"] == "Musical & Co"
    )
    assert (
        first["description"] == "Cane soft"
        and first["features"] == ["hand made"]
        and first["also_buy"] == ["B2"]
    )
    assert first["price"] == 1012.5 and first["image"] == "l.jpg" and first["brand"] == "Reedy"
    assert second["title"] == "" and second["image"] == "only.jpg"
    assert third["description"] == "a text" and third["price"] is None
    assert dataset.stats["notes"] == {"prices_unreadable": 1, "titles_of_page_code_blanked": 1}


def test_2023(raw):
    reviews = [
        {
            "rating": 5.0,
            "title": "t",
            "text": "x",
            "asin": f"V{i}",
            "parent_asin": i,
            "user_id": "AE1",
            "timestamp": t,
        }
        for t, i in ((1_600_000_000_500, "P2"), (1_600_000_000_400, "P1"), (1_700_000_000_000, "P3"))
    ]
    meta = [
        {
            "main_category": "All Beauty",
            "title": "Comb",
            "features": ["wood"],
            "description": ["Fine.", "Teeth."],
            "price": 9.5,
            "images": [
                {"thumb": "t0.jpg", "large": "l0.jpg", "hi_res": None, "variant": "MAIN"},
                {"thumb": "t1.jpg", "large": "l1.jpg", "hi_res": "h1.jpg"},
            ],
            "store": "Shop",
            "categories": ["Beauty", "Hair"],
            "details": {"Brand": "Combco", "UPC": "1"},
            "parent_asin": "P1",
            "bought_together": None,
        },
        {
            "main_category": "All Beauty",
            "title": "Soap",
            "price": "None",
            "images": {"hi_res": ["h.jpg", None], "large": ["l.jpg", "m.jpg"]},
            "store": "Soapy",
            "categories": [],
            "details": "{}",
            "parent_asin": "P2",
        },
        {"parent_asin": "P3", "title": None, "images": [], "details": "not json"},
    ]
    dataset = raw.load("amazon23", reviews, meta)
    first, second, third = dataset.items.to_pylist()
    assert (first["brand"], first["image"], first["price"]) == ("Combco", "l0.jpg", 9.5)
    assert first["categories"] == ["Beauty > Hair"] and first["description"] == "Fine. Teeth."
    assert (second["brand"], second["image"], second["categories"]) == ("Soapy", "h.jpg", ["All Beauty"])
    assert third["title"] == "" and third["image"] is None
    assert dataset.item_ids[dataset.events].tolist() == ["P1", "P2", "P3"]  # milliseconds decide
    assert dataset.timestamps[0] == 1_600_000_000_400


@pytest.mark.parametrize(
    ("source", "reviews", "meta", "words"),
    [
        ("amazon23", reviews_2014(), META_2014, "set catalog.source to the right release"),
        ("amazon14", ["not a record"], META_2014, "reviews.json.gz: line 1 is no record"),
        ("amazon14", ["[1]"], META_2014, "no record but a list"),
        ("amazon14", [{"reviewerID": "A", "asin": "B", "unixReviewTime": "soon"}], META_2014, "no number"),
        (
            "amazon14",
            [{"reviewerID": ["A"], "asin": "B", "unixReviewTime": 1}],
            META_2014,
            "field reviewerID is a list in line 1, which is no id",
        ),
        ("amazon14", [], META_2014, "has no reviews"),
        ("amazon14", reviews_2014(), [], "has no items"),
        ("amazon14", reviews_2014(), META_2014[:2], "item 'B3' is not in"),
    ],
)
def test_wrong_files_are_one_sentence(raw, source, reviews, meta, words):
    with pytest.raises(UserError, match=words):
        raw.load(source, reviews, meta)


def review(**changed):
    return {"reviewerID": "A1", "asin": "B1", "overall": 5.0, "unixReviewTime": 1_400_000_000} | changed


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"unixReviewTime": float("nan")}, "field unixReviewTime is empty in line 2"),
        ({"unixReviewTime": None}, "field unixReviewTime is empty in line 2"),
        ({"unixReviewTime": float("inf")}, "field unixReviewTime is infinite in line 2"),
        ({"unixReviewTime": 10**19}, "field unixReviewTime holds 10000000000000000000 in line 2, which is more than 64 bits"),
        ({"unixReviewTime": "soon"}, "field unixReviewTime holds 'soon' in line 2, which is no number"),
        ({"unixReviewTime": True}, "field unixReviewTime holds True in line 2, which is no number"),
        ({"unixReviewTime": [1]}, "field unixReviewTime holds .* in line 2, which is no number"),
        ({"overall": "five"}, "field overall holds 'five' in line 2, which is no number"),
        ({"overall": float("inf")}, "field overall is infinite in line 2"),
        ({"reviewerID": float("nan")}, "field reviewerID is empty in line 2; .*catalog.bad_ids=drop"),
        ({"reviewerID": "nan"}, r"field reviewerID is empty \(written as nan\) in line 2"),
        ({"reviewerID": "Zo\ufffd"}, "field reviewerID holds bytes that are not UTF-8 in line 2"),
        ({"asin": 5863.5}, "field asin is a fraction in line 2, which is no id"),
        ({"asin": {"a": 1}}, "field asin is an object in line 2, which is no id"),
        ({"asin": True}, "field asin is True in line 2, which is no id"),
    ],
)  # fmt: skip
def test_values_of_reviews_are_checked_as_those_of_tables(raw, changed, words):
    with pytest.raises(UserError, match=r"reviews.json.gz: " + words):
        raw.load("amazon14", [review(), review(**changed)], META_2014)


def test_the_unit_of_times_is_the_release_s_or_the_config_s(raw):
    reviews = [review(asin=f"B{n}", unixReviewTime=1_600_000_000_000 + n) for n in (1, 2, 3)]
    with pytest.raises(UserError, match="column timestamp holds 1600000000001 .*time_unit=ms"):
        raw.load("amazon14", reviews, META_2014)
    config = CatalogConfig(
        source="amazon14",
        interactions={"path": raw.write("r.json", reviews, packed=False), "time_unit": "ms"},
    )
    assert build(read_raw(config), config).timestamps[0] == 1_600_000_000_001


def test_lines_may_be_dropped_that_have_no_id(raw):
    reviews = [*reviews_2014(), review(reviewerID=None), review(asin="Zo\ufffd"), review(asin="nan")]
    dataset = raw.load("amazon14", reviews, [*META_2014, '{"asin": NaN}'], bad_ids="drop")
    assert dataset.n_events == 6 and dataset.stats["notes"]["rows_without_id_dropped"] == 4


def test_all_faults_of_a_file_are_told_together(raw):
    lines = [
        review(),
        review(unixReviewTime=None),
        "oops",
        review(reviewerID=""),
        review(unixReviewTime=None),
    ]
    with pytest.raises(UserError) as caught:
        raw.load("amazon14", lines, META_2014)
    message = str(caught.value)
    assert "field unixReviewTime is empty in line 2 (and 1 more line)" in message
    assert "line 3 is no record" in message and "field reviewerID is empty in line 4" in message


def test_a_missing_rating_is_missing_and_numbers_may_be_text(raw):
    given = (("B1", None, "1400000000"), ("B2", "4.0", 1.5e9), ("B3", 2, 1_600_000_000))
    reviews = [review(asin=asin, overall=rating, unixReviewTime=time) for asin, rating, time in given]
    dataset = raw.load("amazon14", reviews, META_2014)
    assert str(dataset.ratings.tolist()) == "[nan, 4.0, 2.0]"
    assert dataset.timestamps.tolist() == [1_400_000_000_000, 1_500_000_000_000, 1_600_000_000_000]


@pytest.mark.parametrize("k_core", [0, 1])
def test_numeric_asins_find_their_metadata(raw, k_core):
    reviews = [review(asin=a, unixReviewTime=1_400_000_000 + n) for n, a in enumerate((1, 5863.0, "X3"))]
    meta = [
        '{"asin": 1.0, "title": "a"}',
        '{"title": "b", "asin": 5863}',
        "{'asin': u'X3', 'title': 'c'}",
        '{"asin": 7}',
    ]
    dataset = raw.load("amazon14", reviews, meta, k_core=k_core)
    titles = dict(zip(dataset.item_ids.tolist(), dataset.items.column("title").to_pylist(), strict=True))
    assert [titles[i] for i in ("1", "5863", "X3")] == ["a", "b", "c"]
    assert dataset.stats["notes"].get("metadata_of_other_items_skipped", 0) == k_core


def test_escaped_asins_find_their_metadata(raw):
    reviews = [review(asin=a, unixReviewTime=1_400_000_000 + n) for n, a in enumerate(("é1", "é2", "é3"))]
    meta = ['{"asin": "\\u00e91", "title": "a"}', '{"asin": "é2"}', "{'asin': '\\xe93'}"]
    assert raw.load("amazon14", reviews, meta, k_core=1).items.column("title").to_pylist()[0] == "a"


@pytest.mark.parametrize(
    ("source", "changed", "words"),
    [
        ("amazon14", {"title": {"en": "x"}}, "field title is an object in line 1, which is no text"),
        ("amazon14", {"categories": [["a", {"b": 1}]]}, "field categories is an object in line 1"),
        ("amazon14", {"related": [1]}, "field related is a list in line 1"),
        ("amazon14", {"brand": True}, "field brand is True in line 1"),
        ("amazon18", {"feature": [{"a": 1}]}, "field feature is an object in line 1"),
        ("amazon18", {"asin": None}, "field asin is empty in line 1"),
        ("amazon18", {"asin": "a\0"}, "field asin holds a NUL character in line 1"),
    ],
)
def test_metadata_of_a_wrong_shape_names_line_and_field(raw, source, changed, words):
    with pytest.raises(UserError, match=r"meta.json.gz: " + words):
        raw.load(source, [review()], [{"asin": "B1", "title": "x"} | changed])


def test_missing_values_of_metadata_are_no_texts(raw):
    nan = float("nan")
    odd = dict.fromkeys(("title", "categories", "price", "imUrl", "related"), nan)
    odd |= {"asin": "B1", "brand": None, "description": [nan, "x", None]}
    others = [{"asin": "B2", "title": 1984, "price": 1e-5}, {"asin": "B3", "price": [1, 2]}]
    dataset = raw.load("amazon14", reviews_2014(), [odd, *others])
    first, second, third = dataset.items.to_pylist()
    assert (first["title"], first["brand"], first["description"], first["categories"]) == ("", "", "x", [])
    assert first["price"] is None and first["image"] is None and second["title"] == "1984"
    assert second["price"] == 1e-5 and third["price"] is None
    assert dataset.stats["notes"] == {"prices_unreadable": 1}


def test_metadata_of_another_category_is_called_that(raw):
    with pytest.raises(UserError, match="none of its 1 items is one that the reviews name"):
        raw.load("amazon14", [review()], [{"asin": "Z"}], k_core=1)


@pytest.mark.parametrize("line", ['{"asin": "B1", "asin": "B2"}', "{'asin': 'B1', 'asin': 'B2'}"])
def test_a_key_that_stands_twice_is_refused(raw, line):
    with pytest.raises(UserError, match=r"line 1 is no record \(.* stands twice\)"):
        raw.load("amazon14", [review()], [line])


def test_a_truncated_download_is_named(raw, tmp_path):
    path = Path(raw.write("reviews.json.gz", reviews_2014() * 200))
    path.write_bytes(path.read_bytes()[:-20])
    config = CatalogConfig(source="amazon14", interactions={"path": str(path)})
    with pytest.raises(UserError, match="reviews.json.gz: truncated"):
        read_raw(config)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch owned')",
        "{'asin': open('/etc/passwd').read()}",
        "{'asin': 'B1' + 'B2'}",
        "[x for x in (1,)]",
        "(" * 10_000,
        "{'a': f'{1}'}",
        "lambda: 1",
    ],
)
def test_literals_are_never_run(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError):
        parse_literal(text)
    assert not list(tmp_path.iterdir())
