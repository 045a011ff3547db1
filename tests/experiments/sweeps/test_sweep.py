"""Sweeps on a real Ray: shared stages once, failures that end nothing, a second run that does nothing, a killed one that goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from dig_ray.config import load_config
from dig_ray.errors import UserError
from dig_ray.experiments.sweeps.read_sweep import read_sweep
from dig_ray.experiments.sweeps.run_sweep import run_sweep

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "jobs" / "configs"
TINY = [
    "catalog.demo={n_items: 60, n_users: 120, n_intents: 6}",
    "semantic_ids.codebook_size=8",
    "semantic_ids.rqvae={hidden: [32], latent: 8, epochs: 9, batch_size: 64}",
    "recommender.decoder={hidden_size: 16, num_layers: 1, num_heads: 2, ffn_size: 32}",
    "sft={epochs: 3, valid_users: 50, threads_per_worker: 1}",
    "baselines.run=[]",
]
NAN = "semantic_ids.rqvae.learning_rate=choice(0.001, 1.0e+30)"


def sweep(store: Path, *settings: str, **more):
    found = read_sweep("demo", [*TINY, f"store={store}", *settings], CONFIGS, **more)
    lines: list[str] = []
    return run_sweep(found, CONFIGS, lambda line: (lines.append(line), print(line))), lines


@pytest.fixture(scope="module")
def tokenizers(ray_here, tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    settings = (
        "semantic_ids.method=choice(residual_kmeans, rqvae)",
        "semantic_ids.levels=choice(2, 3)",
        NAN,
        "max_concurrent=4",
        "objectives={signal: min, codes: min}",
        "finalists={count: 1, settings: ['sft.epochs=1']}",
    )
    artifact, lines = sweep(store, *settings, target="semantic_ids", search="grid")
    return store, settings, artifact, lines


def test_trials_that_start_together_share_what_they_share(tokenizers) -> None:
    store, _, artifact, _ = tokenizers
    logs = {path.name: path.read_text() for path in (artifact.path / "logs" / "trials").glob("*.log")}
    assert len(logs) == 6  # k-means does not read the learning rate of an RQ-VAE
    made = [name for name, text in logs.items() if "embedding" in text and "done in" in text]
    assert len(list((store / "embedding").iterdir())) == 1
    assert (
        sum(
            text.count("] embedding") and "] embedding" in text and " texts, " in text
            for text in logs.values()
        )
        == 1
    ), made


def test_points_that_do_not_go_with_the_catalogue_are_no_trials(tmp_path) -> None:
    with pytest.raises(UserError) as caught:
        sweep(
            tmp_path,
            "semantic_ids.codebook_size=choice(64, 128)",
            "include_base=false",
            target="semantic_ids",
            search="grid",
        )
    text = str(caught.value)
    assert "semantic_ids.codebook_size asks for" in text and "the catalogue has 60 items" in text
    assert list(tmp_path.glob("catalog/*/manifest.json")) and not list(
        tmp_path.glob("embedding/*/manifest.json")
    )


def test_what_no_trial_can_do_without_is_said_before_the_first(tmp_path) -> None:
    with pytest.raises(UserError, match="embedding.model: there is no directory ./nowhere"):
        sweep(
            tmp_path,
            "embedding.model=./nowhere",
            "semantic_ids.levels=choice(2, 3)",
            target="semantic_ids",
            search="grid",
        )
    assert not list(tmp_path.glob("*/*/manifest.json"))


def test_a_failed_trial_says_why_and_ends_nothing(tokenizers) -> None:
    _, _, artifact, lines = tokenizers
    report = json.loads((artifact.path / "sweep.json").read_text())
    failed = [row for row in report["trials"] if row["error"]]
    assert len(failed) == 2 and all(
        row["point"]["semantic_ids.rqvae.learning_rate"] == 1e30 for row in failed
    )
    assert all("lower semantic_ids.rqvae.learning_rate" in row["error"] for row in failed)
    assert sum(row["complete"] for row in report["trials"]) == 4
    assert any("2 failed" in line for line in lines)
    traces = {path.name[:8] for path in (artifact.path / "logs" / "trials").glob("*.trace")}
    assert traces == {row["name"] for row in failed}
    curves = [
        row["curve"]
        for row in report["trials"]
        if row["point"]["semantic_ids.method"] == "rqvae" and row["complete"]
    ]
    assert all([one["epoch"] for one in curve] == list(range(1, 10)) for curve in curves)


def test_the_finalists_hold_the_base_run_and_the_winner_can_be_run(tokenizers) -> None:
    store, _, artifact, _ = tokenizers
    report = json.loads((artifact.path / "sweep.json").read_text())
    finalists = report["finalists"]
    assert 1 <= len(finalists) <= 2 and any(row["point"] == report["base"] for row in finalists)
    best = max(finalists, key=lambda row: row["figures"]["eval_ndcg@10"])
    assert report["winner"] == best["name"]
    config = load_config(str(artifact.path / "chosen.yaml"))
    assert config.semantic_ids.levels == best["point"]["semantic_ids.levels"]
    assert config.sft.epochs == 3  # the short SFT of finalists is not the run's
    assert yaml.safe_load((artifact.path / "chosen.yaml").read_text())["store"] == str(store)
    assert set(report["front"]) <= {row["name"] for row in report["trials"] if row["complete"]}
    assert list((artifact.path / "tensorboard").rglob("events.out.tfevents*"))


def test_the_page_has_every_trial_and_is_alone(tokenizers) -> None:
    _, _, artifact, _ = tokenizers
    page = (artifact.path / "sweep.html").read_text()
    report = json.loads((artifact.path / "sweep.json").read_text())
    assert all(row["name"] in page for row in report["trials"])
    assert "python jobs/pipeline.py demo" in page and "http" not in page.replace("http-equiv", "")
    assert "lower semantic_ids.rqvae.learning_rate" in page


def test_a_second_run_does_nothing(tokenizers) -> None:
    _, settings, artifact, _ = tokenizers
    begun = time.monotonic()
    again, lines = sweep(artifact.path.parents[1], *settings, target="semantic_ids", search="grid")
    assert again.path == artifact.path and time.monotonic() - begun < 10
    assert any("found" in line for line in lines) and not any("trials done" in line for line in lines)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_optuna_draws_only_what_is_possible(tmp_path) -> None:
    artifact, _ = sweep(
        tmp_path,
        "semantic_ids.levels=choice(2, 3)",
        "semantic_ids.codebook_size=choice(4, [4, 4], [8, 4, 4])",
        "semantic_ids.kmeans.iterations=randint(1, 8)",
        "objectives={signal: min, codes: min}",
        target="semantic_ids",
        search="optuna",
        samples=6,
    )
    report = json.loads((artifact.path / "sweep.json").read_text())
    assert len(report["trials"]) == 6 and all(row["complete"] for row in report["trials"])
    for row in report["trials"]:
        size = json.loads(str(row["point"]["semantic_ids.codebook_size"]))
        assert size == 4 or len(size) == row["point"]["semantic_ids.levels"]
    assert report["impossible"] > 0


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_all_trials_failing_is_one_sentence(tmp_path) -> None:
    with pytest.raises(UserError, match="none of 2 trials came to an end; the first says: .*learning_rate"):
        sweep(
            tmp_path,
            "semantic_ids.method=rqvae",
            "semantic_ids.rqvae.learning_rate=choice(1.0e+30, 1.0e+31)",
            "include_base=false",
            "retries=1",
            target="semantic_ids",
            search="grid",
        )
    assert not (tmp_path / "sweep").exists() or not list((tmp_path / "sweep").iterdir())


@pytest.mark.usefixtures("ray_here")
@pytest.mark.slow
def test_halving_saves_epochs_and_keeps_the_winner(tmp_path) -> None:
    settings = (
        "semantic_ids.codebook_size=choice(32, 2, 3, 16, 4, 5)",
        "semantic_ids.method=rqvae",
        "semantic_ids.rqvae.epochs=20",
        "include_base=false",
        "max_concurrent=2",
    )
    judged = {"target": "semantic_ids", "search": "grid"}
    whole, _ = sweep(tmp_path / "whole", *settings, **judged)
    halved, _ = sweep(tmp_path / "halved", *settings, "scheduler={grace: 2, reduction: 2}", **judged)
    full, short = (json.loads((one.path / "sweep.json").read_text()) for one in (whole, halved))
    assert short["winner"] == full["winner"]
    spent = [sum(len(row["curve"]) for row in report["trials"]) for report in (full, short)]
    assert spent[0] == 120 and spent[1] < 100 and any(row["stopped"] for row in short["trials"])
    kept = next(row for row in short["trials"] if row["name"] == short["winner"])
    assert kept["complete"] and len(kept["curve"]) == 20


@pytest.mark.slow
def test_killed_and_started_again_it_ends_as_if_nothing_had_been(tmp_path) -> None:
    for name in ("dig_ray", "jobs"):  # an edit during these minutes would rightly change fingerprints
        shutil.copytree(ROOT / name, tmp_path / name)
    store = tmp_path / "store"
    command = [sys.executable, "jobs/sweep.py", "demo", *TINY, f"store={store}", "target=semantic_ids"]
    command += [
        "semantic_ids.levels=choice(1, 2, 3)",
        "semantic_ids.method=rqvae",
        "semantic_ids.rqvae.epochs=400",
    ]
    command += ["semantic_ids.rqvae.checkpoint_seconds=1", "--search", "grid", "max_concurrent=1"]
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    run = {"cwd": tmp_path, "env": env | {"PYTHONPATH": str(tmp_path)}, "text": True}
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **run)
    deadline = time.monotonic() + 240
    while not list((store / "semantic_ids").glob("*/manifest.json")):
        assert first.poll() is None and time.monotonic() < deadline, first.communicate()[0]
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert not (store / "sweep").exists()
    done = {path: path.stat().st_mtime for path in (store / "semantic_ids").glob("*/manifest.json")}
    again = subprocess.run(command, capture_output=True, timeout=400, check=False, **run)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "going on with the trials of an earlier try" in again.stdout
    report = json.loads(next((store / "sweep").glob("*/sweep.json")).read_text())
    assert len(report["trials"]) == 3 and all(row["complete"] for row in report["trials"])
    assert all(path.stat().st_mtime == at for path, at in done.items())
    assert len(list((store / "semantic_ids").iterdir())) == 3


@pytest.mark.slow
def test_a_baseline_is_tuned_like_any_other_model(ray_here, tmp_path) -> None:
    settings = (
        "baselines={run: [sasrec], sasrec: {width: 16, max_epochs: 6, num_cpus: 1}}",
        "baselines.sasrec.learning_rate=choice(0.00001, 0.01)",
    )
    settings += ("scheduler={grace: 2, reduction: 2}", "include_base=false")
    artifact, lines = sweep(tmp_path, *settings, target="baselines", search="grid")
    rows = json.loads((artifact.path / "sweep.json").read_text())["trials"]
    scores = {row["point"]["baselines.sasrec.learning_rate"]: row["figures"]["eval_ndcg@10"] for row in rows}
    assert scores[0.01] > 2 * scores[0.00001], lines
    whole = next(
        row for row in rows if row["complete"] and row["point"]["baselines.sasrec.learning_rate"] == 0.01
    )
    assert [entry["epoch"] for entry in whole["curve"]] == [1, 2, 3, 4, 5, 6]
    assert max(entry["eval_ndcg@10"] for entry in whole["curve"]) == pytest.approx(scores[0.01])


def test_which_baseline_is_judged_has_to_be_said(tmp_path) -> None:
    settings = ("baselines.run=[popularity, item_knn]", "baselines.item_knn.damping=uniform(1, 9)")
    with pytest.raises(
        UserError, match=r"judges one baseline, and baselines.run has 2; add baselines.run=\[sasrec\]"
    ):
        sweep(tmp_path, *settings, target="baselines", samples=2)
