"""The panel set as one table, and Grafana's JSON of it.

``dig_ray.json`` beside this file is what the table makes; ``python -m dig_ray.on_ray.dashboard.panels`` writes it anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dig_ray.on_ray.telemetry import METRICS, exported

FILE = Path(__file__).with_name("dig_ray.json")
UID = "digRayDashboard"
WIDTH, HEIGHT, PER_ROW = 8, 7, 3
SESSION = 'SessionName=~"$SessionName"'
WINDOW = "$__rate_interval"


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        title: above it.
        queries: (PromQL, legend) of each line.
        unit: the unit in Grafana's words.
        stat: whether the latest value is shown as a number.
        meaning: what hovering says.
    """

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    stat: bool = False
    meaning: str = ""


def _series(name: str, *where: str) -> str:
    return f"{name}{{{', '.join((SESSION, *where))}}}"


def _legend(tags: tuple[str, ...]) -> str:
    return " ".join(f"{{{{{tag}}}}}" for tag in tags)


def gauge(
    title: str, *names: str, unit: str = "short", where: tuple[str, ...] = (), stat: bool = False
) -> Panel:
    """Gauges as their processes have them: two trials that run at once are two lines."""
    queries = []
    for name in names:
        tags = METRICS[name].tags
        by = ", ".join((*tags, "WorkerId"))
        legend = _legend(tags) or "value"
        if len(names) > 1:
            legend = f"{name.removeprefix('dig_')} {_legend(tags)}".strip()
        queries.append((f"max by ({by}) ({_series(exported(name), *where)})", legend))
    meaning = "; ".join(METRICS[name].meaning for name in names)
    return Panel(title, tuple(queries), unit, stat, meaning)


def total(title: str, name: str, unit: str = "short", by: tuple[str, ...] | None = None) -> Panel:
    """A counter's sum over processes."""
    tags = METRICS[name].tags if by is None else by
    expression = f"sum by ({', '.join(tags)}) ({_series(exported(name))})"
    return Panel(title, ((expression, _legend(tags)),), unit, meaning=METRICS[name].meaning)


def rate(title: str, name: str, unit: str = "short", by: tuple[str, ...] | None = None) -> Panel:
    """A counter's growth a second."""
    tags = METRICS[name].tags if by is None else by
    expression = f"sum by ({', '.join(tags)}) (rate({_series(exported(name))}[{WINDOW}]))"
    return Panel(title, ((expression, _legend(tags)),), unit, meaning=f"{METRICS[name].meaning}, a second")


def quantiles(title: str, name: str, unit: str = "s") -> Panel:
    """The median and the 95th percentile of a histogram."""
    tags = METRICS[name].tags
    buckets = f"sum by (le, {', '.join(tags)}) (rate({_series(exported(name) + '_bucket')}[{WINDOW}]))"
    queries = tuple(
        (f"histogram_quantile({share}, {buckets})", f"{_legend(tags)} {word}")
        for share, word in ((0.5, "median"), (0.95, "95%"))
    )
    return Panel(title, queries, unit, meaning=METRICS[name].meaning)


def ray(title: str, expression: str, legend: str, unit: str = "short") -> Panel:
    """One of Ray's own metrics."""
    return Panel(title, ((expression, legend),), unit, meaning="exported by Ray")


_DECODE = "dig_decode_batch_seconds"

ROWS: dict[str, tuple[Panel, ...]] = {
    "Run": (
        gauge("Stages that run", "dig_stage_running"),
        total("Artifacts made, found and failed", "dig_stage_artifacts"),
        gauge("Seconds of each stage", "dig_stage_seconds", unit="s"),
        gauge("Rows of each artifact", "dig_stage_rows"),
        total("Rows done while a stage works", "dig_stage_progress_rows"),
        rate("Rows a second while a stage works", "dig_stage_progress_rows"),
    ),
    "Mining": (
        total("Rows answered and failed", "dig_mining_rows"),
        total("Failures by reason", "dig_mining_failures"),
        total("Money spent", "dig_mining_spend_usd", unit="currencyUSD"),
        rate("Tokens a second", "dig_mining_tokens"),
        total("Tokens", "dig_mining_tokens"),
        total("Requests", "dig_mining_calls"),
    ),
    "Semantic IDs": (
        gauge("Items that share a full code", "dig_semantic_ids_collision_ratio", unit="percentunit", stat=True),
        gauge("Codes used", "dig_semantic_ids_codes_used_ratio", unit="percentunit"),
        gauge("Perplexity of codes", "dig_semantic_ids_perplexity_codes"),
        gauge("Error over variance", "dig_semantic_ids_error_ratio", unit="percentunit"),
        gauge("RQ-VAE: loss by epoch", "dig_rqvae_loss", "dig_rqvae_error_ratio"),
        gauge("RQ-VAE: collisions and codes used", "dig_rqvae_collision_ratio", "dig_rqvae_codes_used_ratio", unit="percentunit"),
        gauge("RQ-VAE: epochs", "dig_rqvae_epochs"),
    ),
    "Training": (
        gauge("Loss", "dig_training_loss"),
        gauge("Validation NDCG@10, and of the policy published", "dig_training_valid_ndcg", "dig_training_best_ndcg"),
        gauge("Validation HR@10", "dig_training_valid_hit_rate"),
        gauge("Tokens or prompts a second", "dig_training_units_per_second"),
        total("Tokens or prompts", "dig_training_units"),
        gauge("Epochs", "dig_training_epochs"),
        gauge("Steps", "dig_training_steps"),
        gauge("Learning rate", "dig_training_learning_rate"),
        gauge("Gradient norm", "dig_training_gradient_norm"),
        gauge("Seconds of a validation", "dig_training_valid_seconds", unit="s"),
    ),
    "Reinforcement learning": (
        gauge("Reward", "dig_grpo_reward", "dig_grpo_reward_std"),
        gauge("Rewards, weighted", "dig_grpo_reward_component", where=('form="weighted"',)),
        gauge("Rewards, raw", "dig_grpo_reward_component", where=('form="raw"',)),
        gauge("KL from the SFT policy", "dig_grpo_kl"),
        gauge("Entropy", "dig_grpo_entropy"),
        gauge("Clipped, and outside without the mask", "dig_grpo_clip_ratio", "dig_grpo_outside_ratio", unit="percentunit"),
        gauge("Groups: all rewards equal, target found", "dig_grpo_flat_groups_ratio", "dig_grpo_hit_groups_ratio", unit="percentunit"),
        gauge("Rollouts that are no item", "dig_grpo_invalid_ratio", unit="percentunit"),
        gauge("Seconds of a step", "dig_grpo_phase_seconds", unit="s"),
    ),
    "Decoding and evaluation": (
        quantiles("Seconds of a batch", _DECODE),
        Panel(
            "Seconds of a user",
            (
                (
                    f"sum by (stage) (rate({_series(exported(_DECODE) + '_sum')}[{WINDOW}])) / "
                    f"sum by (stage) (rate({_series(exported('dig_decode_users'))}[{WINDOW}]))",
                    "{{stage}}",
                ),
            ),
            "s",
            meaning="seconds of all batches over users",
        ),
        total("Users decoded", "dig_decode_users"),
        gauge("NDCG@10 on test, seen items left out", "dig_evaluation_score", where=('seen="left_out"', 'metric="NDCG@10"')),
        gauge("NDCG@10 on test, seen items allowed", "dig_evaluation_score", where=('seen="allowed"', 'metric="NDCG@10"')),
        gauge("HR@10 on test, seen items left out", "dig_evaluation_score", where=('seen="left_out"', 'metric="HR@10"')),
        gauge("Users with a short list", "dig_decode_short_lists"),
        gauge("Free beams that are no item", "dig_decode_unconstrained_invalid_ratio", unit="percentunit"),
    ),
    "Sweep": (
        gauge("Trials", "dig_sweep_trials"),
        gauge("Best so far", "dig_sweep_best"),
    ),
    "Ray": (
        ray("Rows out of Data operators", f"sum by (dataset, operator) ({_series('ray_data_output_rows')})", "{{dataset}} {{operator}}"),
        ray(
            "Train: time blocked in report",
            f"sum by (ray_train_run_name) ({_series('ray_train_report_total_blocked_time_s')})",
            "{{ray_train_run_name}}",
            "s",
        ),
        ray("Actors", f'sum by (Name) ({_series("ray_actors", "State=~" + chr(34) + "ALIVE.*" + chr(34))})', "{{Name}}"),
        ray("Processors", f"avg by (instance) ({_series('ray_node_cpu_utilization')})", "{{instance}}", "percent"),
        ray("Memory", f"sum by (instance) ({_series('ray_node_mem_used')})", "{{instance}}", "bytes"),
        ray("GPUs", f"avg by (instance, GpuIndex) ({_series('ray_node_gpus_utilization')})", "{{instance}} {{GpuIndex}}", "percent"),
    ),
}  # fmt: skip
"""Title of a row -> its panels."""


def dashboard() -> dict[str, Any]:
    """What Grafana reads."""
    return {
        "title": "dig_ray",
        "uid": UID,
        "tags": ["dig_ray", "ray"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_datasource(), _session()]},
        "panels": list(_placed()),
    }


def _placed() -> Iterator[dict[str, Any]]:
    at, number = 0, 0
    for title, panels in ROWS.items():
        number += 1
        place = {"x": 0, "y": at, "w": 24, "h": 1}
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": False,
            "panels": [],
            "gridPos": place,
        }
        at += 1
        for index, panel in enumerate(panels):
            number += 1
            place = {
                "x": WIDTH * (index % PER_ROW), "y": at + HEIGHT * (index // PER_ROW), "w": WIDTH, "h": HEIGHT,
            }  # fmt: skip
            yield _drawn(panel, number) | {"gridPos": place}
        at += HEIGHT * -(-len(panels) // PER_ROW)


def _drawn(panel: Panel, number: int) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    options: dict[str, Any] = {"legend": {"displayMode": "list", "placement": "bottom", "showLegend": True}}
    if panel.stat:
        options = {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}}
    return {
        "id": number,
        "type": "stat" if panel.stat else "timeseries",
        "title": panel.title,
        "description": panel.meaning,
        "datasource": source,
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "options": options,
        "targets": [
            {"refId": chr(ord("A") + n), "datasource": source, "expr": expression, "legendFormat": legend}
            for n, (expression, legend) in enumerate(panel.queries)
        ],
    }


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus", "refresh": 1, "hide": 2}


def _session() -> dict[str, Any]:
    query = f"label_values({exported('dig_stage_running')}, SessionName)"
    return {
        "name": "SessionName",
        "label": "Ray session",
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "definition": query,
        "query": {"query": query, "refId": "StandardVariableQuery"},
        "refresh": 2,
        "includeAll": True,
        "allValue": ".*",
        "multi": False,
        "sort": 2,
        "current": {"selected": True, "text": "All", "value": "$__all"},
    }


def as_json() -> str:
    """The file's content."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(as_json(), encoding="utf-8")
