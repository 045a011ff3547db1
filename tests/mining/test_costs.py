"""What mining would cost is said before anything is asked, and what is known already costs nothing."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from dig_ray.catalog.dataset import Dataset
from dig_ray.mining import judging
from dig_ray.mining.answer_log import write_rows
from dig_ray.mining.answers import REASONING
from dig_ray.mining.config import MiningConfig
from dig_ray.mining.costs import estimate
from dig_ray.mining.engines.contract import Result
from dig_ray.mining.evidence import item_evidence
from dig_ray.mining.miner import folder_name, plan
from dig_ray.mining.prompts import load_prompt
from dig_ray.mining.stage import run_captions, run_clusters, run_items, run_users

ROOT = Path(__file__).parents[2]
MINER = {
    "engine": "openai",
    "name": "gpt",
    "model": "m",
    "base_url": "http://127.0.0.1:9/v1",
    "api_key_env": None,
    "price": {"input": 1.0, "output": 10.0},
    "sampling": {"max_tokens": 100},
}


def test_known_answers_cost_nothing_and_teach_how_long_answers_are(world, tmp_path) -> None:
    from dig_ray.catalog.dataset import Dataset

    catalog = world(40)
    config = MiningConfig.model_validate({"items": [MINER]})
    (before,) = estimate(config, catalog, None, str(tmp_path / "kept"), 0)
    assert (before.rows, before.known, before.calls) == (40, 0, 40)
    assert before.tokens_out == 2000 and before.most_out == 4000
    assert before.dollars == pytest.approx((before.tokens_in * 1 + 2000 * 10) / 1e6)
    evidence = item_evidence(Dataset.load(catalog).items, config.evidence_tokens)
    asked = plan(config.items[0], load_prompt("descriptors"), evidence, None, config.most)
    rows = [Result(key, "ok", "", "{}", 300, 20, 1).row() for key in asked.keys[:30]]
    write_rows(str(tmp_path / "kept" / "answers" / folder_name(asked)), rows)
    (after,) = estimate(config, catalog, None, str(tmp_path / "kept"), 0)
    assert (after.known, after.calls, after.tokens_out) == (30, 10, 200)
    assert after.tokens_in == pytest.approx(before.tokens_in / 4, rel=0.1)


def test_users_and_a_judge_are_estimated_with_what_is_not_known_yet(world, tmp_path) -> None:
    catalog = world(40)
    judge = MINER | {"name": "judge", "model": "other"}
    config = MiningConfig.model_validate(
        {"items": [MINER], "users": [MINER], "judge": judge, "rldi": {"share": 0.5}}
    )
    found = {one.stage: one for one in estimate(config, catalog, None, str(tmp_path / "kept"), 0)}
    assert found["judge"].calls == 20 * config.most and found["judge"].most_out == 2 * found["judge"].calls
    assert "as if every item had" in found["judge"].note and "without item interests" in found["users"].note


@pytest.mark.usefixtures("ray_here")
def test_after_mining_a_dry_run_finds_every_stage_answered(
    serve, world, in_store, pictures_of, tmp_path
) -> None:
    import pyarrow as pa
    from PIL import Image

    def behave(evidence: str, number: int) -> str:
        record = json.loads(evidence)
        if not record:
            return json.dumps({"caption": "A tent."})
        if "history" in record:
            steps = dict.fromkeys(REASONING, "why not")
            return json.dumps({**steps, "interests": [{"interest": "camping", "confidence": 1}]})
        if "descriptor" in record:
            return "1"
        return json.dumps({"descriptors": [{"descriptor": "camping", "confidence": 0.5}]})

    pictures = []
    for n in range(12):
        out = io.BytesIO()
        Image.new("RGB", (8, 8), (20 * n, 0, 0)).save(out, "PNG")
        pictures.append(out.getvalue())
    server = serve(behave)
    miner = MINER | {"base_url": server.url}
    config = MiningConfig.model_validate(
        {
            "caption": miner,
            "items": [miner],
            "users": [miner],
            "judge": miner | {"name": "judge", "model": "other"},
            "most": 5,
        }
    )
    catalog = world(12, image_bytes=pa.array(pictures, pa.binary()))
    (before, *_) = estimate(config, catalog, None, str(tmp_path / "kept"), 0)
    assert (before.calls, before.note) == (12, "pictures not opened yet")
    kept = pictures_of(catalog)
    captions = in_store(lambda stage: run_captions(config, stage, catalog, kept)).out
    items = in_store(lambda stage: run_items(config, stage, catalog, captions)).out
    in_store(lambda stage: run_users(config, stage, catalog, items))
    in_store(lambda stage: judging.run_judgements(config, stage, catalog, items, captions))
    found = estimate(config, catalog, items, str(tmp_path / "kept"), 0, captions, kept)
    stages = ["captions", "items", "users", "judge"]
    assert [(one.stage, one.calls) for one in found] == [(name, 0) for name in stages]
    assert all(one.rows == one.known > 0 for one in found)


def test_the_job_prints_a_table_and_asks_nothing(tmp_path) -> None:
    command = [sys.executable, str(ROOT / "jobs" / "mine.py"), "demo", "--dry-run", f"store={tmp_path}"]
    command += [
        "mining.items=[" + str(MINER).replace("None", "null").replace("'", "") + "]",
        "catalog.demo.n_items=60",
    ]
    command += ["catalog.demo.n_users=100", "catalog.demo.n_intents=8"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    row = next(line.split() for line in lines if line.startswith("items"))
    assert row[1:5] == ["gpt", "60", "0", "60"]
    assert any(line.startswith("all") and line.split()[-1] != "0.00" for line in lines)
    assert not (tmp_path / "item_interests").exists()


def test_clusters_of_users_and_crowd_are_counted_as_they_will_be_asked(tmp_path) -> None:
    command = [sys.executable, str(ROOT / "jobs" / "mine.py"), "demo_ldmi", "--dry-run", f"store={tmp_path}"]
    command += ["mining.items=[]", "mining.clusters=" + str(MINER).replace("None", "null").replace("'", "")]
    command += ["catalog.demo={n_items: 60, n_users: 100, n_intents: 8}", "multi_interest.crowd.budget=9"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines() if "_clusters" in line}
    assert rows["user_clusters"][1:5] == ["gpt", "100", "0", "100"]
    assert rows["crowd_clusters"][1:5] == ["gpt", "9", "0", "9"]
    assert float(rows["user_clusters"][-1]) > float(rows["crowd_clusters"][-1]) >= 0
    assert not (tmp_path / "user_clusters").exists()


@pytest.mark.usefixtures("ray_here")
def test_clusters_that_were_paid_for_are_known(serve, world, in_store, tmp_path) -> None:
    server = serve(lambda evidence, number: json.dumps({"clusters": [{"name": "all", "items": [1, 2, 3]}]}))
    config = MiningConfig.model_validate({"items": [], "clusters": MINER | {"base_url": server.url}})
    catalog = world(12)
    items = Dataset.load(catalog).items
    subjects = {f"u{n}": [f"i{n}", f"i{n + 1}", f"i{n + 2}"] for n in range(4)}
    in_store(lambda stage: run_clusters(config, stage, "user", subjects, items, None))
    (found,) = estimate(config, catalog, None, str(tmp_path / "kept"), 0, clustered={"user": subjects})
    assert (found.stage, found.calls, found.known) == ("user_clusters", 0, 4)
