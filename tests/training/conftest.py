"""A small world that a tiny policy learns in seconds, on disk as the stages before SFT leave it, and one Ray for all."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dig_ray.base import Stage
from dig_ray.catalog.dataset import Dataset
from dig_ray.recommender.config import DecoderConfig, RecommenderConfig
from dig_ray.semantic_ids.sid_catalog import SidCatalog
from dig_ray.training.config import SftConfig
from dig_ray.training.grpo_config import GrpoConfig

N_ITEMS = 30


def _walks(users: int = 69) -> list[list[int]]:
    """Users who walk along a ring of items, with a jump now and then; one for long."""
    rng = np.random.default_rng(0)
    sequences = []
    for _ in range(users):
        at, walk = int(rng.integers(N_ITEMS)), []
        for _ in range(int(rng.integers(5, 9))):
            walk.append(at % N_ITEMS)
            at += 1 if rng.random() < 0.9 else 3
        sequences.append(walk)
    return [*sequences, [i % N_ITEMS for i in range(5, 19)]]


@pytest.fixture(scope="session")
def world(tmp_path_factory, make_dataset):
    """``catalog`` and ``semantic_ids`` directories, with the objects they hold; some items share codes."""
    root = tmp_path_factory.mktemp("world")
    dataset = make_dataset(_walks(), N_ITEMS, titles=True)
    dataset.save(root / "catalog")
    codes = np.stack([np.arange(N_ITEMS) // 6, np.arange(N_ITEMS) % 5], axis=1)
    sids = SidCatalog.from_codes(dataset.item_ids, codes, (5, 5))
    assert sids.n_suffix == 2
    (root / "semantic_ids").mkdir()
    sids.save(root / "semantic_ids" / "semantic_ids.parquet")
    return SimpleNamespace(
        root=root,
        catalog=root / "catalog",
        semantic_ids=root / "semantic_ids",
        dataset=Dataset.load(root / "catalog"),
        sids=SidCatalog.load(root / "semantic_ids" / "semantic_ids.parquet"),
    )


TINY = RecommenderConfig(
    decoder=DecoderConfig(
        hidden_size=32, num_layers=1, num_heads=2, ffn_size=64, dropout=0.0, embedding_dropout=0.0
    ),
    max_history=8,
)
SFT = SftConfig(
    epochs=3,
    rows_per_step=4,
    row_length=64,
    learning_rate=1e-2,
    warmup_steps=2,
    valid_beam=10,
    threads_per_worker=1,
    cpus_per_worker=1,
)


GRPO = GrpoConfig(
    num_generations=6,
    prompts_per_step=8,
    learning_rate=5e-3,
    warmup_steps=0,
    beta=0.0,
    eval_every_steps=10,
    patience=50,
    valid_beam=10,
    threads_per_worker=1,
    cpus_per_worker=1,
)


@pytest.fixture(scope="session")
def settings():
    """(recommender, sft, grpo) configs of the tiny runs, and how to vary them."""
    return SimpleNamespace(recommender=TINY, sft=SFT, grpo=GRPO)


@pytest.fixture(scope="session")
def untrained(world, tmp_path_factory):
    """Makes an SFT artifact of a recommender that has learnt nothing; an adapter is random, so that it does something."""
    from dig_ray.recommender.backbone import build_policy, build_tokenizer
    from dig_ray.training.publish import write_policy_facts

    def make(recommender: RecommenderConfig) -> Path:
        import torch

        folder = tmp_path_factory.mktemp("sft")
        tokenizer = build_tokenizer(recommender, world.sids, [])
        policy = build_policy(recommender, world.sids, tokenizer, 0)
        if recommender.lora is not None:
            torch.manual_seed(1)
            for parameter in policy.model.parameters():
                if parameter.requires_grad:
                    parameter.data += 0.1 * torch.randn_like(parameter)
        policy.model.save_pretrained(folder / "policy")
        tokenizer.save_pretrained(folder / "policy")
        write_policy_facts(folder / "policy", recommender, world.sids)
        return folder

    return make


@pytest.fixture(scope="session")
def bad_start(settings, untrained) -> Path:
    """An SFT artifact whose policy has learnt nothing."""
    return untrained(settings.recommender)


@pytest.fixture(scope="session")
def ray_cluster():
    """One Ray of this test session's own."""
    import ray

    ours = not ray.is_initialized()
    if ours:
        ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    yield ray
    if ours:
        ray.shutdown()


def train_workers() -> list[int]:
    """Process ids of the Ray Train workers that this test process started."""
    import psutil

    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "TrainWorker" in " ".join(process.cmdline()):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


@pytest.fixture
def kill_a_worker_after_a_checkpoint():
    """A context in which one Ray Train worker of the run below ``work`` dies once a checkpoint is there; it gives those that did."""

    @contextmanager
    def watch(work: str) -> Iterator[list[int]]:
        killed: list[int] = []
        done = threading.Event()

        def look() -> None:
            while not (done.is_set() or killed):
                if list(Path(work).glob("*/checkpoint_*/checkpoint/trainer_state.json")):
                    for pid in train_workers()[:1]:
                        os.kill(pid, signal.SIGKILL)
                        killed.append(pid)
                time.sleep(0.05)

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield killed
        finally:
            done.set()
            thread.join()

    return watch


@pytest.fixture(scope="session")
def make_stage(tmp_path_factory):
    def make(name: str, seed: int = 7) -> Stage:
        root = tmp_path_factory.mktemp(name)
        (root / "out").mkdir()
        lines: list[str] = []
        stage = Stage("sft", f"{name:0<16}", seed, root / "out", str(root / "work"), log=lines.append)
        stage.lines = lines  # type: ignore[attr-defined]
        return stage

    return make


@pytest.fixture(scope="session")
def curves():
    def read(stage: Stage) -> list[dict]:
        return json.loads((Path(stage.out) / "curves.json").read_text())

    return read
