"""GRPO on real Ray Train: however many workers, whatever dies, the same policy comes out."""

from __future__ import annotations

import time

import pytest

from dig_ray.errors import UserError
from dig_ray.training.grpo_config import GrpoConfig
from dig_ray.training.grpo_stage import train_by_rewards


@pytest.fixture(scope="module")
def start(world, settings, make_stage, bad_start, ray_cluster):
    def begin(stage, **changes):
        if isinstance(stage, str):
            stage = make_stage(stage)
        grpo = GrpoConfig.model_validate(
            settings.grpo.model_dump() | {"max_prompts": 160, "beta": 0.01} | changes
        )
        train_by_rewards(grpo, stage, world.catalog, world.semantic_ids, bad_start)
        return stage

    return begin


@pytest.fixture(scope="module")
def undisturbed(start):
    return start("undisturbed")


def scores(curves) -> list[float]:
    return [entry["eval_ndcg@10"] for entry in curves if "eval_ndcg@10" in entry]


def rewards(curves) -> list[float]:
    return [entry["reward"] for entry in curves if "reward" in entry]


def test_what_is_published_is_the_best_validation(undisturbed, world, settings, curves) -> None:
    import torch

    from dig_ray.numerics.ranking import ndcg, rank_of_target
    from dig_ray.recommender.backbone import load_policy
    from dig_ray.recommender.decoding import BeamSearcher, pad_prompts
    from dig_ray.semantic_ids.prefix_table import build_prefix_table
    from dig_ray.training.grpo_stage import build_job

    found = scores(curves(undisturbed))
    assert len(found) == 3 and max(found) > found[0]  # step 0, 10 and 20
    assert undisturbed.stats["helped"] and undisturbed.stats["valid_ndcg_at_10"] == max(found)
    policy, _, about = load_policy(undisturbed.out / "policy", world.sids)
    assert about["normalizer"] == "trie"
    table = build_prefix_table(world.sids.codes, world.sids.suffix, world.sids.sizes, world.sids.n_suffix)
    job = build_job(settings.grpo, world.dataset, world.sids, undisturbed.out / "policy", 0)
    ids, lengths = pad_prompts(job.valid_prompts, policy.pad)
    beams = BeamSearcher(policy, table, 10).search(torch.from_numpy(ids), torch.from_numpy(lengths))
    ranks = rank_of_target(beams.items.numpy(), job.valid_targets)
    assert float(ndcg(ranks, 10).mean()) == pytest.approx(max(found), abs=1e-6)
    assert any("prompts/s" in line for line in undisturbed.lines)


def test_two_workers_and_a_death_are_one_worker(
    undisturbed, start, make_stage, curves, kill_a_worker_after_a_checkpoint
) -> None:
    """Eight prompts a step on one worker or four on each of two, one of which is killed once a checkpoint is there."""
    apart = make_stage("apart")
    with kill_a_worker_after_a_checkpoint(apart.work) as killed:
        start(apart, num_workers=2)
    assert killed
    assert scores(curves(apart)) == pytest.approx(scores(curves(undisturbed)), abs=2e-3)
    assert rewards(curves(apart)) == pytest.approx(rewards(curves(undisturbed)), abs=2e-3)


@pytest.mark.slow
def test_the_same_command_after_a_kill_ends_with_the_same_bytes(
    undisturbed, start, make_stage, curves, kill_a_worker_after_a_checkpoint
) -> None:
    """A worker killed between checkpoints: what was done after the last one is done again, exactly."""
    again = make_stage("killed")
    with kill_a_worker_after_a_checkpoint(again.work) as killed:
        start(again)
    assert killed
    assert scores(curves(again)) == scores(curves(undisturbed))
    assert rewards(curves(again)) == rewards(curves(undisturbed))
    files = [stage.out / "policy" / "model.safetensors" for stage in (again, undisturbed)]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.slow
def test_a_reward_that_fails_on_one_worker_ends_the_run_with_its_name(start) -> None:
    custom = {"tests.training.odd_rewards:not_a_number_on_rank_1": 1.0}
    with pytest.raises(
        UserError, match="odd_rewards:not_a_number_on_rank_1 is nan for rollout 0 of training row"
    ):
        start("odd", num_workers=2, rewards={"custom": custom})


@pytest.mark.slow
def test_a_rank_that_hangs_is_given_up(start, tmp_path, monkeypatch, curves, undisturbed) -> None:
    flag = tmp_path / "hung"
    monkeypatch.setenv("HANG_FLAG", str(flag))
    import ray

    ray.shutdown()  # workers get the environment of a Ray that starts now
    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    custom = {"tests.training.odd_rewards:hangs_once": 1.0}
    begun = time.monotonic()
    stage = start("hangs", num_workers=2, hang_seconds=15, rewards={"custom": custom})
    assert flag.exists() and time.monotonic() - begun < 300
    assert scores(curves(stage)) == pytest.approx(scores(curves(undisturbed)), abs=2e-3)


@pytest.mark.slow
def test_a_nan_loss_stops_with_the_step_and_its_batch(start, make_stage) -> None:
    with pytest.raises(UserError, match=r"the loss became NaN at step \d+ .*grpo\.learning_rate"):
        start("nan", learning_rate=1e30, max_grad_norm=1e30)


def test_other_semantic_ids_and_missing_quality_are_refused(
    world, settings, bad_start, make_stage, tmp_path
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from dig_ray.semantic_ids.sid_catalog import SidCatalog

    other = SidCatalog.from_codes(world.sids.item_ids, world.sids.codes[::-1].copy(), world.sids.sizes)
    (tmp_path / "sids").mkdir()
    other.save(tmp_path / "sids" / "semantic_ids.parquet")
    with pytest.raises(UserError, match="trained on Semantic IDs"):
        train_by_rewards(settings.grpo, make_stage("other"), world.catalog, tmp_path / "sids", bad_start)

    (tmp_path / "judged").mkdir()
    ids = world.dataset.item_ids.tolist()
    table = pa.table({"item_id": ids, "q": [None if n == 4 else 0.5 for n in range(len(ids))]})
    pq.write_table(table, tmp_path / "judged" / "quality.parquet")
    gated = GrpoConfig.model_validate(settings.grpo.model_dump() | {"rewards": {"quality": "gated"}})
    with pytest.raises(UserError, match=rf"1 of 30 items have no quality \(such as {ids[4]}\)"):
        train_by_rewards(
            gated,
            make_stage("unjudged"),
            world.catalog,
            world.semantic_ids,
            bad_start,
            {"judgements": tmp_path / "judged"},
        )
    large = GrpoConfig.model_validate(settings.grpo.model_dump() | {"num_generations": 31})
    with pytest.raises(UserError, match="num_generations=31: the catalogue has only 30 items"):
        train_by_rewards(large, make_stage("large"), world.catalog, world.semantic_ids, bad_start)
