"""The moving average of the weights: its arithmetic, and that training goes on from the weights themselves."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError

from dig_ray.training.config import SftConfig
from dig_ray.training.sft_loop import make_trainer
from dig_ray.training.sft_stage import build_job
from dig_ray.training.weight_average import WeightAverage


def _walk(average: WeightAverage, model: torch.nn.Module, steps: range) -> None:
    for step in steps:
        with torch.no_grad():
            for number, parameter in enumerate(model.parameters()):
                parameter.add_(0.1 * step + number)
        average.on_step_end(None, SimpleNamespace(global_step=step), None)


def test_it_is_the_sum_by_hand_and_the_weights_come_back_to_the_bit():
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    expected = model.weight.detach().clone()
    average = WeightAverage(model, 0.5)
    average.on_train_begin(None, None, None)
    for step in range(1, 8):
        _walk(average, model, range(step, step + 1))
        keep = min(0.5, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * model.weight.detach()
    before = model.weight.detach().clone()
    with average.applied():
        torch.testing.assert_close(model.weight.detach(), expected)
    assert torch.equal(model.weight, before) and not torch.allclose(before, expected)


def test_weights_in_bfloat16_are_averaged_in_float32():
    model = torch.nn.Linear(4, 4).to(torch.bfloat16)
    average = WeightAverage(model, 0.999)
    average.on_train_begin(None, None, None)
    with torch.no_grad():
        model.weight.add_(1.0)
    start = average._average[0].clone()
    for _ in range(50):
        average.on_step_end(None, SimpleNamespace(global_step=100_000), None)
    moved = (average._average[0] - start).mean().item()
    assert moved == pytest.approx(1 - 0.999**50, rel=0.05)  # steps that bfloat16 would round away


@pytest.mark.parametrize("decay, same", [(0.0, True), (0.9, False)])
def test_what_is_validated_and_saved_is_the_average_and_training_does_not_notice(
    decay, same, world, settings, tmp_path
):
    def trained(rate: float):
        sft = settings.sft.model_copy(update={"average_decay": rate, "epochs": 2})
        trainer = make_trainer(
            build_job(sft, settings.recommender, world.dataset, world.sids, seed=7), str(tmp_path / str(rate))
        )
        trainer.train()
        return trainer

    plain, averaged = trained(0.0), trained(decay)
    for mine, theirs in zip(
        plain._policy.model.parameters(), averaged._policy.model.parameters(), strict=True
    ):
        assert torch.equal(mine, theirs)
    scores = [
        [h["eval_ndcg@10"] for h in t.state.log_history if "eval_ndcg@10" in h] for t in (plain, averaged)
    ]
    assert len(scores[0]) == 2 and (scores[0] == scores[1]) == same
    folders = list((tmp_path / str(decay)).glob("checkpoint-*/averaged"))
    assert bool(folders) != same


def test_sharded_weights_have_no_average():
    with pytest.raises(ValidationError, match="set average_decay=0"):
        SftConfig(parallel="fsdp", use_gpu=True, num_workers=2)
