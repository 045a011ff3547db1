"""A finished run without training: the same files through the same writers, with lists drawn at random."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa

from dig_ray.artifacts.manifest import Recipe, make_manifest
from dig_ray.base import Stage
from dig_ray.catalog.dataset import Dataset
from dig_ray.config import RunConfig
from dig_ray.evaluation.config import EvaluationConfig
from dig_ray.evaluation.recommendations import write_recommendations
from dig_ray.evaluation.stage import score_lists as evaluate
from dig_ray.semantic_ids.quality import draw_quality, quality_report
from dig_ray.semantic_ids.sid_catalog import SidCatalog

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    '"><img src=x onerror=alert(3)>',
    "{{ 7 * 7 }} {% raw %}",
    "<!-- --> ]]> &amp; 'quoted' \u2028",
    "مِطرَقة \u202e right to left",
    "x" * 3000,
    "",
)
KINDS = ("Shampoo", "Conditioner", "Hand Cream", "Lipstick", "Nail Polish", "Eau de Parfum", "Comb", "Soap")
NAMES = ("policy", "popularity", "repeat_last", "item_knn", "sasrec")


def dataset(n_items: int, n_users: int, titles: list[str] | None = None) -> Dataset:
    """Users with 4 to 14 events; the last one is test, the one before it valid."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(4, 15, n_users)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    split = np.zeros(offsets[-1], np.int8)
    split[offsets[1:] - 2], split[offsets[1:] - 1] = 1, 2
    if titles is None:
        titles = [
            f"Maison No. {i} {KINDS[i % len(KINDS)]} with almond oil, {10 + i % 90} ml"
            for i in range(n_items)
        ]
    return Dataset(
        items=pa.table({"item_id": [f"i{i}" for i in range(n_items)], "title": titles}),
        user_ids=np.array([f"u{i:05d}" for i in range(n_users)]),
        offsets=offsets,
        events=(n_items * rng.random(offsets[-1]) ** 2).astype(np.int32),
        split=split,
        split_name="leave_last_out",
    )


def lists(data: Dataset, share: float, seed: int, k: int = 20) -> np.ndarray:
    """Random lists of different items, in which the target stands for a share of the cases."""
    rng = np.random.default_rng(seed)
    cases = data.cases("test")
    rows = []
    for target in cases.target.tolist():
        items = rng.choice(data.n_items, k, replace=False)
        items = items[items != target][: k - 1]
        place = int(k * rng.random() ** 2)
        found = rng.random() < share
        rows.append(np.insert(items, min(place, k - 1), target)[:k] if found else np.append(items, -1)[:k])
    return np.asarray([np.concatenate([r[r >= 0], np.full(k - (r >= 0).sum(), -1)]) for r in rows], np.int32)


def publish(path: Path, stage: str, stats: dict[str, object], seconds: float) -> None:
    recipe = Recipe(stage=stage, config={"made": "up"}, code="c0de" * 4, seed=3)
    (path / "manifest.json").write_text(json.dumps(make_manifest(recipe, stats, {}, seconds)))


def write_run(
    root: Path,
    data: Dataset,
    sizes: tuple[int, ...] = (8, 8, 8),
    names: tuple[str, ...] = NAMES,
    n_bootstrap: int = 50,
    codes: np.ndarray | None = None,
) -> dict[str, Path]:
    """All artifacts of a run below ``root``; stage name -> directory."""
    stages = ("catalog", "embedding", "semantic_ids", "baselines", "sft", "recommend", "evaluation")
    paths = {name: root / name for name in stages}
    for path in paths.values():
        path.mkdir(parents=True)
    data.save(paths["catalog"])

    rng = np.random.default_rng(1)
    if codes is None:
        codes = np.stack([rng.integers(0, size, data.n_items) for size in sizes], axis=1).astype(np.int32)
    sids = SidCatalog.from_codes(data.item_ids, codes, sizes)
    sids.save(paths["semantic_ids"] / "semantic_ids.parquet")
    report = quality_report(
        sids, rng.normal(size=(data.n_items, 8)).astype(np.float32), [0.6, 0.4, 0.3][: len(sizes)]
    )
    (paths["semantic_ids"] / "sid_quality.json").write_text(json.dumps(report))
    draw_quality(report, paths["semantic_ids"] / "sid_quality.png")

    cases = data.cases("test")
    for number, name in enumerate(names):
        folder = paths["recommend" if name == "policy" else "baselines"]
        for rule in ("seen", "unseen"):
            share = (0.34, 0.1, 0.15, 0.3, 0.33)[number] + (0.02 if rule == "unseen" else 0)
            write_recommendations(
                folder / f"recommendations_{name}_{rule}.parquet", data, cases, lists(data, share, number)
            )
    decoding = {"beam": 50, "short_lists": 2, "unconstrained_invalid_rate": 0.0312}
    (paths["recommend"] / "decoding.json").write_text(json.dumps(decoding))
    stage = Stage("evaluation", "e" * 16, 0, paths["evaluation"], str(root / "work"), log=lambda line: None)
    evaluate(
        EvaluationConfig(n_bootstrap=n_bootstrap),
        stage,
        paths["catalog"],
        [paths["recommend"], paths["baselines"]],
    )

    curves: list[dict[str, float]] = []
    for epoch in range(1, 13):
        for quarter in range(4):
            at = epoch - 1 + (quarter + 1) / 4
            curves.append({"loss": 2 + 4 * float(np.exp(-at / 3)), "epoch": at})
        gain = 0.04 * (1 - float(np.exp(-epoch / 3))) - 0.0004 * max(0, epoch - 9) ** 2
        curves.append(
            {"eval_ndcg@10": gain, "eval_hr@10": 1.8 * gain, "eval_seconds": 2.5, "epoch": float(epoch)}
        )
    curves.append({"train_runtime": 512.3, "train_loss": 3.1, "epoch": 12.0})
    (paths["sft"] / "curves.json").write_text(json.dumps(curves))
    (paths["sft"] / "policy").mkdir()
    about = {
        "normalizer": "trie",
        "levels": len(sizes),
        "base_model": None,
        "sid_fingerprint": sids.fingerprint,
    }
    (paths["sft"] / "policy" / "policy.json").write_text(json.dumps(about))
    for number, (name, path) in enumerate(paths.items()):
        publish(path, name, {"rows": 1000 * number + 7}, 3.5 * 4.0**number)
    return paths


CONFIG = RunConfig(name="report-test", seed=3)
