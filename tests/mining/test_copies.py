"""Answers that repeat what the model was shown are counted, and left out or refused where the config says so."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dig_ray.mining.answers import Answer
from dig_ray.mining.config import MiningConfig
from dig_ray.mining.copies import copies, copies_line, judge_copies, words
from dig_ray.mining.evidence import Evidence, to_json
from dig_ray.mining.stage import run_items

SYSTEM = 'List what it is for, such as "making tea at home" or keeping wine cool in summer. Not "daily use".'
RECORD = to_json(
    {
        "title": "Kettle & Mug <Set>",
        "description": "Boils water in two minutes. The handle stays cool! Grüner Tee",
        "categories": ["Kitchen"],
    }
)


@pytest.mark.parametrize(
    "text, kind",
    [
        ("making tea at home", "example"),
        ("Making tea, at home!", "example"),
        ("daily use", "example"),
        ("keeping wine  cool in summer", "example"),
        ("kettle & mug (set)", "title"),
        ("boils water in two minutes", "sentence"),
        ("The handle stays cool.", "sentence"),
        ("keeping tea warm at home", ""),
        ("what it", ""),  # two words of the instructions by chance
        ("kitchen", ""),  # a category is an interest that one may have
        ("Grüner Tee", ""),  # too short for a sentence
        ("kettle", ""),
        ("tea for two", ""),
    ],
)
def test_what_a_copy_is(text, kind) -> None:
    assert copies(Answer((text,), (0.5,)), SYSTEM, RECORD) == [kind]


def test_a_title_of_a_history_is_a_title() -> None:
    record = to_json({"history": [{"title": "Blue kettle", "interests": ["tea"]}, {"interests": ["x"]}]})
    assert copies(Answer(("blue KETTLE", "tea"), (0.5, 0.5)), SYSTEM, record) == ["title", ""]


@given(st.text(min_size=1, max_size=60), st.randoms())
def test_case_and_punctuation_never_hide_a_copied_title(title, rng) -> None:
    if not words(title) or not title.strip():
        return
    changed = "".join(rng.choice([c.upper(), c.lower()]) if c.isascii() else c for c in title)
    record = to_json({"title": title})
    assert copies(Answer((f"{changed} ...",), (0.5,)), "", record) == ["title"]


def test_a_policy_decides_what_becomes_of_them() -> None:
    mixed = Answer(("making tea at home", "slow mornings"), (0.9, 0.4))
    only = Answer(("making tea at home",), (0.9,))
    own = Answer(("slow mornings",), (0.4,))
    evidence = [Evidence("item", str(n), RECORD) for n in range(4)]
    answers = [mixed, only, own, None]
    for policy, kept, refused in (
        ("count", answers, []),
        ("drop", [Answer(("slow mornings",), (0.4,)), None, own, None], [1]),
        ("refuse", [None, None, own, None], [0, 1]),
    ):
        counts: Counter[str] = Counter()
        found, why = judge_copies("descriptors", answers, SYSTEM, evidence, policy, counts)  # type: ignore[arg-type]
        assert found == kept and sorted(why) == refused
        assert counts == {"texts": 4, "answers": 2, "example": 2}
        assert all(
            reason.startswith("copy: the answer repeats the prompt's own words") for reason in why.values()
        )
        assert "2 of 3 answers repeat" in copies_line("gpt", counts, 3, policy)  # type: ignore[arg-type]
    assert copies_line("gpt", Counter(texts=9), 9, "count") == ""


@pytest.mark.usefixtures("ray_here")
def test_answers_that_were_paid_for_are_read_by_another_policy(serve, world, in_store) -> None:
    def behave(evidence: str, number: int) -> str:
        title = json.loads(evidence)["title"]
        texts = ["daily use"] if title.endswith(" 3") else [title.upper(), "dry nights"]
        return json.dumps({"descriptors": [{"descriptor": text, "confidence": 0.5} for text in texts]})

    server = serve(behave)
    miner = {"engine": "openai", "name": "gpt", "model": "m", "base_url": server.url, "api_key_env": None}
    catalog = world(10)
    for policy, texts, failed in (("count", 19, 0), ("drop", 9, 1), ("refuse", 0, 10)):
        config = MiningConfig.model_validate({"items": [miner], "copies": policy, "max_failed": 1.0})
        stage = in_store(lambda stage, config=config: run_items(config, stage, catalog, None))
        assert sum(server.calls.values()) == 10
        told = stage.stats["miners"]["gpt"]
        assert told["copies"] == {"texts": 19, "answers": 10, "title": 9, "example": 1}
        assert stage.stats["interests"] == texts and told["all"]["reasons"] == (
            {"copy": failed} if failed else {}
        )
        assert any(
            "10 of 10 answers repeat what the model was shown" in line for line in stage.stats["lines"]
        )
