"""The enriched text: published order, no confidences, curated interests, and a budget that can be seen."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dig_ray.base import Stage
from dig_ray.config import RunConfig
from dig_ray.embedding.config import TextEmbeddingConfig
from dig_ray.embedding.enriched import item_texts
from dig_ray.embedding.stage import embed_items
from dig_ray.errors import UserError

FIELDS = ("title", "description", "caption", "interests")


@pytest.fixture
def mined(tmp_path):
    """Captions, interests and judgements of two items, as mining leaves them."""
    for name in ("captions", "interests", "judgements"):
        (tmp_path / name).mkdir()
    pq.write_table(
        pa.table({"item_id": ["b", "a"], "caption": [None, "A red tent."]}),
        tmp_path / "captions" / "captions.parquet",
    )
    interest = [
        {"text": text, "confidence": confidence, "support": 1, "miners": ["m"]}
        for text, confidence in (
            ("camping with children", 0.9),
            ("looks nice", 0.5),
            ("shade in a garden", 0.2),
        )
    ]
    pq.write_table(
        pa.table({"subject": ["item"] * 2, "subject_id": ["a", "b"], "interests": [interest, interest[:1]]}),
        tmp_path / "interests" / "merged.parquet",
    )
    labels = [("a", "camping with children", 1), ("a", "looks nice", 0), ("b", "camping with children", 1)]
    columns = dict(zip(("subject_id", "descriptor", "label"), zip(*labels, strict=True), strict=True))
    pq.write_table(
        pa.table({k: list(v) for k, v in columns.items()}), tmp_path / "judgements" / "judgements.parquet"
    )
    pq.write_table(
        pa.table({"item_id": ["a", "b"], "q": [0.64, None]}), tmp_path / "judgements" / "quality.parquet"
    )
    items = pa.table(
        {
            "item_id": ["a", "b"],
            "title": ["Tent", "Lamp"],
            "description": ["For two.", ""],
            "caption": ["stale", "stale"],
        }
    )
    return items, tmp_path / "captions", tmp_path / "interests", tmp_path / "judgements"


def test_published_order_and_no_confidences(mined):
    items, captions, interests, _ = mined
    texts, notes = item_texts(items, TextEmbeddingConfig(fields=FIELDS), captions, interests)
    assert texts == [
        "Tent\nFor two.\nA red tent.\ncamping with children\nlooks nice\nshade in a garden",
        "Lamp\ncamping with children",
    ]
    assert notes == {"interests_read": 4}


def test_curated_interests_are_those_labelled_positive(mined):
    items, captions, interests, judgements = mined
    config = TextEmbeddingConfig(fields=FIELDS, interests="positive")
    texts, notes = item_texts(items, config, captions, interests, judgements)
    assert texts == ["Tent\nFor two.\nA red tent.\ncamping with children", "Lamp\ncamping with children"]
    assert notes == {"interests_read": 2, "interests_not_positive": 1, "interests_not_judged": 1}


def test_items_of_low_or_unknown_quality_are_read_without_their_interests(mined):
    items, captions, interests, judgements = mined
    config = TextEmbeddingConfig(fields=FIELDS, min_quality=0.6)
    texts, notes = item_texts(items, config, captions, interests, judgements)
    assert texts[0].endswith("shade in a garden") and texts[1] == "Lamp"
    assert notes["items_of_low_quality"] == 1


def test_columns_nobody_has_are_named(mined):
    items = mined[0]
    with pytest.raises(UserError, match="the catalogue has none of these columns; it has item_id, title"):
        item_texts(items, TextEmbeddingConfig(fields=("colour",)))
    _, notes = item_texts(items, TextEmbeddingConfig(fields=("title", "colour")))
    assert notes == {"column_absent:colour": 1}


def test_curation_needs_interests_and_a_judge():
    with pytest.raises(ValueError, match="curates interests that embedding.fields leaves out"):
        TextEmbeddingConfig(interests="positive")
    with pytest.raises(ValueError, match="need a judge's labels; set mining.judge"):
        RunConfig.model_validate({"embedding": {"fields": ["title", "interests"], "min_quality": 0.5}})


@pytest.mark.usefixtures("ray_here")
def test_texts_longer_than_the_encoder_reads_are_counted(tmp_path):
    (tmp_path / "catalog").mkdir()
    (tmp_path / "out").mkdir()
    titles = ["short", "word " * 40, "word " * 40, "mid " * 10]
    pq.write_table(
        pa.table({"item_id": ["a", "b", "c", "d"], "title": titles}), tmp_path / "catalog" / "items.parquet"
    )
    lines: list[str] = []
    stage = Stage("embedding", "f" * 8, 0, tmp_path / "out", str(tmp_path / "work"), log=lines.append)
    config = TextEmbeddingConfig(fields=("title",), max_seq_length=16, rows_per_part=2)
    embed_items(config, stage, tmp_path / "catalog")
    assert (
        stage.stats["texts_cut"] == 2 and stage.stats["token_limit"] == 16 and stage.stats["tokens_max"] == 42
    )
    assert any("2 of 4 items have more text than the 16 tokens that minilm reads" in line for line in lines)
    again = Stage("embedding", "f" * 8, 0, tmp_path / "out", str(tmp_path / "work"), log=lines.append)
    embed_items(config, again, tmp_path / "catalog")  # every part is there
    assert again.stats["texts_cut"] == 2 and again.stats["resumed_texts"] == 3


def test_vectors_brought_along_take_the_encoders_place(tmp_path):
    (tmp_path / "catalog").mkdir()
    (tmp_path / "out").mkdir()
    pq.write_table(
        pa.table({"item_id": ["a", "b"], "title": ["x", "y"]}), tmp_path / "catalog" / "items.parquet"
    )
    pq.write_table(
        pa.table({"item_id": ["b", "a"], "vector": [[2.0, 0.0], [1.0, 0.5]]}), tmp_path / "mine.parquet"
    )
    stage = Stage("embedding", "f" * 8, 0, tmp_path / "out", str(tmp_path / "work"), log=lambda line: None)
    embed_items(TextEmbeddingConfig(path=str(tmp_path / "mine.parquet")), stage, tmp_path / "catalog")
    found = pq.read_table(stage.out / "embeddings.parquet").to_pydict()
    assert found == {"item_id": ["a", "b"], "vector": [[1.0, 0.5], [2.0, 0.0]]}


INTERESTS = [
    pa.array([[{"text": "tea", "confidence": 0.9}, {"text": "gifts", "confidence": 0.1}]]),
    pa.array([["tea", "gifts"]]),
    pa.array(['[{"text": "tea", "confidence": 0.9}, {"text": "gifts", "confidence": 0.1}]']),
    pa.array(["[{'interest': 'tea', 'confidence': 0.9}, {'interest': 'gifts'}]"]),
    pa.array(["[('tea', 0.9), ('gifts', 0.1)]"]),
    pa.array([{"interests": [{"interest": "tea"}, {"interest": "gifts"}]}]),
    pa.array([[("tea", 0.9), ("gifts", 0.1)]], pa.map_(pa.string(), pa.float64())),
]


@pytest.mark.parametrize("column", INTERESTS, ids=lambda column: str(column.type)[:40])
def test_interests_of_the_catalogue_are_texts_without_confidences(column):
    items = pa.table({"item_id": ["a"], "title": ["Pot"], "interests": column})
    assert item_texts(items, TextEmbeddingConfig(fields=("title", "interests")))[0] == ["Pot\ntea\ngifts"]


@pytest.mark.parametrize(
    "column",
    [pa.array([{"en": "a cup"}]), pa.array(["{'en': 'a cup'}"]), pa.array([[["a"]]]), pa.array([True])],
)
def test_a_field_that_is_no_text_is_refused(column):
    items = pa.table({"item_id": ["a"], "title": ["Pot"], "caption": column})
    with pytest.raises(UserError, match="column caption is .* which is no text"):
        item_texts(items, TextEmbeddingConfig(fields=("title", "caption")))
