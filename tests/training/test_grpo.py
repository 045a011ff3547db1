"""GRPO on problems whose optimum is known, against TRL's own losses, and on real Ray Train."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dig_ray.config import RunConfig
from dig_ray.errors import UserError
from dig_ray.training.grpo_config import GrpoConfig
from dig_ray.training.grpo_loop import make_trainer
from dig_ray.training.grpo_stage import build_job, prompt_events


@pytest.fixture
def varied(settings):
    def make(**changes) -> GrpoConfig:
        return GrpoConfig.model_validate(settings.grpo.model_dump() | changes)

    return make


@pytest.fixture
def trainer_of(world, bad_start, tmp_path):
    def make(grpo: GrpoConfig, seed: int = 3, **changes):
        job = build_job(grpo, world.dataset, world.sids, bad_start / "policy", seed, **changes)
        return make_trainer(job, str(tmp_path / "run"))

    return make


def history(trainer, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def test_prompts_are_what_precedes_each_training_event(world) -> None:
    offsets, items = world.dataset.train_sequences()
    users, begin, end = prompt_events(world.dataset, "all", 3)
    assert len(users) == int(np.maximum(np.diff(offsets) - 1, 0).sum())
    expected = [
        (user, max(offsets[user], at - 3), at)
        for user in range(len(offsets) - 1)
        for at in range(offsets[user] + 1, offsets[user + 1])
    ]
    assert list(zip(users.tolist(), begin.tolist(), end.tolist(), strict=True)) == expected
    users, _, end = prompt_events(world.dataset, "last", 3)
    assert end.tolist() == [offsets[u + 1] - 1 for u in users.tolist()]
    assert end.max() < len(items)


@pytest.mark.parametrize("held_out", [1, 3, 100])
def test_what_sft_does_not_see_is_what_rl_rolls_out_to(world, settings, held_out) -> None:
    whole, _ = world.dataset.train_sequences()
    seen = world.dataset.without_latest(held_out)
    offsets, items = seen.train_sequences()
    users, begin, end = prompt_events(world.dataset, "held_out", 100, held_out)
    length, kept = np.diff(whole), np.diff(offsets)
    assert (kept == np.maximum(np.minimum(length, 2), length - held_out)).all() and (kept < length).any()
    expected = [
        (user, whole[user], whole[user] + at)
        for user in range(len(length))
        for at in range(kept[user], length[user])
    ]
    assert list(zip(users.tolist(), begin.tolist(), end.tolist(), strict=True)) == expected
    for split in ("valid", "test"):  # histories still hold them
        before, after = world.dataset.cases(split), seen.cases(split)
        assert (before.start == after.start).all() and (before.end == after.end).all()
    from dig_ray.training.sft_stage import build_job as sft_job

    job = sft_job(
        settings.sft.model_copy(update={"hold_out": held_out}),
        settings.recommender,
        world.dataset,
        world.sids,
        7,
    )
    assert sorted(set(job.arrays["item"].ravel().tolist()) - {-1}) == sorted(set(items.tolist()))
    assert int((job.arrays["item"] >= 0).sum()) < int(
        (sft_job(settings.sft, settings.recommender, world.dataset, world.sids, 7).arrays["item"] >= 0).sum()
    )


def test_nothing_held_out_is_one_sentence(world, bad_start, varied) -> None:
    with pytest.raises(UserError, match=r"SFT of .* saw every training event; set sft\.hold_out=1"):
        build_job(varied(prompts="held_out"), world.dataset, world.sids, bad_start / "policy", 0)
    with pytest.raises(ValueError, match=r"grpo\.prompts=held_out needs events that SFT does not see"):
        RunConfig.model_validate({"grpo": {"prompts": "held_out"}})
    assert RunConfig.model_validate({"grpo": {"prompts": "held_out"}, "sft": {"hold_out": 1}}).grpo


def test_it_learns_what_comes_next_from_a_bad_start(trainer_of, varied) -> None:
    trainer = trainer_of(varied(epochs=6))
    trainer.train()
    score = history(trainer, "eval_ndcg@10")
    reward = history(trainer, "rewards/exact/raw")
    assert score[0] < 0.35 and max(score) > score[0] + 0.3
    assert np.mean(reward[-5:]) > np.mean(reward[:5]) + 0.05
    assert history(trainer, "invalid") and max(history(trainer, "invalid")) == 0


def mass_on_first_code(trainer) -> float:
    """Share of rollouts whose first code is 0, drawn with replacement."""
    from dig_ray.recommender.decoding import pad_prompts
    from dig_ray.recommender.rollouts import RolloutSampler

    rows = np.arange(40)
    ids, lengths = pad_prompts(trainer._prompts.take(rows), trainer._policy.pad)
    trainer._policy.model.eval()
    draw = RolloutSampler(trainer._policy, trainer._table, 16, "independent", seed=9).draw
    items = draw(torch.from_numpy(ids), torch.from_numpy(lengths), rows, 0).items
    return float((trainer._sids.codes[items, 0] == 0).mean())


REWARD = {
    "exact": 0,
    "lambda_valid": 0,
    "lambda_pref": 0,
    "custom": {"tests.training.odd_rewards:first_code_zero": 1.0},
}


@pytest.mark.parametrize("method", ["sample", pytest.param("independent", marks=pytest.mark.slow)])
def test_a_reward_for_a_prefix_moves_the_policy_there(trainer_of, varied, method) -> None:
    trainer = trainer_of(varied(epochs=2, rewards=REWARD, method=method))
    before = mass_on_first_code(trainer)
    trainer.train()
    assert before < 0.5 and mass_on_first_code(trainer) > 0.95


def test_a_large_beta_keeps_the_policy_where_it_was(trainer_of, varied) -> None:
    trainer = trainer_of(varied(epochs=2, rewards=REWARD, beta=100.0, learning_rate=1e-3))
    before = mass_on_first_code(trainer)
    trainer.train()
    assert mass_on_first_code(trainer) == pytest.approx(before, abs=0.05)
    assert max(history(trainer, "kl")) < 0.05


def gradients(trainer, rows: np.ndarray) -> tuple[float, list[torch.Tensor]]:
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    (part,) = trainer._roll_out(rows)
    trainer._batch = part
    loss = trainer._compute_loss(trainer.model, part)
    return float(loss.detach()), list(
        torch.autograd.grad(loss, [p for p in trainer.model.parameters() if p.requires_grad])
    )


def test_trls_own_loss_on_the_same_rollouts(trainer_of, varied) -> None:
    """On policy, TRL's ``luspo`` with token ratios is the sum over a sequence's tokens, which is what the published objective is."""
    rows = np.arange(8)
    ours, our_gradients = gradients(trainer_of(varied(beta=0.0)), rows)
    _, their_gradients = gradients(trainer_of(varied(beta=0.0, loss_type="luspo")), rows)
    assert abs(ours) < 1e-5  # advantages sum to 0 and every ratio is 1
    norm = torch.sqrt(sum((g**2).sum() for g in their_gradients))
    gap = torch.sqrt(sum(((a - b) ** 2).sum() for a, b in zip(our_gradients, their_gradients, strict=True)))
    assert float(norm) > 1e-3
    assert float(gap / norm) < 1e-5


@pytest.mark.parametrize(
    "loss_type",
    ["dapo", *(pytest.param(name, marks=pytest.mark.slow) for name in ("grpo", "bnpo", "dr_grpo", "luspo"))],
)
def test_trls_losses_run_under_their_names(trainer_of, varied, loss_type) -> None:
    trainer = trainer_of(varied(loss_type=loss_type, max_prompts=32, beta=0.01, scale_rewards="group"))
    trainer.train()
    assert trainer.state.global_step == 4 and all(np.isfinite(history(trainer, "loss")))
    assert all(np.isfinite(history(trainer, "kl")))


def test_rollouts_can_be_used_several_times(trainer_of, varied) -> None:
    trainer = trainer_of(varied(num_iterations=2, max_prompts=64, epsilon=0.01))
    trainer.train()
    assert trainer.state.global_step == 16
    clipped = history(trainer, "clip_ratio/region_mean")
    assert max(clipped[1::2]) > 0 and max(clipped[::2]) == 0  # the first use is on policy


def test_dropout_is_off_and_figures_are_there(trainer_of, varied) -> None:
    q = np.linspace(0, 1, 30)
    rewards = {"quality": "gated", "rank_aware": 0.5}
    trainer = trainer_of(varied(max_prompts=80, rewards=rewards, beta=0.01), evidence={"quality": q})
    trainer.train()
    log = {key for entry in trainer.state.log_history for key in entry}
    assert {
        "reward",
        "frac_reward_zero_std",
        "groups_with_hit",
        "unique_rollouts",
        "invalid",
        "entropy",
        "kl",
        "quality/advantage_change",
        "eval_outside",
        *(
            f"rewards/{name}/{kind}"
            for name in ("exact", "valid", "prefix", "quality", "rank")
            for kind in ("raw", "weighted")
        ),
    } <= log
    assert set(history(trainer, "unique_rollouts")) == {6.0}
    assert all(0 <= share <= 1 for share in history(trainer, "eval_outside"))
    # the loss of a step is taken under the distribution that its rollouts came from: nothing is clipped
    assert max(history(trainer, "clip_ratio/region_mean")) == 0
