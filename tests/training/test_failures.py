"""How a training run ends whose workers fail alike again and again, or that is interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dig_ray.errors import UserError
from dig_ray.training.sft_stage import fine_tune


@pytest.fixture
def broken(world, settings, monkeypatch):
    """Settings whose worker fails in the same way at every first step."""
    # a forward pass over a head that is wider than its states: every worker meets it, and only there
    return settings.recommender.model_copy(update={"dtype": "broken"})


def test_an_error_that_comes_back_ends_the_run_in_a_sentence(
    broken, settings, world, make_stage, ray_cluster
):
    """Twice and not three times, with the reason in the log and in the sentence, and nothing published."""
    stage = make_stage("broken")
    begun = time.monotonic()
    with pytest.raises(
        UserError, match=r"sft: training failed twice after beginning from step 0: AttributeError: .*broken"
    ):
        fine_tune(settings.sft, broken, stage, world.catalog, world.semantic_ids)
    told = [line for line in stage.lines if "a worker failed" in line]
    assert any("begins again from step 0 (no checkpoint yet)" in line for line in told)
    assert not any(stage.out.iterdir())
    assert time.monotonic() - begun < 180


SCRIPT = """
import sys
from pathlib import Path
from dig_ray.base import Stage
from dig_ray.recommender.config import RecommenderConfig
from dig_ray.training.config import SftConfig
from dig_ray.training.sft_stage import fine_tune

if __name__ == "__main__":
    catalog, sids, root, recommender, sft = sys.argv[1:]
    out = Path(root) / "out"
    out.mkdir()
    stage = Stage("sft", "f" * 16, 7, out, root + "/work", log=lambda line: print(line, flush=True))
    try:
        fine_tune(SftConfig.model_validate_json(sft), RecommenderConfig.model_validate_json(recommender), stage, Path(catalog), Path(sids))
    except KeyboardInterrupt:
        print("INTERRUPTED", flush=True)
        sys.exit(130)
"""


@pytest.mark.slow
def test_an_interrupt_reaches_the_caller_and_its_workers_end(world, settings, tmp_path):
    import psutil

    (tmp_path / "sft.py").write_text(SCRIPT)
    sft = settings.sft.model_copy(update={"epochs": 1000, "patience": 1000})
    given = [world.catalog, world.semantic_ids, tmp_path, settings.recommender.model_dump_json()]
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "sft.py"), *map(str, given), sft.model_dump_json()],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said = []
        for line in process.stdout:
            said.append(line)
            if "validation NDCG@10" in line:
                break
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=90)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130, "".join(said) + rest
    assert "INTERRUPTED" in rest and "Traceback" not in rest
    gone, alive = psutil.wait_procs(children, timeout=30)
    assert not [p for p in alive if "TrainWorker" in " ".join(p.cmdline())]
