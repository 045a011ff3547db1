"""SmolLM2-135M from its directory through SFT, validation, save, load, GRPO and decoding: one rule of types all the way."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dig_ray.recommender.backbone import load_policy
from dig_ray.recommender.config import LoraConfig, RecommenderConfig
from dig_ray.recommender.decoding import BeamSearcher, pad_prompts
from dig_ray.semantic_ids.sid_catalog import SidCatalog
from dig_ray.training.config import SftConfig
from dig_ray.training.grpo_config import GrpoConfig
from dig_ray.training.grpo_loop import make_trainer as make_grpo_trainer
from dig_ray.training.grpo_stage import build_job as build_grpo_job
from dig_ray.training.publish import copy_policy, write_policy_facts
from dig_ray.training.sft_loop import make_trainer
from dig_ray.training.sft_stage import build_job

ITEMS = 20
SFT = SftConfig(
    epochs=1,
    rows_per_step=2,
    row_length=64,
    learning_rate=1e-3,
    warmup_steps=0,
    valid_beam=10,
    valid_users=4,
    threads_per_worker=2,
)
GRPO = GrpoConfig(
    num_generations=4,
    prompts_per_step=4,
    max_prompts=4,
    learning_rate=1e-4,
    warmup_steps=0,
    eval_every_steps=1,
    valid_beam=10,
    valid_users=4,
    threads_per_worker=2,
    beta=0.01,
)


@pytest.fixture(scope="module")
def tiny(make_dataset) -> SimpleNamespace:
    """20 items and 12 users who walk along a ring of them."""
    rng = np.random.default_rng(0)
    walks = [[(start + i) % ITEMS for i in range(int(rng.integers(5, 8)))] for start in range(12)]
    dataset = make_dataset(walks, ITEMS, titles=True)
    codes = np.stack([np.arange(ITEMS) // 5, np.arange(ITEMS) % 5], axis=1)
    return SimpleNamespace(dataset=dataset, sids=SidCatalog.from_codes(dataset.item_ids, codes, (4, 5)))


def types_of(model) -> set[tuple[torch.dtype, bool]]:
    return {(p.dtype, p.requires_grad) for p in model.parameters()}


def through_the_chain(smollm2, tiny, folder: Path, precision: str = "float32", **more) -> SimpleNamespace:
    """SFT for an epoch, its policy saved and read back, a step of GRPO; what each left."""
    recommender = RecommenderConfig(backbone=str(smollm2), max_history=6, **more)
    sft = SFT.model_copy(update={"precision": precision})
    job = build_job(sft, recommender, tiny.dataset, tiny.sids, 7)
    trainer = make_trainer(job, str(folder / "sft"))
    trained = types_of(trainer.model)
    trainer.train()
    checkpoint = next((folder / "sft").glob("checkpoint-*"))
    copy_policy(checkpoint, folder / "policy")
    write_policy_facts(folder / "policy", recommender, tiny.sids)
    policy, _, about = load_policy(folder / "policy", tiny.sids, trainable=True)
    with trainer.average.applied():
        trainer.model.eval()
        kept = decoded(trainer._policy, job)
    read = decoded(policy, job)
    grpo = GRPO.model_copy(update={"precision": precision})
    rl = make_grpo_trainer(
        build_grpo_job(grpo, tiny.dataset, tiny.sids, folder / "policy", 3), str(folder / "rl")
    )
    rl.train()
    rl.model.eval()
    return SimpleNamespace(
        trained=trained,
        loaded=types_of(policy.model),
        policy=policy,
        about=about,
        kept=kept,
        read=read,
        after=decoded(rl._policy, job),
        log=[*trainer.state.log_history, *rl.state.log_history],
        checkpoint=checkpoint,
    )


def decoded(policy, job):
    ids, lengths = pad_prompts(job.valid_prompts, policy.pad)
    return BeamSearcher(policy, job.table, ITEMS).search(torch.from_numpy(ids), torch.from_numpy(lengths))


def whole(beams) -> None:
    """Every item once, with log-probabilities that sum to one."""
    assert all(sorted(row) == list(range(ITEMS)) for row in beams.items.tolist())
    assert beams.scores.dtype == torch.float32
    torch.testing.assert_close(beams.scores.exp().sum(1), torch.ones(len(beams.scores)), atol=1e-3, rtol=0)


LORA = {"lora": LoraConfig(rank=4, dropout=0.0), "dtype": "bfloat16"}


@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_an_adapter_on_a_bfloat16_base_goes_all_the_way(precision, smollm2, tiny, tmp_path):
    """The base in bfloat16, adapter and SID rows in float32: in training, on disk and read back; and a few MB of it."""
    run = through_the_chain(smollm2, tiny, tmp_path, precision, **LORA)
    assert run.trained == run.loaded == {(torch.bfloat16, False), (torch.float32, True)}
    assert run.policy.dtype == torch.bfloat16 and run.policy.sid_rows().dtype == torch.float32
    assert run.about["dtype"] == "bfloat16" and run.about["base_model"] == str(smollm2)
    for beams in (run.kept, run.read, run.after):
        whole(beams)
    assert torch.equal(run.kept.items, run.read.items)  # what was validated is what is read
    torch.testing.assert_close(run.kept.scores, run.read.scores, atol=1e-5, rtol=0)
    assert not torch.equal(run.after.scores, run.read.scores)  # GRPO moved it
    size = sum(file.stat().st_size for file in (tmp_path / "policy").iterdir())
    adapter = (tmp_path / "policy" / "adapter_model.safetensors").stat().st_size
    assert adapter < 6e6 < size < 12e6  # the rest is the tokenizer
    assert not list((tmp_path / "policy").glob("*.bin"))


@pytest.mark.slow
def test_full_training_in_bfloat16_goes_all_the_way(smollm2, tiny, tmp_path):
    run = through_the_chain(smollm2, tiny, tmp_path, dtype="bfloat16")
    assert run.trained == run.loaded == {(torch.bfloat16, True)}
    for beams in (run.kept, run.read, run.after):
        whole(beams)
    assert torch.equal(run.kept.items, run.read.items)


@pytest.mark.slow
def test_a_float32_base_stays_one_though_its_files_are_bfloat16(smollm2, tiny, tmp_path):
    run = through_the_chain(smollm2, tiny, tmp_path, **LORA | {"dtype": "float32"})
    assert run.trained == run.loaded == {(torch.float32, False), (torch.float32, True)}
    whole(run.after)
    torch.testing.assert_close(run.kept.scores, run.read.scores, atol=1e-5, rtol=0)


def test_the_tokenizer_and_the_chat_template_are_there(smollm2):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2, trust_remote_code=False)
    said = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert said.endswith("<|im_start|>assistant\n") and "hi<|im_end|>" in said
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|im_end|>", "<|im_end|>")
