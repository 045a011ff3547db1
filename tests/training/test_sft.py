"""SFT on real Ray Train: one worker or two, killed or not, the result is the same."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dig_ray.errors import UserError
from dig_ray.training.sft_stage import fine_tune


def _scores(curves):
    return [h["eval_ndcg@10"] for h in curves if "eval_ndcg@10" in h]


def _losses(curves):
    return [(h["step"], h["loss"]) for h in curves if "loss" in h]


@pytest.fixture(scope="module")
def one_worker(world, settings, make_stage, ray_cluster):
    stage = make_stage("one")
    fine_tune(settings.sft, settings.recommender, stage, world.catalog, world.semantic_ids)
    return stage


@pytest.mark.slow
def test_a_published_policy_is_whole_and_reads_back(one_worker, world, curves):
    from dig_ray.recommender.backbone import load_policy

    policy, _, about = load_policy(one_worker.out / "policy", world.sids)
    assert not policy.model.training
    assert about["normalizer"] == "trie" and about["levels"] == 2 and about["max_history"] == 8
    names = {p.name for p in (one_worker.out / "policy").iterdir()}
    assert {"model.safetensors", "config.json", "policy.json", "tokenizer.json"} <= names
    assert not {n for n in names if n.endswith((".pt", ".pth", ".bin"))}  # nothing that has to be unpickled
    log = curves(one_worker)
    losses = _losses(log)
    assert losses[-1][1] < losses[0][1]
    assert one_worker.stats["epochs_trained"] == 3 and one_worker.stats["valid_users"] == 70
    assert one_worker.stats["valid_ndcg_at_10"] == max(_scores(log))
    assert any("best validation" in line for line in one_worker.lines)


@pytest.mark.slow
def test_what_is_published_is_the_best_validation(one_worker, world, settings):
    """Decoding the validation users with the published policy gives the recorded figure."""
    import torch

    from dig_ray.numerics.ranking import ndcg, rank_of_target
    from dig_ray.recommender.backbone import load_policy
    from dig_ray.recommender.decoding import BeamSearcher, pad_prompts
    from dig_ray.training.sft_stage import build_job

    job = build_job(settings.sft, settings.recommender, world.dataset, world.sids, seed=7)
    policy, _, about = load_policy(one_worker.out / "policy", world.sids)
    ids, lengths = pad_prompts(job.valid_prompts, policy.pad)
    found = BeamSearcher(policy, job.table, 10, about["normalizer"]).search(
        torch.from_numpy(ids), torch.from_numpy(lengths)
    )
    ranks = rank_of_target(found.items.numpy(), job.valid_targets)
    assert ndcg(ranks, 10).mean() == pytest.approx(one_worker.stats["valid_ndcg_at_10"], abs=1e-6)


@pytest.mark.slow
def test_two_workers_of_half_the_rows_learn_the_same(one_worker, world, settings, make_stage, curves):
    stage = make_stage("two")
    sft = settings.sft.model_copy(update={"num_workers": 2})
    fine_tune(sft, settings.recommender, stage, world.catalog, world.semantic_ids)
    one, two = curves(one_worker), curves(stage)
    assert [s for s, _ in _losses(one)] == [s for s, _ in _losses(two)]
    np.testing.assert_allclose([v for _, v in _losses(one)], [v for _, v in _losses(two)], atol=1e-4)
    np.testing.assert_allclose(_scores(one), _scores(two), atol=1e-4)


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced_and_nothing_is_lost(
    one_worker, world, settings, make_stage, curves, kill_a_worker_after_a_checkpoint
):
    stage = make_stage("death")
    with kill_a_worker_after_a_checkpoint(stage.work) as killed:
        fine_tune(settings.sft, settings.recommender, stage, world.catalog, world.semantic_ids)
    assert killed
    assert _losses(curves(stage)) == _losses(curves(one_worker))
    assert _scores(curves(stage)) == _scores(curves(one_worker))


SCRIPT = """
import sys
from pathlib import Path
from dig_ray.base import Stage
from dig_ray.recommender.config import RecommenderConfig
from dig_ray.training.config import SftConfig
from dig_ray.training.sft_stage import fine_tune

if __name__ == "__main__":
    catalog, sids, root, recommender, sft = sys.argv[1:]
    root = Path(root)
    out = root / "out"
    out.mkdir(exist_ok=True)
    stage = Stage("sft", "f" * 16, 7, out, str(root / "work"), log=lambda line: print(line, flush=True))
    fine_tune(SftConfig.model_validate_json(sft), RecommenderConfig.model_validate_json(recommender), stage, Path(catalog), Path(sids))
"""


@pytest.mark.slow
def test_killed_in_the_middle_the_same_command_ends_with_the_same_metrics(world, settings, tmp_path, request):
    """kill -9 of the whole run once a checkpoint is there; then the same command again."""
    script = tmp_path / "run_sft.py"
    script.write_text(SCRIPT)
    dropout = settings.recommender.decoder.model_copy(update={"dropout": 0.1, "embedding_dropout": 0.1})
    recommender = settings.recommender.model_copy(update={"decoder": dropout})
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}

    def start(root: Path) -> subprocess.Popen:
        root.mkdir(exist_ok=True)
        arguments = [world.catalog, world.semantic_ids, root, recommender.model_dump_json()]
        return subprocess.Popen(
            [sys.executable, str(script), *map(str, arguments), settings.sft.model_dump_json()],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def finish(*roots: Path) -> list[list[dict]]:
        for process in [start(root) for root in roots]:  # side by side
            said, _ = process.communicate(timeout=400)
            assert process.returncode == 0, said
        return [json.loads((root / "out" / "curves.json").read_text()) for root in roots]

    process = start(tmp_path / "killed")
    try:
        until = time.monotonic() + 600
        seen = tmp_path / "killed" / "work"
        while not list(seen.glob("sft-*/checkpoint_*/checkpoint/trainer_state.json")):
            assert process.poll() is None and time.monotonic() < until, process.stdout.read()
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "killed" / "out" / "curves.json").exists()
    resumed, whole = finish(tmp_path / "killed", tmp_path / "whole")
    assert _scores(resumed) == _scores(whole) and len(_scores(whole)) == 3
    assert _losses(resumed) == _losses(whole)
    policies = [tmp_path / d / "out" / "policy" / "model.safetensors" for d in ("killed", "whole")]
    assert policies[0].read_bytes() == policies[1].read_bytes()


@pytest.mark.slow
def test_a_nan_loss_stops_with_the_step_and_its_batch(world, settings, make_stage, ray_cluster):
    stage = make_stage("nan")
    sft = settings.sft.model_copy(
        update={"learning_rate": 1e30, "max_grad_norm": 1e30, "num_workers": 2, "warmup_steps": 0}
    )
    with pytest.raises(UserError, match=r"the loss became NaN at step \d+ .*sft\.learning_rate"):
        fine_tune(sft, settings.recommender, stage, world.catalog, world.semantic_ids)
    kept = sorted(Path(stage.work).glob("sft-*/failed/batch-rank*.npz"))
    assert len(kept) == 2
    batch = np.load(kept[0], allow_pickle=False)
    assert batch["input_ids"].shape == (2, 64) and "labels" in batch
    assert not list(stage.out.iterdir())


@pytest.mark.slow
def test_a_language_model_with_lora_trains_its_new_tokens(
    world, settings, make_stage, ray_cluster, language_model
):
    from transformers import AutoModelForCausalLM

    from dig_ray.recommender.backbone import load_policy
    from dig_ray.recommender.config import LoraConfig

    stage = make_stage("lora")
    recommender = settings.recommender.model_copy(
        update={
            "backbone": str(language_model["tied"]),
            "lora": LoraConfig(rank=4, dropout=0.0),
            "tasks": {"next_sid": 1.0, "title_to_sid": 1.0, "sid_to_title": 1.0},
        }
    )
    fine_tune(settings.sft, recommender, stage, world.catalog, world.semantic_ids)
    policy, tokenizer, about = load_policy(stage.out / "policy", world.sids)
    assert about["base_model"] == str(language_model["tied"])
    rows = policy.sid_rows().detach().numpy()
    assert rows.shape == (world.sids.n_tokens, 32)
    assert len(np.unique(rows.round(6), axis=0)) == len(rows)  # every new token went its own way
    old = (
        AutoModelForCausalLM.from_pretrained(language_model["tied"])
        .get_input_embeddings()
        .weight.detach()
        .numpy()
    )
    inner = policy.causal_lm.get_input_embeddings()
    np.testing.assert_array_equal(inner.original_module.weight.detach().numpy()[: len(old)], old)
    assert (stage.out / "policy" / "adapter_model.safetensors").exists()


def test_sids_of_another_catalogue_are_refused(world, settings, make_stage, tmp_path):
    from dig_ray.semantic_ids.sid_catalog import SidCatalog

    other = SidCatalog.from_codes([f"x{i}" for i in range(30)], world.sids.codes, world.sids.sizes)
    other.save(tmp_path / "semantic_ids.parquet")
    with pytest.raises(UserError, match="not those of this catalogue"):
        fine_tune(settings.sft, settings.recommender, make_stage("other"), world.catalog, tmp_path)


def test_a_row_too_short_for_a_history_is_refused(world, settings, make_stage):
    sft = settings.sft.model_copy(update={"row_length": 16})
    with pytest.raises(UserError, match=r"sft\.row_length=16: the longest document has \d+ tokens"):
        fine_tune(sft, settings.recommender, make_stage("short"), world.catalog, world.semantic_ids)


def test_a_history_longer_than_the_model_reads_is_refused(
    world, settings, make_stage, language_model, tmp_path
):
    folder = shutil.copytree(language_model["tied"], tmp_path / "short")
    about = json.loads((folder / "config.json").read_text()) | {"max_position_embeddings": 16}
    (folder / "config.json").write_text(json.dumps(about))
    recommender = settings.recommender.model_copy(update={"backbone": str(folder)})
    with pytest.raises(
        UserError, match=r"recommender\.max_history=8: the longest document has \d+ tokens, and .* reads 16"
    ):
        fine_tune(settings.sft, recommender, make_stage("short"), world.catalog, world.semantic_ids)


def test_a_backbone_that_cannot_be_loaded_is_one_sentence(world, settings, make_stage, tmp_path):
    recommender = settings.recommender.model_copy(update={"backbone": str(tmp_path / "nothing")})
    with pytest.raises(UserError, match=r"recommender\.backbone=.*could not be loaded"):
        fine_tune(settings.sft, recommender, make_stage("absent"), world.catalog, world.semantic_ids)
