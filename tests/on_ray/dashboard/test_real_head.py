"""On a real Ray head: the metrics endpoint has the figures of the artifacts, under bounded tags, and names a person can read."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from dig_ray.catalog.dataset import Dataset
from dig_ray.config import load_config
from dig_ray.on_ray.dashboard import scrape
from dig_ray.on_ray.session import RayConfig, RaySession
from dig_ray.on_ray.telemetry import METRICS
from dig_ray.pipeline import run_pipeline
from dig_ray.stages import STAGES

ROOT = Path(__file__).parents[3]
TINY = [
    "catalog.demo={n_items: 60, n_users: 120, n_intents: 6}",
    "mining.items=[{engine: keyphrase}]",
    "embedding.fields=[title, description, interests]",
    "semantic_ids={method: rqvae, codebook_size: 8}",
    "semantic_ids.rqvae={hidden: [32], latent: 8, epochs: 9, batch_size: 64}",
    "recommender.decoder={hidden_size: 16, num_layers: 1, num_heads: 2, ffn_size: 32}",
    "sft={epochs: 3, valid_users: 50, threads_per_worker: 1}",
    "grpo={max_prompts: 32, prompts_per_step: 8, epochs: 1, num_generations: 4, eval_every_steps: 2, valid_users: 50}",
    "grpo.threads_per_worker=1",
    "evaluation.batch_size=50",
    "baselines.run=[popularity]",
]
VALUES = {
    "stage": {spec.name for spec in STAGES},
    "outcome": {"made", "found", "failed"},
    "miner": {"keyphrase"},
    "status": {"ok", "failed"},
    "reason": {"no_phrase"},
    "direction": {"in", "out"},
    "level": {"1", "2", "3"},
    "unit": {"tokens", "prompts"},
    "component": {"exact", "prefix", "quality", "rank", "valid", "interest"},
    "form": {"raw", "weighted"},
    "phase": {"rollouts", "rewards"},
    "recommender": {"policy", "policy_sft", "popularity"},
    "seen": {"allowed", "left_out"},
    "metric": {f"{name}@{k}" for name in ("HR", "NDCG", "MRR", "Recall") for k in (1, 3, 5, 10, 20, 50)},
}
"""All that a tag may be in such a run."""

Figures = dict[tuple[str, ...], float]


def figures() -> Figures:
    """(metric, tag values...) -> the sum over processes of counters and histograms, the value of gauges."""
    found: Figures = {}
    for sample in scrape.now(scrape.endpoints()):
        key = sample.name, *(value for _, value in sample.tags)
        gauge = METRICS.get(sample.name) is not None and METRICS[sample.name].kind == "gauge"
        found[key] = sample.value if gauge else found.get(key, 0.0) + sample.value
    return found


def until(there: Callable[[Figures], bool]) -> Figures:
    """What is exported once a condition holds: processes report every 10 s."""
    deadline = time.monotonic() + 40
    while not there(found := figures()):
        assert time.monotonic() < deadline, sorted(found)
        time.sleep(0.5)
    return found


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A Ray with its dashboard, and the artifacts up to Semantic IDs."""
    import ray

    store = tmp_path_factory.mktemp("store")
    config = load_config("demo", [*TINY, f"store={store}"], ROOT / "jobs" / "configs")
    said: list[str] = []
    with RaySession(RayConfig(dashboard=True, linger=0.5), said.append) as session:
        session.start()
        done = run_pipeline(config, until="semantic_ids")
        yield SimpleNamespace(
            config=config, done=done, store=store, address=ray.get_runtime_context().gcs_address
        )
    assert said[-1] == "for the dashboard's last figures Ray stays up for 0.5 s (ray.linger)"


def raw() -> str:
    return "".join(urllib.request.urlopen(one, timeout=10).read().decode() for one in scrape.endpoints())


def test_figures_are_those_of_the_artifacts(head) -> None:
    found = until(lambda now: ("dig_stage_rows", "semantic_ids") in now)
    for name, artifact in head.done.items():
        assert found["dig_stage_rows", name] == artifact.stats["rows"]
        assert found["dig_stage_seconds", name] == pytest.approx(artifact.manifest["seconds"])
        assert found["dig_stage_artifacts", name, "made"] == 1
    assert found["dig_stage_running", "embedding"] == 0
    quality = json.loads((head.done["semantic_ids"].path / "sid_quality.json").read_text())
    assert found["dig_semantic_ids_collision_ratio",] == pytest.approx(
        quality["collisions"]["collision_rate"]
    )
    for number, (usage, prefix) in enumerate(zip(quality["levels"], quality["prefixes"], strict=True), 1):
        level = str(number)
        assert found["dig_semantic_ids_codes_used_ratio", level] == pytest.approx(usage["share_used"])
        assert found["dig_semantic_ids_perplexity_codes", level] == pytest.approx(usage["perplexity"])
        assert found["dig_semantic_ids_error_ratio", level] == pytest.approx(prefix["error_over_variance"])
    assert found["dig_rqvae_epochs",] == 9 and found["dig_rqvae_loss",] > 0
    asked = head.done["item_interests"].stats["miners"]["keyphrase"]["all"]
    assert found["dig_mining_rows", "item_interests", "keyphrase", "ok"] == asked["ok"] == 60
    distinct = [value for key, value in found.items() if key[0] == "dig_stage_progress_rows"]
    assert distinct == [60]


def test_tags_are_bounded_and_name_no_item_user_or_place(head) -> None:
    samples = scrape.now(scrape.endpoints())
    assert samples
    for sample in samples:
        for tag, value in sample.tags:
            assert value in VALUES[tag], (sample.name, tag, value)
    dataset = Dataset.load(head.done["catalog"].path)
    ours = [line for line in raw().splitlines() if line.startswith("ray_dig_")]
    labels = {value for line in ours for value in re.findall(r'="([^"]*)"', line)}
    assert not labels & (set(dataset.item_ids.tolist()) | set(dataset.user_ids.tolist()))
    assert not any(str(head.store) in label for label in labels)


def test_operators_datasets_and_actors_carry_names_a_person_can_read(head) -> None:
    from ray.util.state import list_actors

    lines = [line for line in raw().splitlines() if line.startswith("ray_data_")]
    seen = {
        (dataset.rsplit("_", 2)[0], operator.rsplit("_", 1)[0])
        for line in lines
        for dataset in re.findall(r'dataset="([^"]*)"', line)
        for operator in re.findall(r'operator="([^"]*)"', line)
    }
    assert ("item_interests", "MapBatches(Mine(keyphrase))") in seen
    assert ("embedding", "MapBatches(EncodeTexts)") in seen
    assert not any("lambda" in name or "Worker)" in name for _, name in seen)
    actors = {actor.class_name for actor in list_actors(address=head.address, limit=1000)}
    assert {"MapWorker(MapBatches(EncodeTexts))", "MiningBoard"} <= actors


def run_job(head, *options: str) -> subprocess.CompletedProcess[str]:
    """As from another terminal, whose environment does not know that this Ray keeps to 127.0.0.1."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    env.pop("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", None)
    return subprocess.run(
        [sys.executable, "jobs/dashboard.py", "--address", head.address, *options],
        cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_one_command_puts_the_panels_beside_rays_own(head) -> None:
    done = run_job(head)
    assert done.returncode == 0, done.stderr
    place = Path(re.search(r"^panels: (.*)$", done.stdout, re.MULTILINE).group(1))
    assert json.loads(place.read_text())["title"] == "dig_ray"
    assert (place.parent / "train_grafana_dashboard.json").is_file()
    assert "--web.listen-address=127.0.0.1:9090" in done.stdout
    assert "http://127.0.0.1:3000/d/digRayDashboard" in done.stdout


def test_check_shows_the_figures_without_grafana(head) -> None:
    done = run_job(head, "--check")
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["dig_stage_rows", "semantic_ids", "60"] in lines
    assert ["dig_mining_rows", "item_interests", "keyphrase", "ok", "60"] in lines


@pytest.mark.slow
def test_training_decoding_and_evaluation_are_told_too(head) -> None:
    over, runs = threading.Event(), set()

    def watch() -> None:  # what Ray Train says of a run ends with it
        while not over.wait(1):
            runs.update(re.findall(r'ray_train_run_name="([^"]*)"', raw()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        done = run_pipeline(head.config)
    finally:
        over.set()
        watcher.join()
    found = until(lambda now: ("dig_stage_rows", "report") in now)
    for name in ("catalog", "embedding", "semantic_ids"):
        assert found["dig_stage_artifacts", name, "found"] >= 1
    for name, unit in (("sft", "tokens"), ("grpo", "prompts")):
        log = json.loads((done[name].path / "curves.json").read_text())
        last = [entry for entry in log if "eval_ndcg@10" in entry][-1]
        assert found["dig_training_valid_ndcg", name] == pytest.approx(last["eval_ndcg@10"])
        assert found["dig_training_valid_hit_rate", name] == pytest.approx(last["eval_hr@10"])
        assert found["dig_training_best_ndcg", name] == pytest.approx(done[name].stats["valid_ndcg_at_10"])
        loss = [entry["loss"] for entry in log if "loss" in entry][-1]
        assert found["dig_training_loss", name] == pytest.approx(loss)
        assert found["dig_training_units_per_second", name, unit] > 0
        assert found["dig_training_steps", name] == max(entry["step"] for entry in log)
    assert found["dig_rqvae_epochs",] == 9  # set once, long ago: Ray alone would have forgotten it
    tokens = 3 * done["sft"].stats["useful_tokens_per_epoch"]
    assert found["dig_training_units", "sft", "tokens"] == pytest.approx(tokens)
    assert found["dig_training_units", "grpo", "prompts"] == 32
    rewards = [entry for entry in log if "reward" in entry][-1]
    assert found["dig_grpo_reward",] == pytest.approx(rewards["reward"])
    assert found["dig_grpo_entropy",] == pytest.approx(rewards["entropy"])
    parts = {entry.split("/")[1] for entry in rewards if entry.startswith("rewards/")}
    assert parts == {key[1] for key in found if key[0] == "dig_grpo_reward_component"} != set()
    for part in parts:
        for form in ("raw", "weighted"):
            value = rewards[f"rewards/{part}/{form}"]
            assert found["dig_grpo_reward_component", part, form] == pytest.approx(value)
    results = json.loads((done["evaluation"].path / "metrics.json").read_text())["results"]
    for recommender, rules in results.items():
        for rule, shown in (("seen", "allowed"), ("unseen", "left_out")):
            for metric, value in rules[rule]["metrics"].items():
                assert found["dig_evaluation_score", recommender, shown, metric] == pytest.approx(
                    value["mean"]
                )
    for name in ("recommend", "recommend_sft"):
        assert found["dig_decode_users", name] == done[name].stats["rows"] == 120
        assert found["dig_decode_batch_seconds_count", name] == 3
        assert 0 < found["dig_decode_batch_seconds_sum", name] < done[name].manifest["seconds"]
    test_tags_are_bounded_and_name_no_item_user_or_place(head)
    assert {f"{name}-{done[name].fingerprint}" for name in ("sft", "grpo")} == runs


@pytest.mark.slow
def test_a_sweeps_trials_are_told_by_state(head) -> None:
    from dig_ray.experiments.sweeps.read_sweep import read_sweep
    from dig_ray.experiments.sweeps.run_sweep import run_sweep

    configs = ROOT / "jobs" / "configs"
    settings = [*TINY, f"store={head.store}", "semantic_ids.rqvae.epochs=choice(3, 4)", "include_base=false"]
    sweep = read_sweep("demo", settings, configs, target="semantic_ids", search="grid")
    artifact = run_sweep(sweep, configs, print)
    found = until(lambda now: now.get(("dig_sweep_trials", "done")) == 2)
    assert [found["dig_sweep_trials", state] for state in ("running", "failed", "waiting")] == [0, 0, 0]
    report = json.loads((artifact.path / "sweep.json").read_text())
    (figure, way), *_ = report["directions"].items()
    values = [row["figures"][figure] for row in report["trials"]]
    assert found["dig_sweep_best", figure] == pytest.approx(max(values) if way == "max" else min(values))
