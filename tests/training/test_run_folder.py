"""A run's folder after a full disk or a broken transfer: the same command ends as if nothing had been damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dig_ray.on_ray.run_folder import COPY, SNAPSHOT
from dig_ray.training.sft_stage import fine_tune


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


@pytest.mark.slow
def test_the_same_command_ends_as_if_nothing_had_been_damaged(
    world, settings, make_stage, curves, ray_cluster
):
    """A run of three epochs that was published; then its last checkpoint, or the list of them, is emptied before the command again."""
    sft = settings.sft.model_copy(update={"patience": 9})
    stage = make_stage("damaged")
    fine_tune(sft, settings.recommender, stage, world.catalog, world.semantic_ids)
    whole = curves(stage)
    work = next(Path(stage.work).glob("sft-*"))
    latest = json.loads((work / SNAPSHOT).read_text())["latest_checkpoint_result"]["checkpoint_dir_name"]
    assert json.loads((work / COPY).read_text()) == json.loads((work / SNAPSHOT).read_text())
    for damaged in (work / SNAPSHOT, work / latest / "checkpoint" / "optimizer.pt"):
        cut(damaged, 0.0)
        shutil.rmtree(stage.out)
        stage.out.mkdir()
        del stage.lines[:]
        fine_tune(sft, settings.recommender, stage, world.catalog, world.semantic_ids)
        assert any("empty" in line for line in stage.lines)
        again = curves(stage)
        assert [(h["step"], h["loss"]) for h in again if "loss" in h] == [
            (h["step"], h["loss"]) for h in whole if "loss" in h
        ]
