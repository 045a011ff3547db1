"""What the trainer is made of, without Ray."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from dig_ray.on_ray.worker_failures import leave_sentence, read_sentence
from dig_ray.training.config import SftConfig
from dig_ray.training.sft_loop import make_trainer, steps_per_epoch
from dig_ray.training.sft_stage import build_job
from dig_ray.training.validation import LossIsNaN, gathered, validations_since_best


@pytest.fixture
def job(world, settings):
    return build_job(settings.sft, settings.recommender, world.dataset, world.sids, seed=7)


def test_every_training_target_is_in_a_packed_row_once_and_steps_are_whole(job, world, settings):
    offsets, items = world.dataset.train_sequences()
    found = job.arrays["item"][job.arrays["item"] >= 0]
    wanted = np.bincount(items, minlength=30) * world.sids.lengths
    np.testing.assert_array_equal(np.bincount(found, minlength=30), wanted)
    rows = len(job.arrays["input_ids"])
    assert (
        rows % settings.sft.rows_per_step == 0 and steps_per_epoch(job) == rows // settings.sft.rows_per_step
    )


def test_validation_users_are_evenly_spaced_and_see_no_target(job, world, settings):
    cases = world.dataset.cases("valid")
    assert len(job.valid_prompts) == len(cases)
    few = build_job(
        settings.sft.model_copy(update={"valid_users": 10}),
        settings.recommender,
        world.dataset,
        world.sids,
        seed=7,
    )
    assert len(few.valid_prompts) == 10 and len(few.valid_targets) == 10
    for prompt, case in zip(job.valid_prompts, range(len(cases)), strict=True):
        history = world.dataset.events[cases.start[case] : cases.end[case]][-8:]
        tokens = [t for item in history for t in world.sids.tokens_of(int(item))]
        assert (prompt[1:] - prompt[1:].min()).shape == (len(tokens),)
        assert (np.diff(prompt[1:]) == np.diff(tokens)).all()


def test_a_step_by_the_trainer_is_a_step_by_hand(job, tmp_path):
    """Loss per target over the whole step, clipped, one AdamW step."""
    from dig_ray.recommender.objective import SidLoss
    from dig_ray.training.sft_trainer import attach_loss

    trainer = make_trainer(job, str(tmp_path))
    torch.manual_seed(0)
    policy = trainer._policy
    attach_loss(policy, SidLoss(job.table, job.recommender.normalizer))
    batch = next(iter(trainer.get_train_dataloader()))
    count = (batch["labels"] != -100).sum()
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=count)
    summed = trainer.model(**batch)["loss"]
    assert loss.item() == pytest.approx(summed.item() / count.item())


def test_gradients_that_are_not_finite_stop_before_the_weights_change(job, tmp_path):
    trainer = make_trainer(job, str(tmp_path))
    weight = next(trainer._policy.model.parameters())
    before = weight.detach().clone()
    hook = weight.register_hook(lambda grad: grad * float("nan"))
    with pytest.raises(LossIsNaN, match="step 1") as stopped:
        trainer.train()
    hook.remove()
    assert torch.equal(weight, before)
    assert stopped.value.batch["input_ids"].shape == (4, 64)


def test_validation_draws_no_random_number_and_leaves_the_model_training(job, tmp_path):
    trainer = make_trainer(job, str(tmp_path))
    trainer.model.train()
    state = torch.random.get_rng_state()
    first = trainer.evaluate()
    assert torch.equal(state, torch.random.get_rng_state()) and trainer.model.training
    assert first["eval_ndcg@10"] == trainer.evaluate()["eval_ndcg@10"]


def test_a_sharded_model_is_whole_while_it_is_validated(job, tmp_path):
    """FSDP on one rank: decoding works inside ``gathered`` and training goes on after it."""
    from torch.distributed.fsdp import fully_shard

    trainer = make_trainer(job, str(tmp_path))
    model = trainer._policy.model
    expected = trainer.evaluate()["eval_ndcg@10"]
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        mesh = torch.distributed.init_device_mesh("cpu", (1,))
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        batch = next(iter(trainer.get_train_dataloader()))
        model(**batch)["loss"].backward()
        with gathered(model):
            assert type(model.model.embed_tokens.weight.data) is torch.Tensor
        assert trainer.evaluate()["eval_ndcg@10"] == pytest.approx(expected, abs=1e-9)
        model(**batch)["loss"].backward()
    finally:
        torch.distributed.destroy_process_group()


def test_patience_counts_from_the_first_best_validation():
    def log(*scores):
        return [{"loss": 1.0}, *({"eval_ndcg@10": s} for s in scores)]

    assert validations_since_best(log()) == 0
    assert validations_since_best(log(0.1, 0.2)) == 0
    assert validations_since_best(log(0.2, 0.1, 0.2)) == 2


def test_a_sentence_travels_from_worker_to_driver(tmp_path):
    failed = str(tmp_path / "new" / "folder")
    assert read_sentence(failed) is None
    leave_sentence(failed, "sft: why")
    assert read_sentence(failed) == "sft: why"
    (tmp_path / "new" / "folder" / "stopped.json").write_text("{")
    assert read_sentence(failed) is None


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"num_workers": 3}, r"rows_per_step=32 does not divide .* use 30"),
        ({"parallel": "fsdp", "num_workers": 2}, "parallel=fsdp shards a model over several GPUs"),
        ({"parallel": "fsdp", "use_gpu": True}, "num_workers to at least 2"),
        ({"rows_per_step": 0}, "greater than or equal to 1"),
    ],
)
def test_impossible_settings_are_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        SftConfig.model_validate(fields)
