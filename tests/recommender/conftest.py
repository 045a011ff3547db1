"""Tiny real models and catalogues, made in seconds and never downloaded."""

from __future__ import annotations

import numpy as np
import pytest

from dig_ray.recommender.policy import SidPolicy
from dig_ray.semantic_ids.prefix_table import build_prefix_table
from dig_ray.semantic_ids.sid_catalog import SidCatalog


def _sids(n_items: int, sizes: tuple[int, ...], seed: int = 0) -> SidCatalog:
    """Random codes; with few codes for many items, collisions and so suffixes."""
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(0, s, n_items) for s in sizes], axis=1)
    return SidCatalog.from_codes([f"i{i}" for i in range(n_items)], codes, sizes)


def _table(sids: SidCatalog):
    return build_prefix_table(sids.codes, sids.suffix, sids.sizes, sids.n_suffix)


def _policy(kind: str, n_sid: int, seed: int = 0, sid_start: int = 3, extra: int = 2) -> SidPolicy:
    """A random policy in eval mode: ``sid_start`` special tokens, the SID tokens, ``extra`` others.

    Weights are drawn wider than usual, so that scores differ and rankings have no near ties.
    """
    import torch
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        Phi3Config,
        Phi3ForCausalLM,
        Qwen2Config,
        Qwen2ForCausalLM,
        Qwen3Config,
        Qwen3ForCausalLM,
    )

    torch.manual_seed(seed)
    common = {
        "vocab_size": sid_start + n_sid + extra,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "initializer_range": 0.3,
        "tie_word_embeddings": not kind.endswith("untied"),
    }
    blocks = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4 if kind.endswith("mha") else 2,
        "max_position_embeddings": 512,
    }
    family = kind.split("-")[0]
    if family == "gpt2":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}
        model = GPT2LMHeadModel(GPT2Config(**common, **sizes))
    elif family == "phi3":
        more = {"original_max_position_embeddings": 512, "sliding_window": None}
        model = Phi3ForCausalLM(Phi3Config(**common, **blocks, **more))
    elif family == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(**common, **blocks))
    elif family == "qwen3":
        model = Qwen3ForCausalLM(Qwen3Config(**common, **blocks, head_dim=8))
    else:
        model = LlamaForCausalLM(LlamaConfig(**common, **blocks))
    if kind.endswith("lora"):
        import peft

        rows = list(range(sid_start, sid_start + n_sid))
        model = peft.get_peft_model(
            model,
            peft.LoraConfig(
                task_type="CAUSAL_LM",
                r=4,
                target_modules="all-linear",
                trainable_token_indices={"embed_tokens": rows},
                init_lora_weights=False,
            ),
        )
    return SidPolicy(model=model.eval(), sid_start=sid_start, n_sid=n_sid, bos=0, pad=min(1, sid_start))


def _prompts(policy: SidPolicy, sids: SidCatalog, lengths: list[int], seed: int = 0):
    """Histories of the given numbers of items as (prompts, lengths) tensors, with the items (B, S) padded -1."""
    import torch

    from dig_ray.recommender.decoding import pad_prompts
    from dig_ray.recommender.tasks import SidStream

    rng = np.random.default_rng(seed)
    stream = SidStream(sids, policy.sid_start)
    histories = [rng.integers(0, len(sids), n) for n in lengths]
    prompts, real = pad_prompts([stream.prompt(h, policy.bos) for h in histories], policy.pad)
    seen = np.full((len(lengths), max(lengths)), -1, np.int64)
    for row, history in enumerate(histories):
        seen[row, : len(history)] = history
    return torch.from_numpy(prompts), torch.from_numpy(real), torch.from_numpy(seen)


@pytest.fixture(scope="session")
def make_sids():
    return _sids


@pytest.fixture(scope="session")
def make_table():
    return _table


@pytest.fixture(scope="session")
def make_policy():
    return _policy


@pytest.fixture(scope="session")
def make_prompts():
    return _prompts
