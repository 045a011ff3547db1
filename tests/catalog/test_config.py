"""Impossible combinations are refused in one sentence before anything is read."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from dig_ray.catalog.config import CatalogConfig, input_files

FILES = {"interactions": {"path": "x.parquet"}}


def test_default_is_the_demo_world():
    config = CatalogConfig()
    assert config.source == "demo" and config.demo.n_items == 500 and config.demo.n_users == 2000
    assert input_files(config) == {}


def test_text_fields_take_one_column_or_several():
    config = CatalogConfig(
        source="table",
        items={"path": "i.csv", "columns": {"title": "name", "description": ["a", "b"], "brand": []}},
        **FILES,
    )
    assert config.items is not None
    columns = config.items.columns
    assert columns.title == ("name",) and columns.description == ("a", "b") and columns.brand == ()
    assert input_files(config) == {"items": "i.csv", "interactions": "x.parquet"}


def test_the_config_file_gives_lists():
    text = """{"source": "table", "interactions": {"path": "x"}, "split": "global_time", "ratios": [0.7, 0.2, 0.1],
        "items": {"path": "i", "columns": {"title": "t", "description": ["a", "b"]}}}"""
    config = CatalogConfig.model_validate_json(text, strict=True)
    assert config.items is not None and config.items.columns.description == ("a", "b")
    assert config.ratios == (0.7, 0.2, 0.1)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"source": "table"}, "needs interactions.path"),
        ({"source": "demo", **FILES}, "generated and reads no file"),
        ({"source": "table", "demo": {"n_items": 600}, **FILES}, "demo settings have no effect"),
        ({"source": "table", "download": {"name": "Beauty"}}, "not source table"),
        ({"source": "amazon14", "download": {"name": "Beauty"}, **FILES}, "keep one of them"),
        (
            {"source": "amazon14", "interactions": {"path": "x", "columns": {"user_id": "u"}}},
            "knows its own columns",
        ),
        ({"source": "amazon14", "download": {"name": "../x"}}, "pattern"),
        ({"source": "amazon14", "download": {"name": "Beauty", "sha256": {"a": "12"}}}, "64 hex digits"),
        ({"split": "global_time", "ratios": (0.8, 0.1, 0.2)}, "sum to 1"),
        ({"ratios": (0.7, 0.2, 0.1)}, "belong to split global_time"),
        ({"min_user_events": 2}, "needs 3 events"),
        ({"split": "given"}, "needs a split column"),
        ({"source": "table", "split": "given", "k_core": 5, **FILES}, "kept as it is"),
        ({"source": "table", "split": "given", "repeats": "drop_repeats", **FILES}, "kept as it is"),
        ({"source": "table", "split": "global_time", "order": "file", **FILES}, "needs timestamps"),
        ({"source": "recbole", "items": {"path": "i"}}, "needs interactions.path"),
        ({"source": "table", "items": {"path": "i"}, "k_core": 5}, "k_core is about interactions"),
        ({"source": "table", "items": {"path": "i"}, "split": "given"}, "split is about interactions"),
        ({"demo": {"n_items": 60}}, "at least 5 items per intent"),
        ({"sauce": "demo"}, "Extra inputs"),
    ],
)
def test_impossible_combinations(settings, words):
    with pytest.raises(ValidationError) as caught:
        CatalogConfig(**settings)
    assert words in str(caught.value)


def test_config_is_light():
    heavy = "[m for m in ('pyarrow', 'pandas', 'torch', 'ray') if m in sys.modules]"
    code = f"import sys, dig_ray.catalog.config; print({heavy})"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("source", ["amazon18", "recbole"])
def test_quoting_is_about_tables(source):
    with pytest.raises(ValidationError, match=f"source {source} knows its own; drop quoting"):
        CatalogConfig(source=source, interactions={"path": "x", "quoting": "plain"})
