"""The evaluation's figures as other rooms read them: means by recommender, rule and metric, out of ``metrics.json``."""

from __future__ import annotations

import json
from pathlib import Path

METRICS = "metrics.json"
Means = dict[str, dict[str, dict[str, float | None]]]
"""Recommender -> ``seen`` (items of the history may be listed) or ``unseen`` -> metric, such as ``NDCG@10`` -> mean over the test cases."""


def read_means(directory: Path) -> Means:
    """The means that an artifact of the stage ``evaluation`` holds.

    Raises:
        OSError: there is no ``metrics.json``.
        ValueError: it is no JSON.
        LookupError: it lacks a figure that the stage always writes.
    """
    path = directory / METRICS
    report = json.loads(path.read_text(encoding="utf-8"))
    try:
        return {
            recommender: {
                rule: {metric: value["mean"] for metric, value in scored["metrics"].items()}
                for rule, scored in by_rule.items()
            }
            for recommender, by_rule in report["results"].items()
        }
    except KeyError as error:
        raise LookupError(f"{path}: there is no {error}, which the stage always writes") from None
