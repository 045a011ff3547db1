"""What sweeps read of the stages that they judge, and that every row of the table is a stage that can be asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from dig_ray.artifacts.store import Artifact
from dig_ray.experiments.sweeps.config import FinalistsConfig, SweepConfig
from dig_ray.experiments.sweeps.targets import TARGETS
from dig_ray.stages import STAGES

LOG = [
    {"step": 0, "epoch": 0.0, "eval_ndcg@10": 0.5, "eval_hr@10": 0.9},
    {"step": 2, "epoch": 0.5, "loss": 3.0},
    {"step": 4, "epoch": 1.0, "eval_ndcg@10": 0.2, "eval_hr@10": 0.4},
    {"step": 8, "epoch": 2.0, "eval_ndcg@10": 0.3, "eval_hr@10": 0.3},
    {"step": 12, "epoch": 3.0, "eval_ndcg@10": 0.3, "eval_hr@10": 0.6},
]


def artifact(stage: str, path: Path, **stats: Any) -> Artifact:
    return Artifact(stage, "f" * 16, path, str(path), {"stats": stats})


def test_every_target_is_a_stage_and_goes_by_what_it_reports() -> None:
    stages = {spec.name for spec in STAGES}
    for name, target in TARGETS.items():
        assert name == target.stage and name in stages
        sweep = SweepConfig(base="demo", space={"seed": "choice(0, 1)"}, target=name)
        assert sweep.directions == target.main and set(target.main) <= set(target.objectives)
    for target in ("semantic_ids", "multi_interest", "baselines"):
        with pytest.raises(ValidationError):
            FinalistsConfig(target=target)


def test_rl_is_judged_by_its_best_step_after_the_start(tmp_path: Path) -> None:
    (tmp_path / "curves.json").write_text(json.dumps(LOG))
    grpo = TARGETS["grpo"]
    figures = grpo.figures(artifact("grpo", tmp_path))
    assert figures == {"eval_ndcg@10": 0.3, "eval_hr@10": 0.3, "start_ndcg@10": 0.5}  # the first of equals
    assert [entry["step"] for entry in grpo.curve(artifact("grpo", tmp_path))] == [0, 4, 8, 12]


@pytest.mark.parametrize("name", ["sft", "multi_interest"])
def test_what_is_trained_in_epochs_is_judged_by_its_best_one(name: str, tmp_path: Path) -> None:
    (tmp_path / "curves.json").write_text(json.dumps(LOG[1:]))
    target = TARGETS[name]
    assert target.figures(artifact(name, tmp_path)) == {"eval_ndcg@10": 0.3, "eval_hr@10": 0.3}
    assert [entry["epoch"] for entry in target.curve(artifact(name, tmp_path))] == [1.0, 2.0, 3.0]


def test_a_log_whose_figures_have_other_names_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "curves.json").write_text(json.dumps(LOG).replace("eval_ndcg@10", "valid_ndcg@10"))
    with pytest.raises(LookupError, match="no entry has epoch, eval_ndcg@10 and eval_hr@10"):
        TARGETS["sft"].figures(artifact("sft", tmp_path))


def test_a_baseline_is_judged_by_validation_with_seen_items_allowed(tmp_path: Path) -> None:
    seen, unseen = {"NDCG@10": 0.2, "HR@10": 0.4, "HR@5": 0.3}, {"NDCG@10": 0.1, "HR@10": 0.2, "HR@5": 0.1}
    told = {
        "validation": {"seen": seen, "unseen": unseen},
        "epochs": [{"epoch": 1, "loss": 2.0, "NDCG@10": 0.2, "HR@10": 0.4}],
    }
    target, found = TARGETS["baselines"], artifact("baselines", tmp_path, rows=7, sasrec=told)
    assert target.figures(found) == {"eval_ndcg@10": 0.2, "eval_hr@10": 0.4}
    assert target.curve(found) == [{"epoch": 1, "eval_ndcg@10": 0.2, "eval_hr@10": 0.4}]


def test_semantic_ids_report_what_their_quantizer_can(tmp_path: Path) -> None:
    report: dict[str, Any] = {
        "items": 10,
        "codebook_sizes": [4, 8],
        "collisions": {"collision_rate": 0.2, "items_sharing_full_code": 2},
        "levels": [{"share_used": 1.0, "perplexity": 4.0}, {"share_used": 0.5, "perplexity": 9.0}],
        "prefixes": [{"length": 1}, {"length": 2}],
    }
    (tmp_path / "sid_quality.json").write_text(json.dumps(report))
    target, found = TARGETS["semantic_ids"], artifact("semantic_ids", tmp_path)
    plain = {"collision_rate": 0.2, "share_used": 0.75, "perplexity": 6.0, "codes": 12.0, "tokens": 2.2}
    assert target.figures(found) == pytest.approx(plain) and target.curve(found) == []
    for prefix, error, recall in zip(report["prefixes"], (0.5, 0.3), (0.9, 0.4), strict=True):
        prefix |= {"error_over_variance": error, "neighbour_recall": recall}
    (tmp_path / "sid_quality.json").write_text(json.dumps(report))
    more = {"error_over_variance": 0.3, "signal": 0.5, "neighbour_recall": 0.9}
    assert target.figures(found) == pytest.approx(plain | more)
