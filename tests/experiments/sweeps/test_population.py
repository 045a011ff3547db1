"""Population based training: who takes up whom, a winner that can be trained again from nothing, and one that is killed on the way."""

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
from hypothesis import given
from hypothesis import strategies as st

from dig_ray.config import load_config
from dig_ray.errors import UserError
from dig_ray.experiments.sweeps.config import PbtConfig
from dig_ray.experiments.sweeps.legs import changes_of, now
from dig_ray.experiments.sweeps.population import changed, next_members
from dig_ray.experiments.sweeps.read_sweep import read_sweep
from dig_ray.experiments.sweeps.run_sweep import run_sweep
from dig_ray.experiments.sweeps.space import Draws, canonical, parse_range
from dig_ray.pipeline import run_pipeline
from tests.experiments.sweeps.test_sweep import CONFIGS, ROOT, TINY, sweep

SPACE = {
    "sft.learning_rate": parse_range("", "loguniform(1e-4, 1e-1)"),
    "sft.weight_decay": parse_range("", "choice(0.0, 0.01, 0.1, 0.3)"),
    "sft.label_smoothing": parse_range("", "quniform(0, 0.4, 0.05)"),
}


def draws() -> Draws:
    return Draws(SPACE, lambda point: "", canonical)


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_values_stay_in_their_space_through_any_number_of_changes(seed, resample) -> None:
    rng = np.random.default_rng(seed)
    point = {key: one.draw(rng) for key, one in SPACE.items()}
    for time_ in range(1, 6):
        held = now(point, "sft")
        point = changed(point, SPACE, resample, "sft", time_, rng)
        for key, value in now(point, "sft").items():
            assert SPACE[key].holds(value)
            if resample == 0 and key == "sft.learning_rate":
                near = min(max(0.8 * held[key], 1e-4), 0.1), min(max(1.2 * held[key], 1e-4), 0.1)
                assert min(abs(value - one) for one in near) < 1e-12
        assert set(changes_of(point, "sft")) <= set(range(1, time_ + 1))


@given(st.integers(2, 12), st.floats(0.05, 0.5), st.integers(0, 999), st.data())
def test_the_worst_and_the_failed_take_up_the_best(size, quantile, seed, data) -> None:
    rng = np.random.default_rng(seed)
    points = [{key: one.draw(rng) for key, one in SPACE.items()} for _ in range(size)]
    complete = data.draw(st.lists(st.booleans(), min_size=size, max_size=size).filter(any))
    rows = [
        {
            "name": f"m{i}",
            "point": point,
            "complete": fine,
            "figures": {"eval_ndcg@10": float(i)} if fine else {},
        }
        for i, (point, fine) in enumerate(zip(points, complete, strict=True))
    ]
    pbt = PbtConfig(interval=1, quantile=quantile)
    members, copied = next_members(rows, {"eval_ndcg@10": "max"}, pbt, draws(), "sft", 3, rng)
    assert len(members) == len(copied) == size and len({canonical(m) for m in members}) == size
    count = max(1, int(size * quantile))
    alive = [i for i in range(size) if complete[i]]
    best = alive[-count:]
    for i, (member, parent) in enumerate(zip(members, copied, strict=True)):
        if i in best:
            assert member == points[i] and not parent
        if not complete[i] or (i in alive[:count] and i not in best):
            assert parent and any(all(member[k] == points[b][k] for k in SPACE) for b in best)
            assert set(changes_of(member, "sft")) == {3}
        elif i not in alive[:count]:
            assert member == points[i] and not parent


PBT = ("sft.learning_rate=loguniform(1e-4, 1e-1)", "sft.weight_decay=choice(0.0, 0.05, 0.3)")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["pbt={interval: 1}", "target=semantic_ids"], "set target to sft or grpo"),
        (["pbt={interval: 1}", "target=grpo"], "pbt.generations: how many steps RL has is not known"),
        (["pbt={interval: 1}", "scheduler={grace: 1}"], "remove scheduler, or pbt"),
        (["pbt={interval: 1}", "search=optuna"], "remove search: optuna, or pbt"),
        (["pbt={interval: 1}", "samples=1"], "samples=1 has nobody to learn from"),
        (["pbt={interval: 3}"], "do not fit the 3 epochs of sft"),
        (
            ["pbt={interval: 3}", "sft.eval_every_epochs=2"],
            "pbt.interval=3 is no multiple of sft.eval_every_epochs=2",
        ),
        (
            ["pbt={interval: 1}", "semantic_ids.levels=choice(2, 3)"],
            "semantic_ids.levels cannot change while",
        ),
    ],
)
def test_what_makes_no_population_is_one_sentence(tmp_path, settings, sentence) -> None:
    with pytest.raises(UserError, match=sentence):
        run_sweep(read_sweep("demo", [*TINY, f"store={tmp_path}", *PBT, *settings], CONFIGS), CONFIGS, print)
    assert not (tmp_path / "sweep").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_the_winner_trained_again_from_nothing_is_the_winner(tmp_path) -> None:
    artifact, lines = sweep(
        tmp_path, *PBT, "include_base=false", "pbt={interval: 1, generations: 2, quantile: 0.5}", samples=2
    )
    report = json.loads((artifact.path / "sweep.json").read_text())
    first, last = report["generations"]
    assert [g["until"] for g in report["generations"]] == [1, None]
    worse = min(range(2), key=lambda i: first["members"][i]["figure"])
    assert last["members"][worse]["copied"] == first["members"][1 - worse]["name"]
    assert [len(row["curve"]) for row in report["trials"]] == [3, 3]
    shared = [row["curve"][0] for row in report["trials"]]
    assert shared[0] == shared[1]  # of two members one took up the other
    assert any("generation 2 of 2, epoch 1 to the end" in line for line in lines)
    winner = next(row for row in report["trials"] if row["name"] == report["winner"])
    chosen = load_config(str(artifact.path / "chosen.yaml"))
    done = run_pipeline(chosen, only="sft", log=lambda line: None)
    assert done["sft"].stats["valid_ndcg_at_10"] == winner["figures"]["eval_ndcg@10"]
    curves = json.loads((done["sft"].path / "curves.json").read_text())
    found = [entry["eval_ndcg@10"] for entry in curves if "eval_ndcg@10" in entry]
    assert found == [entry["eval_ndcg@10"] for entry in winner["curve"]]
    page = (artifact.path / "sweep.html").read_text()
    assert all(member["name"] in page for g in report["generations"] for member in g["members"])


@pytest.mark.slow
def test_killed_in_a_later_generation_it_ends_as_if_nothing_had_been(tmp_path) -> None:
    for name in ("dig_ray", "jobs"):  # an edit during these minutes would rightly change fingerprints
        shutil.copytree(ROOT / name, tmp_path / name)

    def command(store: Path) -> list[str]:
        more = [*TINY, *PBT, f"store={store}", "pbt={interval: 1}", "--samples", "4"]
        return [sys.executable, "jobs/sweep.py", "demo", *more]

    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    run = {"cwd": tmp_path, "env": env | {"PYTHONPATH": str(tmp_path)}, "text": True}
    first = subprocess.Popen(
        command(tmp_path / "killed"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **run
    )
    deadline = time.monotonic() + 400
    while not list((tmp_path / "killed").glob(".work/sweep-*/generation-02/*/result.json")):
        assert first.poll() is None and time.monotonic() < deadline, first.communicate()[0]
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    reports = []
    for store in (tmp_path / "killed", tmp_path / "whole"):
        done = subprocess.run(command(store), capture_output=True, timeout=900, check=False, **run)
        assert done.returncode == 0, done.stdout + done.stderr
        reports.append(json.loads(next((store / "sweep").glob("*/sweep.json")).read_text()))
        if store.name == "killed":
            assert "generation 1 of" not in done.stdout
    assert reports[0]["generations"] == reports[1]["generations"]
    assert reports[0]["winner"] == reports[1]["winner"]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_rewards_of_a_population(tmp_path) -> None:
    artifact, _ = sweep(
        tmp_path,
        "target=grpo",
        "grpo.rewards.lambda_pref=uniform(0, 0.6)",
        "grpo.beta=loguniform(1e-4, 1e-1)",
        "grpo={max_prompts: 64, prompts_per_step: 8, num_generations: 4, eval_every_steps: 2, valid_users: 40, threads_per_worker: 1}",
        "pbt={interval: 2, generations: 3}",
        samples=3,
    )
    report = json.loads((artifact.path / "sweep.json").read_text())
    assert [g["until"] for g in report["generations"]] == [2, 4, None]
    assert all(row["complete"] and row["curve"][-1]["step"] == 8 for row in report["trials"])
    winner = next(row for row in report["trials"] if row["name"] == report["winner"])
    chosen = load_config(str(artifact.path / "chosen.yaml"))
    done = run_pipeline(chosen, only="grpo", log=lambda line: None)
    curves = json.loads((done["grpo"].path / "curves.json").read_text())
    found = [entry["eval_ndcg@10"] for entry in curves if "eval_ndcg@10" in entry]
    assert found == [entry["eval_ndcg@10"] for entry in winner["curve"]]
