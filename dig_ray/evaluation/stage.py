"""Scoring: every recommender's lists into one table, with intervals and paired differences.

All lists are scored by the same function on the same cases, with seen items allowed and left out; the split's name and hash stand in
the result, because a figure without them cannot be compared with anything.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dig_ray.base import Inputs, Stage
from dig_ray.evaluation.config import EvaluationConfig
from dig_ray.evaluation.metrics_file import METRICS

if TYPE_CHECKING:
    import numpy as np

POLICY = "policy"
MADE_BY = ("recommend", "recommend_sft", "multi_interest", "baselines")
"""The stages whose artifacts hold lists."""


def run(config: Any, stage: Stage, inputs: Inputs) -> None:
    """The stage ``evaluation`` of a run: the lists of all recommenders that ran are scored."""
    lists = [inputs[name] for name in MADE_BY if name in inputs]
    score_lists(config.evaluation, stage, inputs["catalog"], lists)


def score_lists(config: EvaluationConfig, stage: Stage, catalog_dir: Path, list_dirs: list[Path]) -> None:
    """Write ``metrics.json``: per recommender and seen-items rule all metrics, and policy minus each baseline, paired.

    Where some targets repeat an item of their history, ``policy_minus_new`` has the differences on the other cases alone: lists without
    seen items cannot hold a repeat, which then counts as a miss, and lists with them may owe everything to repeats.

    Args:
        config: cut-offs, and resamples behind the intervals.
        stage: the artifact that is made.
        catalog_dir: the catalogue artifact.
        list_dirs: artifacts that hold ``recommendations_<name>_<seen|unseen>.parquet``.
    """
    from dig_ray.catalog.dataset import Dataset
    from dig_ray.evaluation.comparison import compare
    from dig_ray.evaluation.metrics import evaluate, target_in_history
    from dig_ray.evaluation.recommendations import read_recommendations

    dataset = Dataset.load(catalog_dir)
    cases = dataset.cases("test")
    files = sorted(f for d in list_dirs for f in d.glob("recommendations_*_*.parquet"))
    results: dict[str, dict[str, dict[str, Any]]] = {}
    lists = {}
    for file in files:
        name, rule = file.stem.removeprefix("recommendations_").rsplit("_", 1)
        recs = read_recommendations(file, dataset, cases)
        lists[name, rule] = recs
        results.setdefault(name, {})[rule] = evaluate(
            dataset, cases, recs, ks=config.ks, seed=config.seed, n_bootstrap=config.n_bootstrap
        )
        short = results[name][rule]["short_lists"]
        stage.log(
            f"evaluation: {name} ({rule}) scored on {len(cases):,} test users"
            + (
                f"; {short:,} lists hold fewer than {max(config.ks)} items and count with what they have"
                if short
                else ""
            )
        )
    new = ~target_in_history(dataset.events, cases)
    parts: dict[str, np.ndarray | None] = {"policy_minus": None}
    if 0 < new.sum() < len(new):
        stage.log(
            f"evaluation: {len(new) - new.sum():,} of {len(new):,} targets repeat an item of their history"
        )
        parts["policy_minus_new"] = new
    paired: dict[str, dict[str, dict[str, object]]] = {part: {} for part in parts}
    if config.n_bootstrap:
        for (name, rule), recs in lists.items():
            if name == POLICY or (POLICY, rule) not in lists:
                continue
            for part, only in parts.items():
                paired[part].setdefault(name, {})[rule] = compare(
                    dataset,
                    cases,
                    recs,
                    lists[POLICY, rule],
                    ks=config.ks,
                    seed=config.seed,
                    n_bootstrap=config.n_bootstrap,
                    only=only,
                )
    report = {
        "split_name": dataset.split_name,
        "split_hash": dataset.split_hash,
        "test_users": len(cases),
        "items": dataset.n_items,
        "results": results,
        **paired,
    }
    (stage.out / METRICS).write_text(json.dumps(report, indent=1) + "\n")
    stage.stats.update(rows=len(cases), split_name=dataset.split_name, split_hash=dataset.split_hash)
