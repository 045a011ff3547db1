"""GRPO of a language model with LoRA: what is frozen, what trains, and what is kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dig_ray.recommender.config import LoraConfig
from dig_ray.training.grpo_config import GrpoConfig
from dig_ray.training.grpo_loop import make_trainer
from dig_ray.training.grpo_stage import build_job, train_by_rewards


@pytest.fixture(scope="module", params=["tied", "untied"])
def start(request, settings, untrained, language_model):
    return untrained(
        settings.recommender.model_copy(
            update={"backbone": str(language_model[request.param]), "lora": LoraConfig(rank=4, dropout=0.0)}
        )
    )


@pytest.fixture
def trainer(world, settings, start, tmp_path):
    grpo = GrpoConfig.model_validate(settings.grpo.model_dump() | {"beta": 0.05, "max_prompts": 64})
    job = build_job(grpo, world.dataset, world.sids, start / "policy", 3)
    return make_trainer(job, str(tmp_path / "run"))


def log_probs(trainer, tree) -> torch.Tensor:
    with torch.no_grad():
        return trainer.model(tree=tree)["log_probs"]


def test_the_reference_is_the_adapter_as_it_was(trainer) -> None:
    rows = np.arange(6)
    prompts = trainer._prompts.take(rows)
    tree = trainer._builder.build(prompts, np.arange(18).reshape(6, 3)).tensors("cpu")
    before = log_probs(trainer, tree)
    torch.testing.assert_close(trainer._reference.log_probs(tree), before, rtol=0, atol=1e-6)
    trainable = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert trainable and not any("reference" in name for name in trainable)
    assert any("lora_A" in name for name in trainable)
    start = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    after = log_probs(trainer, tree)
    assert not torch.allclose(after, before, atol=1e-3)
    torch.testing.assert_close(trainer._reference.log_probs(tree), before, rtol=0, atol=1e-6)
    torch.testing.assert_close(log_probs(trainer, tree), after)  # the trained adapter is active again
    for name, parameter in trainer.model.named_parameters():
        same = torch.equal(parameter, start[name])
        assert same or name in trainable, name
    entries = [entry["kl"] for entry in trainer.state.log_history if "kl" in entry]
    assert entries[-1] > 0


@pytest.mark.slow
def test_what_is_published_is_the_trained_adapter_alone(
    start, settings, world, make_stage, ray_cluster
) -> None:
    from dig_ray.recommender.backbone import load_policy

    stage = make_stage("lora-grpo")
    grpo = GrpoConfig.model_validate(settings.grpo.model_dump() | {"beta": 0.01, "max_prompts": 240})
    train_by_rewards(grpo, stage, world.catalog, world.semantic_ids, start)
    assert stage.stats["helped"]
    assert not list((stage.out / "policy").rglob("*reference*"))
    policy, _, about = load_policy(stage.out / "policy", world.sids)
    assert about["base_model"] is not None
    assert list(policy.model.peft_config) == ["default"]
