"""Text that means harm, from products and from models, through the whole way: catalogue, request, answer, tables, report."""

from __future__ import annotations

import json
import os
import time

import pyarrow.parquet as pq
import pytest

from dig_ray.mining.answers import AnswerError, read_answer
from dig_ray.mining.config import MiningConfig
from dig_ray.mining.prompts import load_prompt
from dig_ray.mining.stage import run_items
from tests.mining.attacks import ATTACKS, bad_answers

pytestmark = pytest.mark.usefixtures("ray_here")

FINE = json.dumps({"descriptors": [{"descriptor": "dry camping", "confidence": 0.5}]})


def settings(url: str, **more) -> MiningConfig:
    miner = {"engine": "openai", "name": "gpt", "model": "m", "base_url": url, "max_in_flight": 16, **more}
    return MiningConfig.model_validate({"items": [{"api_key_env": None, **miner}], "max_failed": 1.0})


def test_no_product_text_changes_a_request_or_another_products_answer(
    serve, world, in_store, monkeypatch, tmp_path
) -> None:
    """The model obeys every order it is given, as the worst one would."""
    monkeypatch.setenv("CANARY_KEY", "sk-canary-77")
    system = load_prompt("descriptors").system
    plain = [f"tent number {n}" for n in range(20)]
    titles = [text.encode("utf-8", "replace").decode() for text in ATTACKS] + plain
    seen: list[str] = []

    def obey(evidence: str, number: int) -> str:
        title = json.loads(evidence)["title"]
        others, seen[len(seen) :] = list(seen), [title]
        if title in plain:
            return FINE
        if "system prompt" in title or "above this line" in title or "word for word" in title:
            return json.dumps({"descriptors": [{"descriptor": system[:380], "confidence": 1.0}]})
        if "key" in title:
            key = os.environ["CANARY_KEY"] if "CANARY_KEY" in evidence else "none was in what I read"
            return json.dumps({"descriptors": [{"descriptor": f"key: {key}", "confidence": 1.0}]})
        if "other products" in title or "previous customer" in title:
            return json.dumps(others)  # all it can know is what its own request says
        return title

    server = serve(obey)
    catalog = world(len(titles), titles)
    config = settings(server.url, api_key_env="CANARY_KEY")
    stage = in_store(lambda stage: run_items(config, stage, catalog, None))

    for body in server.bodies:
        first, second = body["messages"]
        assert first == {"role": "system", "content": system} and second["role"] == "user"
        record = json.loads(second["content"])
        assert set(record) <= {"title", "cut"} and second["content"].isascii()
        assert not set("<>&|`\x00") & set(second["content"]) and len(second["content"]) < 20_000
        assert record["title"] in plain or not any(title in second["content"] for title in plain)
        assert "canary" not in json.dumps(body)
    rows = {row["subject_id"]: row for row in pq.read_table(stage.out / "interests.parquet").to_pylist()}
    assert len(rows) == len(titles)
    for n in range(len(ATTACKS), len(titles)):  # what the others' text said has changed nothing here
        assert [d["text"] for d in rows[f"i{n}"]["descriptors"]] == ["dry camping"]
    words = " ".join(system.split())
    for row in rows.values():
        for found in row["descriptors"]:
            assert found["text"] not in words and found["text"][:100] not in words
            assert 0 <= found["confidence"] <= 1
    assert rows["i0"]["status"] == "failed" and rows["i0"]["error"].startswith("echo")
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"sk-canary" not in path.read_bytes(), path


def test_two_hundred_bad_answers_are_two_hundred_named_rows(serve, world, in_store) -> None:
    bad = bad_answers()
    assert len(set(bad)) == 200
    for text in bad:
        with pytest.raises(AnswerError):
            read_answer("descriptors", text, 8)

    def behave(evidence: str, number: int) -> str:
        n = int(json.loads(evidence)["title"].split()[-1])
        return bad[n] if n < 200 else FINE

    server = serve(behave)
    catalog = world(240)
    config = settings(server.url, hopeless_rows=0)  # twenty of them would end the run
    stage = in_store(lambda stage: run_items(config, stage, catalog, None))
    rows = {row["subject_id"]: row for row in pq.read_table(stage.out / "interests.parquet").to_pylist()}
    assert [rows[f"i{n}"]["status"] for n in range(240)] == ["failed"] * 200 + ["ok"] * 40
    assert all(not rows[f"i{n}"]["descriptors"] for n in range(200))
    assert sum(server.calls.values()) == 440  # each bad one was asked for once more
    quarantine = {r["subject_id"]: r for r in pq.read_table(stage.out / "quarantine.parquet").to_pylist()}
    assert len(quarantine) == 200 and all(row["reason"] for row in quarantine.values())
    assert quarantine["i3"]["raw"] == bad[3]


def test_tool_calls_links_and_markup_are_inert_text(serve, world, in_store) -> None:
    markup = ["<img src=x onerror=alert(1)>", "https://evil.example/a?b=c", "{{7*7}}", "=HYPERLINK(1)"]

    def behave(evidence: str, number: int):
        n = int(json.loads(evidence)["title"].split()[-1])
        if n < len(markup):
            return json.dumps({"descriptors": [{"descriptor": markup[n], "confidence": 0.5}]})
        call = {"tool_calls": [{"function": {"name": "rm", "arguments": "{}"}}], "content": None}
        return {"body": json.dumps({"choices": [{"message": call}]}).encode()}

    server = serve(behave)
    catalog = world(5)
    stage = in_store(lambda stage: run_items(settings(server.url), stage, catalog, None))
    rows = {row["subject_id"]: row for row in pq.read_table(stage.out / "interests.parquet").to_pylist()}
    assert [rows[f"i{n}"]["descriptors"][0]["text"] for n in range(4)] == markup
    assert rows["i4"]["status"] == "failed" and rows["i4"]["error"].startswith(
        "tool_call: the model calls the tool 'rm'"
    )


def test_a_slow_drip_costs_its_own_row_its_deadline(serve, world, in_store) -> None:
    def behave(evidence: str, number: int):
        return {"drip": 0.1, "text": FINE} if json.loads(evidence)["title"].endswith(" 3") else FINE

    server = serve(behave)
    catalog = world(60)
    begun = time.monotonic()
    config = settings(server.url, timeout=0.6, max_tries=2)
    stage = in_store(lambda stage: run_items(config, stage, catalog, None))
    rows = {row["subject_id"]: row for row in pq.read_table(stage.out / "interests.parquet").to_pylist()}
    assert rows.pop("i3")["error"].startswith("timeout")
    assert all(row["status"] == "ok" for row in rows.values())
    assert time.monotonic() - begun < 30
