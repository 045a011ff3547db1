"""The page's section on mining: figures from the manifests, and texts of models and shops that stay text."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dig_ray.artifacts.artifact_tables import merged_schema
from dig_ray.mining.interest_tables import interests_schema
from dig_ray.report.mining import gather_mining
from dig_ray.report.page import build_page

HOSTILE = '</bdi><script>alert("mined")</script>'


def sums(**more) -> dict:
    base = {"ok": 3, "failed": 0, "calls": 3, "tokens_in": 300, "tokens_out": 30, "cost": 0.25, "reasons": {}}
    return base | more


@pytest.fixture
def inputs(tmp_path) -> dict[str, Path]:
    paths = {name: tmp_path / name for name in ("catalog", "item_interests", "judgements")}
    for path in paths.values():
        path.mkdir()
    ids = ["i0", "i1", "i2"]
    titles = ["a tent", HOSTILE, None]
    pq.write_table(
        pa.table({"item_id": ids, "title": titles, "image_bytes": [b"x"] * 3}),
        paths["catalog"] / "items.parquet",
    )
    said = [
        {
            "subject": "item",
            "subject_id": i,
            "miner": "gpt",
            "reasoning": {"surface": HOSTILE, "usage_context": "rain", "motive": "dry"},
        }
        for i in ids
    ]
    pq.write_table(
        pa.Table.from_pylist(said, interests_schema()), paths["item_interests"] / "interests.parquet"
    )
    merged = [
        {
            "subject": "item",
            "subject_id": i,
            "interests": [{"text": text, "confidence": 0.5, "support": 1, "miners": ["gpt"]}] if text else [],
        }
        for i, text in zip(ids, ["camping in rain", HOSTILE, ""], strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(merged, merged_schema()), paths["item_interests"] / "merged.parquet")
    labels = pa.table(
        {
            "subject_id": ["i0"],
            "descriptor": ["camping in rain"],
            "label": [1],
            "judge": ["strict"],
            "probability": [None],
        }
    )
    pq.write_table(labels, paths["judgements"] / "judgements.parquet")
    return paths


MANIFESTS = {
    "item_interests": {
        "stats": {
            "miners": {
                "gpt": {"engine": "openai", "llm": True, "all": sums(failed=2, reasons={"not_json": 2})},
                "keyphrase": {"engine": "keyphrase", "llm": False, "all": sums()},
            },
            "prompt": {"name": "descriptors", "version": 1, "hash": "abc"},
            "agreement": {"gpt | keyphrase": 0.125},
            "cut": 7,
        }
    },
    "judgements": {
        "stats": {
            "miners": {"strict": {"engine": "openai", "llm": True, "all": sums()}},
            "judge": "a judge",
            "judged": 1,
            "rows": 2,
            "positive": 1.0,
            "mean_quality": 0.5,
            "items_with_quality": 2,
            "rldi": {
                "auc": 0.875,
                "trained_on": 80,
                "rows": 20,
                "labelled": 100,
                "expected_calibration_error": 0.05,
                "calibration": [
                    {"probability": 0.1, "positive": 0.2, "rows": 10},
                    {"probability": 0.9, "positive": 0.8, "rows": 10},
                ],
            },
        }
    },
}


def test_a_run_without_mining_has_no_section(finished: dict[str, Path], inputs: dict[str, Path]) -> None:
    assert gather_mining(inputs, {"catalog": {"stats": {}}}) is None


def test_figures_and_examples(inputs: dict[str, Path]) -> None:
    found = gather_mining(inputs, MANIFESTS)
    assert found is not None
    assert [m["engine"] for m in found["miners"]] == ["openai", "no LLM", "openai"]
    assert found["failures"] == [{"stage": "items", "miner": "gpt", "reason": "not json", "rows": 2}]
    assert found["agreement"][0]["share"] == 0.125 and found["cut"] == {"items": 7}
    assert [e["item"] for e in found["examples"]] == ["i0", "i1"]
    assert found["examples"][0]["interests"][0]["label"] == 1
    assert found["calibration"]["lines"][0]["path"]
    json.dumps(found)


def test_mined_texts_stay_text_on_the_page(finished: dict[str, Path], inputs: dict[str, Path]) -> None:
    import dataclasses

    from dig_ray.report.gather import gather

    run = gather("a run", 3, {}, finished)
    page = build_page(dataclasses.replace(run, mining=gather_mining(inputs, MANIFESTS)))
    assert 'id="mining"' in page and "AUC of 0.875" in page and "no LLM" in page
    assert '<script>alert("mined")' not in page and "&lt;script&gt;alert(&#34;mined" in page
    assert 'href="#mining"' in page and "positive by strict" in page
    assert "best epoch" in page and "probability</text>" in page
