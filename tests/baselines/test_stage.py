"""The baselines stage writes one file per baseline and kind, in this process and on Ray alike."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from dig_ray.base import Stage
from dig_ray.baselines.config import BaselinesConfig, SASRecConfig
from dig_ray.baselines.stage import fit_lists
from dig_ray.evaluation.metrics import evaluate
from dig_ray.evaluation.recommendations import read_recommendations

NAMES = ("popularity", "repeat_last", "item_knn", "sasrec")
CONFIG = BaselinesConfig(
    sasrec=SASRecConfig(width=16, hidden=32, layers=1, max_length=8, max_epochs=2, device="cpu", num_cpus=1)
)


def run_once(root, dataset, config=CONFIG):
    catalog, out = root / "catalog", root / "out"
    dataset.save(catalog)
    out.mkdir()
    lines: list[str] = []
    stage = Stage("baselines", "f" * 16, 0, out, str(root / "work"), log=lines.append)
    fit_lists(config, stage, catalog)
    return stage, lines


def test_files_can_be_evaluated(chains, tmp_path):
    stage, lines = run_once(tmp_path, chains)
    cases = chains.cases("test")
    for name in NAMES:
        for suffix in ("seen", "unseen"):
            path = stage.out / f"recommendations_{name}_{suffix}.parquet"
            recs = read_recommendations(path, chains, cases)
            assert evaluate(chains, cases, recs, n_bootstrap=10)["n_cases"] == 60
            table = pq.read_table(path)
            assert [len(s) for s in table["scores"].to_pylist()] == [
                len(s) for s in table["item_ids"].to_pylist()
            ]
        assert 0 <= stage.stats[name]["validation"]["seen"]["NDCG@10"] <= 1
    assert len(stage.stats["sasrec"]["epochs"]) == 2 and stage.stats["rows"] == 60
    json.dumps(stage.stats, allow_nan=False)
    assert any("epoch 2/2" in line for line in lines)


@pytest.mark.parametrize("left", [b"", b"PK cut off"])
def test_a_damaged_checkpoint_is_told_and_training_begins_again(chains, tmp_path, left):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "sasrec.pt").write_bytes(left)
    stage, lines = run_once(tmp_path, chains, CONFIG.model_copy(update={"run": ("sasrec",)}))
    assert len(stage.stats["sasrec"]["epochs"]) == 2
    assert any("sasrec.pt" in line and "begin" in line for line in lines), lines


@pytest.mark.slow
def test_on_ray_it_is_the_same(chains, tmp_path):
    import ray
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for place in ("inline", "ray"):
        (tmp_path / place).mkdir()
    inline, _ = run_once(tmp_path / "inline", chains)
    torch.set_num_threads(threads)
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    try:
        remote, lines = run_once(tmp_path / "ray", chains)
        (tmp_path / "damaged" / "work").mkdir(parents=True)
        (tmp_path / "damaged" / "work" / "sasrec.pt").write_bytes(b"PK cut off")
        _, said = run_once(tmp_path / "damaged", chains, CONFIG.model_copy(update={"run": ("sasrec",)}))
    finally:
        ray.shutdown()
    assert any("epoch 2/2" in line for line in lines)
    assert any("sasrec.pt" in line and "begin" in line for line in said)
    for file in sorted(inline.out.iterdir()):
        left, right = (pq.read_table(stage.out / file.name) for stage in (inline, remote))
        assert left["item_ids"].to_pylist() == right["item_ids"].to_pylist()
        scores = (np.concatenate(t["scores"].to_numpy()) for t in (left, right))
        np.testing.assert_array_equal(*scores)
