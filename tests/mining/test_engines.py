"""What is known of every engine: which of its settings decide an answer, and what the rest of mining asks of it."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import pytest

from dig_ray.artifacts.code_version import modules_behind
from dig_ray.base import is_free
from dig_ray.config import RunConfig
from dig_ray.mining.answer_log import AnswerKeys
from dig_ray.mining.config import (
    KeyphraseConfig,
    MinerConfig,
    MiningConfig,
    OpenAIConfig,
    ReplayConfig,
    SimilarityConfig,
    VllmConfig,
)
from dig_ray.mining.engines.vllm import MEMORY_AND_SPEED
from dig_ray.stages import STAGES

ENGINES = get_args(get_args(MinerConfig)[0])
ENDPOINT = {"model": "m", "base_url": "http://h/v1"}
PLAIN = {"temperature": 0.0, "max_tokens": 512, "seed": 0}


# Keys of answers that users have paid for: no release may change one.
@pytest.mark.parametrize(
    "miner, identity, key",
    [
        (
            OpenAIConfig(name="a", **ENDPOINT),
            {
                "engine": "openai",
                "model": "m",
                "sampling": PLAIN,
                "response_format": "json_schema",
                "omit": [],
                "extra_body": {},
            },
            "4fd6d18cc070b3ae2b22abeb9da96a30",
        ),
        (
            OpenAIConfig(
                name="b",
                price={"input": 1},
                sampling={"temperature": 0.5, "max_tokens": 9, "seed": 3},
                response_format="none",
                omit=("seed",),
                extra_body={"top_p": 0.5},
                actors=2,
                spend_limit=3,
                max_tokens_field="max_completion_tokens",
                **ENDPOINT,
            ),
            {
                "engine": "openai",
                "model": "m",
                "sampling": {"temperature": 0.5, "max_tokens": 9, "seed": 3},
                "response_format": "none",
                "omit": ["seed"],
                "extra_body": {"top_p": 0.5},
            },
            "63eb2ad8813b0f2eb10986e041b97955",
        ),
        (
            VllmConfig(name="a", model="m"),
            {"engine": "vllm", "model": "m", "revision": None, "sampling": PLAIN, "engine_kwargs": {}},
            "e88448da7031ad90229fd65e1dd9d3cd",
        ),
        (
            VllmConfig(
                name="b",
                model="m",
                revision="r",
                replicas=2,
                tensor_parallel=2,
                device="gpu",
                max_model_len=128,
                kv_cache_gib=1,
                engine_kwargs={"dtype": "float32", "max_num_seqs": 4},
            ),
            {
                "engine": "vllm",
                "model": "m",
                "revision": "r",
                "sampling": PLAIN,
                "engine_kwargs": {"dtype": "float32"},
            },
            "de9e36e93176da7585aef43e7e0dc878",
        ),
        (
            ReplayConfig(name="a", path="/p"),
            {"engine": "replay", "id_column": "subject_id", "answer_column": "answer", "form": "json"},
            "062a5befca4183002ae9dc95004f4b40",
        ),
        (
            ReplayConfig(name="a", path="/q", id_column="i", answer_column="w", form="text"),
            {"engine": "replay", "id_column": "i", "answer_column": "w", "form": "text"},
            "817d78cbd4bc673b6ec60743e40adcda",
        ),
        (
            KeyphraseConfig(),
            {
                "engine": "keyphrase",
                "encoder": "minilm",
                "phrases": 6,
                "longest": 3,
                "candidates": 64,
                "diversity": 0.5,
            },
            "1d6c391c07c5a798b809d7545b97187d",
        ),
        (
            KeyphraseConfig(
                name="k",
                phrases=2,
                longest=1,
                candidates=3,
                diversity=0.1,
                encoder="e",
                actors=2,
                num_cpus=1,
                num_gpus=1,
            ),
            {
                "engine": "keyphrase",
                "encoder": "e",
                "phrases": 2,
                "longest": 1,
                "candidates": 3,
                "diversity": 0.1,
            },
            "f496609c76bd9bd5c648e17b90804e21",
        ),
        (
            SimilarityConfig(),
            {"engine": "similarity", "encoder": "minilm", "threshold": 0.5},
            "f6bd187232409c22e2f8763c151c4b07",
        ),
        (
            SimilarityConfig(name="s", encoder="e", threshold=0.2),
            {"engine": "similarity", "encoder": "e", "threshold": 0.2},
            "1d130c4b3d21eeb0ee34e06d269aebed",
        ),
    ],
)
def test_an_answer_is_found_again_by_the_key_that_it_was_paid_for_under(miner, identity, key) -> None:
    assert miner.identity() == identity
    assert AnswerKeys("prompt", miner.identity() | {"most": 8})("{}") == key


# (a miner, what counts for the stage that asks and decides no answer, what is free); all else decides an answer.
KINDS = [
    (
        OpenAIConfig(name="a", **ENDPOINT),
        {"name"},
        {
            *(
                "price",
                "base_url",
                "api_key_env",
                "max_in_flight",
                "requests_per_minute",
                "timeout",
                "deadline",
            ),
            *("max_tries", "spend_limit", "hopeless_rows", "actors", "max_tokens_field"),
        },
    ),
    (
        VllmConfig(name="a", model="m"),
        {"name", "max_model_len"},
        {
            *("price", "replicas", "tensor_parallel", "device", "batch_size", "max_concurrent_batches"),
            "kv_cache_gib",
        },
    ),
    (ReplayConfig(name="a", path="/p"), {"name", "sampling"}, {"price", "path"}),
    (KeyphraseConfig(), {"name", "sampling"}, {"price", "actors", "num_cpus", "num_gpus"}),
    (SimilarityConfig(), {"name", "sampling"}, {"price"}),
]


@pytest.mark.parametrize("miner, only_stage, free", KINDS)
def test_every_setting_of_an_engine_is_of_one_kind(miner, only_stage, free) -> None:
    fields = type(miner).model_fields
    answers = set(miner.identity())
    assert set(miner.only_stage) == only_stage
    assert {name for name, field in fields.items() if is_free(field)} == free
    assert set(miner.counted()) == answers | only_stage
    assert sorted([*answers, *only_stage, *free]) == sorted(fields)


def test_no_engine_is_forgotten() -> None:
    assert {type(miner) for miner, _, _ in KINDS} == set(ENGINES)
    for engine in ENGINES:
        module = sys.modules[engine.__module__]
        assert module.__name__ == f"dig_ray.mining.engines.{engine.model_fields['engine'].default}"
        assert callable(module.run)


def test_memory_and_speed_count_for_no_stage() -> None:
    plain = VllmConfig(name="a", model="m")
    given = plain.model_copy(update={"engine_kwargs": dict.fromkeys(MEMORY_AND_SPEED, 1)})
    assert given.counted() == plain.counted()
    assert plain.model_copy(update={"engine_kwargs": {"dtype": "float32"}}).counted()["engine_kwargs"] == {
        "dtype": "float32"
    }
    assert plain.model_copy(update={"max_model_len": 128}).counted() != plain.counted()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_stage_that_asks_miners_has_their_engines_in_its_code_and_no_other(engine) -> None:
    miner = next(miner for miner, _, _ in KINDS if type(miner) is engine)
    given = {"caption": miner, "items": (miner,), "users": (miner,), "judge": miner, "clusters": miner}
    config = RunConfig.model_construct(mining=MiningConfig.model_construct(**given))
    engines = {engine.__module__ for engine in ENGINES}
    asking = {"captions", "item_interests", "judgements", "user_interests", "user_clusters", "crowd_clusters"}
    for spec in STAGES:
        if spec.name in asking:
            found = engines & set(modules_behind(spec.modules_of(config)))
            named = engines & set(modules_behind([engine.__module__]))  # one engine may build on another
            assert found == named and engine.__module__ in named, spec.name


def test_settings_are_read_without_what_runs_them() -> None:
    code = (
        "import sys, dig_ray.mining.config\n"
        "heavy = {'ray', 'torch', 'vllm', 'numpy', 'pyarrow', 'aiohttp', 'openai', 'transformers', 'sklearn'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
