"""The report stage: gather what the other stages left and write ``report.html``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dig_ray.base import Stage
from dig_ray.guards.redaction import redact
from dig_ray.report import figure_text
from dig_ray.report.gather import gather
from dig_ray.report.page import build_page


def run(run_config: Any, stage: Stage, inputs: Mapping[str, Path]) -> None:
    """Write ``report.html`` into ``stage.out``.

    Args:
        run_config: the run's config. The page shows what counts of it, as two runs that differ in nothing else share their page.
        inputs: stage name -> its artifact's directory; ``catalog`` and ``semantic_ids`` at least.

    Raises:
        UserError: an artifact is missing or damaged.
    """
    started = time.monotonic()
    config = redact(run_config.counted())
    data = gather(config["name"], run_config.seed, config, inputs)
    page = build_page(data).encode("utf-8")
    (stage.out / "report.html").write_bytes(page)
    stage.stats.update(rows=data.dataset.n_items, bytes=len(page))
    stage.log(f"report: report.html, {figure_text.size(len(page))}, {time.monotonic() - started:.1f} s")
