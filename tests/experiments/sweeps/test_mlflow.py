"""A sweep in MLflow: a run for every trial, where it is installed; one sentence where it is not."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from dig_ray.errors import UserError
from dig_ray.experiments.sweeps.read_sweep import read_sweep
from dig_ray.experiments.sweeps.run_sweep import run_sweep
from dig_ray.experiments.sweeps.trials import Trials

CONFIGS = Path(__file__).parents[3] / "jobs" / "configs"
INSTALLED = importlib.util.find_spec("mlflow") is not None


def read(tmp_path: Path):
    return read_sweep(
        "demo", ["sft.epochs=choice(1, 2)", f"mlflow={tmp_path / 'logs'}", f"store={tmp_path}"], CONFIGS
    )


@pytest.mark.skipif(INSTALLED, reason="MLflow is here")
def test_without_it_one_sentence_before_anything_runs(tmp_path) -> None:
    with pytest.raises(UserError, match=r"pip install 'dig_ray\[mlflow\]'"):
        run_sweep(read(tmp_path), CONFIGS, print)
    assert not (tmp_path / "sft").exists()


@pytest.mark.skipif(not INSTALLED, reason="pip install 'dig_ray[mlflow]'")
def test_every_trial_is_a_run_with_its_config(tmp_path) -> None:
    from dig_ray.experiments.sweeps.mlflow_log import log_sweep, tracking

    sweep = read(tmp_path)
    rows = [
        {
            "name": f"trial{epochs}",
            "point": {"sft.epochs": epochs},
            "settings": [f"sft.epochs={epochs}"],
            "figures": {"eval_ndcg@10": epochs / 10},
            "fingerprint": "0" * 16,
            "curve": [{"epoch": 1.0, "eval_ndcg@10": 0.1}],
            "error": "",
        }
        for epochs in (1, 2)
    ]

    class Handle:
        fingerprint = "f" * 16

    log_sweep(sweep, {"trials": rows, "time": "epoch"}, Trials.of(sweep, CONFIGS), Handle())
    client, _ = tracking(str(sweep.mlflow))
    runs = client.search_runs([client.get_experiment_by_name(sweep.name).experiment_id])
    assert {run.data.params["sft.epochs"] for run in runs} == {"1", "2"}
    assert {run.data.metrics["eval_ndcg_at_10"] for run in runs} == {0.1, 0.2}
    assert all(client.list_artifacts(run.info.run_id)[0].path == "config.yaml" for run in runs)
    assert not Path("mlruns").exists()
