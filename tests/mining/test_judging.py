"""Labels, RLDI and quality: from a judge at a real endpoint to a classifier that labels what the judge did not see."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from dig_ray.errors import UserError
from dig_ray.mining.config import MiningConfig
from dig_ray.mining.judging import _chance, _habit, run_judgements
from dig_ray.mining.rldi import HEADER, WEIGHTS, Rldi, assess, train
from dig_ray.mining.stage import run_items

GOODS = ("tent", "lantern", "stove", "kayak", "rope", "boots")


def mined(serve, world, in_store, n: int = 120, second: str = "daily use and great value {}"):
    """Items with one grounded interest and one empty phrase each."""
    titles = [f"{GOODS[number % len(GOODS)]} model {number}" for number in range(n)]

    def behave(evidence: str, number: int) -> str:
        good = json.loads(evidence)["title"].split()[0]
        found = [(f"sleeping outdoors with a {good}", 0.75), (second.format(good), 0.25)]
        return json.dumps({"descriptors": [{"descriptor": text, "confidence": c} for text, c in found]})

    miner = {
        "engine": "openai",
        "name": "gpt",
        "model": "m",
        "base_url": serve(behave).url,
        "api_key_env": None,
    }
    catalog = world(n, titles)
    settings = MiningConfig.model_validate({"items": [miner]})
    return catalog, miner, in_store(lambda stage: run_items(settings, stage, catalog, None)).out


def sensible(evidence: str, number: int) -> str:
    return "0" if "daily use" in json.loads(evidence)["descriptor"] else "1"


def judged(url: str, miner: dict, **more) -> MiningConfig:
    judge = {"engine": "openai", "name": "judge", "model": "other", "base_url": url, "api_key_env": None}
    return MiningConfig.model_validate({"items": [miner], "judge": judge, **more})


@pytest.mark.usefixtures("ray_here")
def test_a_sample_is_judged_and_the_rest_is_labelled(serve, world, in_store) -> None:
    catalog, miner, items = mined(serve, world, in_store)
    server = serve(sensible)
    settings = judged(server.url, miner, rldi={"share": 0.5})
    stage = in_store(lambda stage: run_judgements(settings, stage, catalog, items, None))
    assert sum(server.calls.values()) == 120  # two interests of each of 60 items
    rows = pq.read_table(stage.out / "judgements.parquet").to_pylist()
    assert len(rows) == 240
    assert {r["judge"] for r in rows} == {"judge", "rldi"}
    for row in rows:
        assert row["label"] == (0 if "daily use" in row["descriptor"] else 1)
        assert (row["probability"] is None) == (row["judge"] == "judge")
    quality = pq.read_table(stage.out / "quality.parquet").to_pylist()
    assert [r["item_id"] for r in quality] == [f"i{n}" for n in range(120)]
    assert {r["q"] for r in quality} == {0.75}
    facts = stage.stats["rldi"]
    assert facts["auc"] == 1.0 and facts["rows"] + facts["trained_on"] == 120 and facts["labelled"] == 120
    assert Rldi.load(stage.out).threshold == 0.5
    record = json.loads(next(iter(server.calls)))
    assert set(record) == {"record", "descriptor"} and "title" in record["record"]
    same = in_store(lambda stage: run_judgements(settings, stage, catalog, items, None))
    for name in ("judgements.parquet", "quality.parquet", WEIGHTS):
        assert (same.out / name).read_bytes() == (stage.out / name).read_bytes()


@pytest.mark.usefixtures("ray_here")
def test_a_judge_that_says_more_than_a_digit_fails_and_one_that_always_says_1_teaches_nothing(
    serve, world, in_store
) -> None:
    catalog, miner, items = mined(serve, world, in_store, 30)
    chatty = serve(lambda evidence, number: "true" if number % 2 else "1.0")
    with pytest.raises(UserError, match=r"miner judge: the first 20 rows all ended in wrong_type"):
        in_store(lambda stage: run_judgements(judged(chatty.url, miner), stage, catalog, items, None))
    yes = serve(lambda evidence, number: "1")
    settings = judged(yes.url, miner, rldi={"share": 0.5}, judge_prompt="judge")
    settings = settings.model_copy(update={"judge": settings.judge.model_copy(update={"model": "yes"})})
    with pytest.raises(UserError, match=r"all the same, so RLDI cannot learn .* raise mining\.rldi\.share"):
        in_store(lambda stage: run_judgements(settings, stage, catalog, items, None))
    whole = settings.model_copy(update={"rldi": settings.rldi.model_copy(update={"share": 1.0})})
    stage = in_store(lambda stage: run_judgements(whole, stage, catalog, items, None))
    assert stage.stats["rldi"] is None and stage.stats["mean_quality"] == 1.0
    (warning,) = stage.stats["warnings"]
    assert "judge judge says nearly always the same: 1 for 60 and 0 for 0 of 60 interests" in warning
    assert f"warning: {warning}" in stage.stats["lines"]
    assert not (stage.out / WEIGHTS).exists()


@pytest.mark.usefixtures("ray_here")
def test_without_an_llm_near_interests_are_positive(serve, world, in_store) -> None:
    catalog, miner, items = mined(serve, world, in_store, 12, "quarterly tax accounting")
    settings = MiningConfig.model_validate(
        {"items": [miner], "judge": {"engine": "similarity", "threshold": 0.3}}
    )
    stage = in_store(lambda stage: run_judgements(settings, stage, catalog, items, None))
    rows = pq.read_table(stage.out / "judgements.parquet").to_pylist()
    assert all(row["label"] == int("sleeping" in row["descriptor"]) for row in rows)
    assert stage.stats["judge"].startswith("no LLM") and not stage.stats["miners"]["similarity"]["llm"]
    asked = stage.stats["miners"]["similarity"]["all"]
    assert asked["ok"] == 24 and asked["calls"] == 0 and asked["cost"] == 0
    strict = settings.model_copy(update={"judge": settings.judge.model_copy(update={"threshold": 0.95})})
    none = in_store(lambda stage: run_judgements(strict, stage, catalog, items, None))
    assert none.stats["positive"] == 0


def test_what_only_judges_cannot_mine() -> None:
    for field, value in (("items", [{"engine": "similarity"}]), ("caption", {"engine": "similarity"})):
        with pytest.raises(ValueError, match="engine similarity only labels interests; set it as judge"):
            MiningConfig.model_validate({field: value})


def test_the_classifier_survives_its_file_and_refuses_a_damaged_one(tmp_path) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(400, 6)).astype(np.float32)
    labels = (rows[:, 0] * rows[:, 1] > 0).astype(int)
    line, bent = train(rows, labels, 0, 0.5, 0), train(rows, labels, 32, 0.5, 0)
    assert (
        assess(bent.probability(rows), labels, 0.5)["auc"]
        > assess(line.probability(rows), labels, 0.5)["auc"] + 0.2
    )
    bent.save(tmp_path, {"auc": 0.9})
    again = Rldi.load(tmp_path)
    assert np.array_equal(again.probability(rows), bent.probability(rows))
    tensors = load_file(tmp_path / WEIGHTS)
    save_file({**tensors, "weight0": tensors["weight0"][:3]}, tmp_path / WEIGHTS)
    with pytest.raises(UserError, match="no RLDI classifier can be read"):
        Rldi.load(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(b"not safetensors")
    with pytest.raises(UserError, match="run the judgements stage again"):
        Rldi.load(tmp_path)
    (tmp_path / HEADER).unlink()
    with pytest.raises(UserError, match="no RLDI classifier"):
        Rldi.load(tmp_path)


def test_calibration_adds_up() -> None:
    probability = np.array([0.05, 0.15, 0.95, 0.85])
    found = assess(probability, np.array([0, 0, 1, 1]), 0.5)
    assert found["auc"] == 1 and found["accuracy"] == 1 and sum(b["rows"] for b in found["calibration"]) == 4
    assert found["expected_calibration_error"] == pytest.approx(0.1)
    assert assess(probability, np.ones(4), 0.5)["auc"] is None and found["rarer"] == 2


@pytest.mark.parametrize(
    "ones, zeros, warns",
    [
        (99, 1, True),
        (1, 99, True),
        (400, 4, True),
        (0, 30, True),
        (94, 6, False),
        (50, 50, False),
        (12, 0, False),
    ],
)
def test_a_judge_that_says_nearly_always_the_same_is_named_with_its_counts(ones, zeros, warns) -> None:
    said = _habit("j", dict(enumerate([1] * ones + [0] * zeros)))
    assert bool(said) == warns and (not warns or f"1 for {ones} and 0 for {zeros} of {ones + zeros}" in said)


def test_an_auc_on_a_few_labels_of_one_kind_comes_with_their_number() -> None:
    facts = {"auc": 0.91, "rarer": 4, "positive": 0.96, "rows": 100}
    assert "AUC 0.910 rests on 4 negative labels of 100 held out" in _chance(facts)
    assert "4 positive labels" in _chance(facts | {"positive": 0.04})
    assert not _chance(facts | {"rarer": 20}) and not _chance(facts | {"auc": None}) and not _chance(None)
