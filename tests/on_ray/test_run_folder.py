"""A run's folder after a kill, a full disk or a broken transfer: the same command goes on, or begins anew and says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dig_ray.artifacts.whole_files import damage_at
from dig_ray.on_ray.run_folder import COPY, SNAPSHOT, mend


def checkpoint(folder: Path, step: int) -> None:
    (folder / "checkpoint").mkdir(parents=True)
    (folder / "checkpoint" / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    save_file({"w": torch.ones(50)}, folder / "checkpoint" / "model.safetensors")
    torch.save({"state": {0: torch.ones(5)}}, folder / "checkpoint" / "optimizer.pt")


def snapshot(*names: str) -> dict:
    results = [{"version": 0, "checkpoint_dir_name": n, "metrics": {"eval_ndcg@10": 0.1}} for n in names]
    return {
        "checkpoint_results": results[::-1],  # the best last
        "checkpoint_report_indices": list(range(len(names)))[::-1],
        "latest_checkpoint_result": results[-1],
        "current_report_index": len(names),
    }


@pytest.fixture
def folder(tmp_path) -> Path:
    for step, name in enumerate(("checkpoint_1", "checkpoint_2"), start=1):
        checkpoint(tmp_path / name, 10 * step)
    written = json.dumps(snapshot("checkpoint_1", "checkpoint_2"))
    (tmp_path / SNAPSHOT).write_text(written)
    (tmp_path / COPY).write_text(written)
    return tmp_path


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def mended(folder: Path) -> tuple[dict | None, list[str]]:
    lines: list[str] = []
    mend(str(folder), "sft", lines.append)
    path = folder / SNAPSHOT
    return json.loads(path.read_text()) if path.exists() else None, lines


def test_a_whole_folder_is_left_alone_and_nothing_is_said(folder):
    before = (folder / SNAPSHOT).read_bytes()
    assert mended(folder)[1] == []
    assert (folder / SNAPSHOT).read_bytes() == before


def test_an_empty_folder_is_fine(tmp_path):
    assert mended(tmp_path) == (None, [])


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_list_of_checkpoints_has_a_copy(folder, share):
    cut(folder / SNAPSHOT, share)
    state, lines = mended(folder)
    assert state == json.loads((folder / COPY).read_text())
    assert "its copy stands in" in lines[0] and "goes on from step 20" in lines[-1]


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("name", ["trainer_state.json", "model.safetensors", "optimizer.pt"])
def test_a_checkpoint_that_is_not_whole_gives_way_to_the_one_before(folder, name, share):
    cut(folder / "checkpoint_2" / "checkpoint" / name, share)
    state, lines = mended(folder)
    assert state["latest_checkpoint_result"]["checkpoint_dir_name"] == "checkpoint_1"
    assert state["checkpoint_report_indices"] == [0] and len(state["checkpoint_results"]) == 1
    assert name in lines[0] and ("empty" in lines[0] or "cut off" in lines[0])
    assert lines[-1] == "sft: training goes on from step 10, the latest that is whole"
    assert mended(folder)[1] == []


def test_a_checkpoint_that_is_gone_gives_way_too(folder):
    shutil.rmtree(folder / "checkpoint_2")
    state, _ = mended(folder)
    assert state["latest_checkpoint_result"]["checkpoint_dir_name"] == "checkpoint_1"


@pytest.mark.parametrize("what", ["both", "lists"])
def test_with_nothing_whole_left_training_begins_anew(folder, what):
    if what == "both":
        for name in ("checkpoint_1", "checkpoint_2"):
            cut(folder / name / "checkpoint" / "model.safetensors", 0.5)
    else:
        cut(folder / SNAPSHOT, 0.5)
        cut(folder / COPY, 0.0)
    state, lines = mended(folder)
    assert state is None and lines[-1] == "sft: no checkpoint is whole; training begins again from step 0"
    assert not list(folder.glob("checkpoint*"))


def test_ldmis_state_is_looked_at(tmp_path):
    for name in ("checkpoint_1", "checkpoint_2"):
        (tmp_path / name).mkdir()
        torch.save({"step": 1, "model": {"w": torch.ones(9)}}, tmp_path / name / "state.pt")
    (tmp_path / SNAPSHOT).write_text(json.dumps(snapshot("checkpoint_1", "checkpoint_2")))
    assert mended(tmp_path)[1] == []
    cut(tmp_path / "checkpoint_2" / "state.pt", 0.0)
    state, lines = mended(tmp_path)
    assert state["latest_checkpoint_result"]["checkpoint_dir_name"] == "checkpoint_1"
    assert "state.pt is empty" in lines[0]


def test_files_are_judged_by_what_they_promise(tmp_path):
    save_file({"a": torch.ones(3), "b": torch.ones(4)}, tmp_path / "x.safetensors")
    whole = (tmp_path / "x.safetensors").read_bytes()
    assert damage_at(tmp_path / "x.safetensors") is None
    for length in range(len(whole)):
        (tmp_path / "x.safetensors").write_bytes(whole[:length])
        assert damage_at(tmp_path / "x.safetensors"), length
    (tmp_path / "x.safetensors").write_bytes(whole + b"x")
    assert "promises" in damage_at(tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").write_bytes((2**40).to_bytes(8, "little") + b"{}")
    assert damage_at(tmp_path / "x.safetensors")
    assert damage_at(tmp_path / "absent.json") == "is missing"
