"""What a report is made from: the files that the stages of one run left, read once and checked.

Only the catalogue and the Semantic IDs have to be there. What another stage would have left is None when the run did
without it, and its section says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dig_ray.errors import UserError
from dig_ray.evaluation.metrics_file import METRICS
from dig_ray.report.interests import gather_interests
from dig_ray.report.mining import gather_mining
from dig_ray.semantic_ids.quality_file import QUALITY
from dig_ray.training.validation_log import CURVES

if TYPE_CHECKING:
    from dig_ray.catalog.dataset import Dataset
    from dig_ray.semantic_ids.sid_catalog import SidCatalog

RULES = ("unseen", "seen")  # items of the history left out of the lists, or allowed


@dataclass(frozen=True)
class RunData:
    """All that a page shows.

    Attributes:
        name: the run's name.
        seed: the run's seed.
        config: the resolved config, JSON-able.
        manifests: stage -> its manifest, in the order the stages ran.
        dataset: catalogue, events and split.
        sids: Semantic IDs of the same items, in the same order.
        quality: ``sid_quality.json``.
        picture: bytes of ``sid_quality.png``.
        curves: ``curves.json``, SFT's log.
        rl: GRPO's.
        policy: ``policy.json``.
        decoding: ``decoding.json``.
        metrics: ``metrics.json``.
        lists: rule -> int32 (C, k) the policy's items for every test case, padded -1.
        mining: what ``mining.gather_mining`` found.
        interests: what ``interests.gather_interests`` found.
    """

    name: str
    seed: int
    config: Mapping[str, Any]
    manifests: Mapping[str, Mapping[str, Any]]
    dataset: Dataset
    sids: SidCatalog
    quality: Mapping[str, Any] | None = None
    picture: bytes | None = None
    curves: list[Mapping[str, Any]] | None = None
    rl: list[Mapping[str, Any]] | None = None
    policy: Mapping[str, Any] | None = None
    decoding: Mapping[str, Any] | None = None
    metrics: Mapping[str, Any] | None = None
    lists: Mapping[str, np.ndarray] = field(default_factory=dict)
    mining: Mapping[str, Any] | None = None
    interests: Mapping[str, Any] | None = None


def gather(name: str, seed: int, config: Mapping[str, Any], inputs: Mapping[str, Path]) -> RunData:
    """Read a run's artifacts.

    Args:
        name: the run's name.
        seed: the run's seed.
        config: the resolved config.
        inputs: stage name -> its artifact's directory; ``catalog`` and ``semantic_ids`` at least.

    Raises:
        UserError: a file is missing or damaged, or Semantic IDs and catalogue do not belong together.
    """
    from dig_ray.catalog.dataset import Dataset
    from dig_ray.evaluation.recommendations import read_recommendations
    from dig_ray.semantic_ids.sid_catalog import SidCatalog

    for needed in ("catalog", "semantic_ids"):
        if needed not in inputs:
            raise UserError(f"a report needs the artifact of the stage {needed}; run that stage first")
    dataset = Dataset.load(inputs["catalog"])
    sids_path = inputs["semantic_ids"] / "semantic_ids.parquet"
    sids = SidCatalog.load(sids_path)
    if sids.item_ids.tolist() != dataset.item_ids.tolist():
        raise UserError(f"{sids_path}: not the items of this catalogue; run the semantic_ids stage again")
    lists = {}
    if "recommend" in inputs:
        cases = dataset.cases("test")
        for rule in RULES:
            path = inputs["recommend"] / f"recommendations_policy_{rule}.parquet"
            if path.is_file():
                lists[rule] = read_recommendations(path, dataset, cases)
    picture = _file(inputs, "semantic_ids", "sid_quality.png")
    manifests = {
        stage: found
        for stage, path in inputs.items()
        if (found := read_json(path / "manifest.json")) is not None
    }
    return RunData(
        name=name,
        seed=seed,
        config=config,
        manifests=manifests,
        dataset=dataset,
        sids=sids,
        quality=_json(inputs, "semantic_ids", QUALITY),
        picture=None if picture is None else picture.read_bytes(),
        curves=_json(inputs, "sft", CURVES),
        rl=_json(inputs, "grpo", CURVES),
        policy=_json(inputs, "sft", "policy/policy.json"),
        decoding=_json(inputs, "recommend", "decoding.json"),
        metrics=_json(inputs, "evaluation", METRICS),
        lists=lists,
        mining=gather_mining(inputs, manifests),
        interests=gather_interests(dataset, inputs, manifests),
    )


def read_json(path: Path) -> Any:
    """The content of a JSON file, None when there is no such file; UserError when it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); run its stage again") from None


def _file(inputs: Mapping[str, Path], stage: str, name: str) -> Path | None:
    path = inputs[stage] / name if stage in inputs else None
    return path if path is not None and path.is_file() else None


def _json(inputs: Mapping[str, Path], stage: str, name: str) -> Any:
    path = _file(inputs, stage, name)
    return None if path is None else read_json(path)
