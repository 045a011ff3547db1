"""What the dashboard is told of artifacts: all that their stages wrote, and an error where a figure has another name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dig_ray.artifacts.store import Artifact
from dig_ray.report import artifact_metrics
from tests.report.conftest import finished, world

__all__ = ["finished", "world"]
Told = dict[tuple[str, ...], float | None]


def artifact(stage: str, path: Path, **stats: Any) -> Artifact:
    return Artifact(stage, "f" * 16, path, str(path), {"seconds": 1.0, "stats": stats})


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """(metric, tag, ...) -> value."""
    found: Told = {}
    monkeypatch.setattr(artifact_metrics, "count", lambda name, **tags: None)
    monkeypatch.setattr(
        artifact_metrics, "put", lambda name, value, **tags: found.update({(name, *tags.values()): value})
    )
    return found


def test_figures_of_files_are_those_that_the_stages_wrote(finished: dict[str, Path], told: Told) -> None:
    for stage in ("semantic_ids", "evaluation"):
        artifact_metrics.tell(artifact(stage, finished[stage]), made=True)
    quality = json.loads((finished["semantic_ids"] / "sid_quality.json").read_text())
    results = json.loads((finished["evaluation"] / "metrics.json").read_text())["results"]
    assert told["dig_semantic_ids_collision_ratio",] == quality["collisions"]["collision_rate"]
    assert told["dig_semantic_ids_perplexity_codes", "2"] == quality["levels"][1]["perplexity"]
    assert told["dig_semantic_ids_error_ratio", "3"] == quality["prefixes"][2]["error_over_variance"]
    mean = results["item_knn"]["unseen"]["metrics"]["NDCG@10"]["mean"]
    assert told["dig_evaluation_score", "item_knn", "left_out", "NDCG@10"] == mean


@pytest.mark.parametrize(
    ("stage", "file", "old", "new"),
    [
        ("semantic_ids", "sid_quality.json", "collision_rate", "rate_of_collisions"),
        ("semantic_ids", "sid_quality.json", "perplexity", "perplexities"),
        ("evaluation", "metrics.json", "results", "scores"),
        ("evaluation", "metrics.json", "mean", "average"),
    ],
)
def test_a_figure_by_another_name_is_an_error(
    finished: dict[str, Path], told: Told, tmp_path: Path, stage: str, file: str, old: str, new: str
) -> None:
    text = (finished[stage] / file).read_text()
    (tmp_path / file).write_text(text.replace(f'"{old}"', f'"{new}"'))
    with pytest.raises(LookupError, match=f"{file}: there is no '{old}', which the stage always writes"):
        artifact_metrics.tell(artifact(stage, tmp_path), made=True)


def test_a_stage_that_does_not_tell_what_it_always_does_is_an_error(tmp_path: Path, told: Told) -> None:
    artifact_metrics.tell(artifact("sft", tmp_path, valid_ndcg_at_10=0.25), made=False)
    assert told["dig_training_best_ndcg", "sft"] == 0.25
    with pytest.raises(LookupError, match="stats of sft have no valid_ndcg_at_10"):
        artifact_metrics.tell(artifact("sft", tmp_path, best_ndcg=0.25), made=False)


@pytest.mark.parametrize("stage", ["semantic_ids", "evaluation"])
def test_a_run_does_not_fail_for_a_file_that_is_gone_or_broken(
    stage: str, tmp_path: Path, told: Told
) -> None:
    artifact_metrics.tell(artifact(stage, tmp_path / "gone"), made=False)
    for name in ("sid_quality.json", "metrics.json"):
        (tmp_path / name).write_text("{")
    artifact_metrics.tell(artifact(stage, tmp_path), made=False)
    assert not any(name.startswith(("dig_semantic", "dig_evaluation")) for name, *_ in told)
