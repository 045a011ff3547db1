"""A finished sweep in MLflow: a run for every trial, with its parameters, figures, curve, config and artifact."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dig_ray.base import Stage
from dig_ray.config import to_yaml
from dig_ray.errors import UserError
from dig_ray.experiments.sweeps.config import SweepConfig
from dig_ray.experiments.sweeps.trials import Trials


def log_sweep(sweep: SweepConfig, report: Mapping[str, Any], trials: Trials, stage: Stage) -> None:
    """Write every trial of a report to ``sweep.mlflow``.

    Raises:
        UserError: MLflow is not installed.
    """
    client, artifacts = tracking(str(sweep.mlflow))
    found = client.get_experiment_by_name(sweep.name)
    experiment = (
        found.experiment_id
        if found is not None
        else client.create_experiment(sweep.name, artifact_location=artifacts)
    )
    for row in report["trials"]:
        run = client.create_run(
            experiment,
            run_name=row["name"],
            tags={"target": sweep.target, "fingerprint": row["fingerprint"], "sweep": stage.fingerprint},
        ).info.run_id
        for setting in row["settings"]:
            key, _, value = setting.partition("=")
            client.log_param(run, key, value)
        for name, value in row["figures"].items():
            client.log_metric(run, name.replace("@", "_at_"), value)
        for entry in row["curve"]:
            at = int(entry[report["time"]])
            for name, value in entry.items():
                if name != report["time"]:
                    client.log_metric(run, f"curve/{name.replace('@', '_at_')}", value, step=at)
        client.log_text(run, to_yaml(trials.config(row["point"])), "config.yaml")
        client.set_terminated(run, "FAILED" if row["error"] else "FINISHED")


def tracking(where: str) -> tuple[Any, str | None]:
    """A client of a tracking URI and where its artifacts go, None for where the server puts them; a folder holds both in files.

    Raises:
        UserError: MLflow is not installed.
    """
    try:
        from mlflow import MlflowClient
    except ImportError:
        raise UserError(
            "mlflow: the package is not installed; pip install 'dig_ray[mlflow]', or remove mlflow"
        ) from None
    if "://" in where:
        return MlflowClient(where), None
    folder = Path(where).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return MlflowClient(f"sqlite:///{folder / 'mlflow.db'}"), (folder / "artifacts").as_uri()
