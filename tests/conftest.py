"""Shared by all tests: property tests have no time limit per example, since machines differ and neighbours are loud;
small data sets from plain lists; and tiny language models as a hub would give them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import settings

from dig_ray.catalog.dataset import Dataset
from dig_ray.on_ray.session import RayConfig, set_environment

settings.register_profile("dig_ray", deadline=None)
settings.load_profile("dig_ray")
# Ray reads its environment when it is first imported: a run inside the tests would change it too late, and modules would
# depend on their order
set_environment(RayConfig())


def _dataset(sequences: list[list[int]], n_items: int, titles: bool = False) -> Dataset:
    """Items i0, i1 ... and one user per sequence: the last event is test, the one before it valid. Item 2 has no title."""
    lengths = np.array([len(s) for s in sequences])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    split = np.zeros(offsets[-1], np.int8)
    split[offsets[1:] - 2] = 1
    split[offsets[1:] - 1] = 2
    columns = {"item_id": [f"i{i}" for i in range(n_items)]}
    if titles:
        columns["title"] = [None if i == 2 else f"red kettle number {i}" for i in range(n_items)]
    return Dataset(
        items=pa.table(columns),
        user_ids=np.array([f"u{i}" for i in range(len(sequences))]),
        offsets=offsets,
        events=np.concatenate([np.asarray(s, np.int32) for s in sequences]),
        split=split,
        split_name="leave_last_out",
    )


@pytest.fixture(scope="module")
def ray_here():
    """A Ray of the module's own."""
    import ray

    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def make_dataset():
    return _dataset


@pytest.fixture(scope="session")
def chains():
    """60 users who walk along one of 4 rings of 10 items, from anywhere, with a jump now and then."""
    rng = np.random.default_rng(0)
    sequences = []
    for user in range(60):
        ring, at = user % 4, int(rng.integers(10))
        walk = []
        for _ in range(int(rng.integers(4, 9))):
            walk.append(ring * 10 + at % 10)
            at += 1 if rng.random() < 0.9 else 2
        sequences.append(walk)
    return _dataset(sequences, 41)


@pytest.fixture(scope="session")
def language_model(tmp_path_factory):
    """Directories of tiny Qwen2 models with a byte-pair tokenizer, as a hub would give them: tied and untied."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(["red kettle number 1", "a history of titles and interests"], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|endoftext|>")
    paths = {}
    for name in ("tied", "untied"):
        torch.manual_seed(0)
        model = Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=512,
                tie_word_embeddings=name == "tied",
                bos_token_id=None,
                eos_token_id=tokenizer.eos_token_id,
            )
        )
        paths[name] = tmp_path_factory.mktemp(f"qwen2-{name}")
        model.save_pretrained(paths[name])
        tokenizer.save_pretrained(paths[name])
    return paths


@pytest.fixture(scope="session")
def smollm2():
    """A real pretrained model, SmolLM2-135M-Instruct, as a directory in bfloat16; skips with the reason where it cannot be had."""
    from tests import smollm2 as model

    try:
        return model.directory()
    except model.Absent as reason:
        pytest.skip(f"SmolLM2: {reason}")
