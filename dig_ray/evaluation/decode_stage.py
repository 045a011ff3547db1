"""The stages ``recommend`` and ``recommend_sft``: a policy's lists for every test user over the full catalogue.

Users are sorted by history length and cut into batches whose composition never depends on the number of actors, so two runs give equal
bytes. Batches that came back are kept as part files; after a kill only the missing ones are decoded.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from dig_ray.artifacts.parts import read_part, write_part
from dig_ray.base import Inputs, Stage
from dig_ray.errors import UserError
from dig_ray.evaluation.config import EvaluationConfig
from dig_ray.evaluation.decode_on_ray import ARRAYS, decode_on_ray
from dig_ray.evaluation.policy_decoder import Decoder
from dig_ray.evaluation.recommendations import write_recommendations
from dig_ray.on_ray.progress import Progress


def run_recommend(config: Any, stage: Stage, inputs: Inputs) -> None:
    """The stage ``recommend`` of a run: lists of its last policy, that of GRPO where there is one, called ``policy``."""
    trained = inputs["grpo"] if "grpo" in inputs else inputs["sft"]
    _recommend(config, stage, inputs, trained, "policy")


def run_recommend_sft(config: Any, stage: Stage, inputs: Inputs) -> None:
    """The stage ``recommend_sft`` of a run: lists of the policy that GRPO started from, called ``policy_sft``."""
    _recommend(config, stage, inputs, inputs["sft"], "policy_sft")


def _recommend(config: Any, stage: Stage, inputs: Inputs, trained: Path, name: str) -> None:
    trusted = config.recommender.trust_remote_code
    decode_lists(
        config.evaluation,
        stage,
        inputs["catalog"],
        inputs["semantic_ids"],
        trained / "policy",
        name,
        trusted,
    )


def decode_lists(
    config: EvaluationConfig,
    stage: Stage,
    catalog_dir: Path,
    semantic_ids_dir: Path,
    policy_dir: Path,
    name: str = "policy",
    trust_remote_code: bool = False,
) -> None:
    """Write ``recommendations_<name>_<seen|unseen>.parquet`` for every test case and ``decoding.json``.

    Args:
        config: cut-offs, beam, and what the actors ask for.
        stage: the artifact that is made.
        catalog_dir: the catalogue artifact.
        semantic_ids_dir: the semantic_ids artifact.
        policy_dir: the policy's folder.
        name: what the recommender is called in the tables.
        trust_remote_code: whether a backbone may bring code of its own.

    Raises:
        UserError: the policy is damaged or belongs to other Semantic IDs; there is no test case.
    """
    from dig_ray.catalog.dataset import Dataset
    from dig_ray.recommender.tasks import check_same_items
    from dig_ray.semantic_ids.sid_catalog import SidCatalog

    started = time.monotonic()
    dataset = Dataset.load(catalog_dir)
    sids = SidCatalog.load(semantic_ids_dir / "semantic_ids.parquet")
    check_same_items(sids, dataset, semantic_ids_dir)
    cases = dataset.cases("test")
    if not len(cases):
        raise UserError("evaluation: the test split is empty; check catalog.split")
    # a damaged policy is said here, in one sentence, not by a worker
    Decoder.load(policy_dir, sids, trust_remote_code=trust_remote_code)
    k = max(config.ks)
    order = np.argsort(cases.end - cases.start, kind="stable")
    batches = [order[i : i + config.batch_size] for i in range(0, len(order), config.batch_size)]
    results: dict[int, dict[str, np.ndarray]] = {}
    for number, batch in enumerate(batches):
        part = read_part(stage.work, f"decoded-{number:06d}.parquet", len(batch))
        if part is not None:
            results[number] = _from_table(part)
    todo = [n for n in range(len(batches)) if n not in results]
    resumed = sum(len(batches[n]) for n in results)
    stage.log(
        f"recommend: {len(order):,} users, {dataset.n_items:,} items, beam {max(config.beam, k)}"
        + (f"; {resumed:,} users were done before" if resumed else "")
    )
    line = Progress(stage, "users", len(order), resumed)
    for number, result in decode_on_ray(
        config, stage.name, dataset, cases, sids, policy_dir, order, todo, k, trust_remote_code
    ):
        results[number] = result
        write_part(stage.work, f"decoded-{number:06d}.parquet", _to_table(result))
        line.done(len(batches[number]))
    joined = {
        name: _scatter(order, np.concatenate([results[n][name] for n in range(len(batches))]))
        for name in ARRAYS
    }
    if len(joined["items_seen"]) != len(cases):
        raise RuntimeError(f"recommended for {len(joined['items_seen'])} of {len(cases)} test users")
    for suffix in ("seen", "unseen"):
        write_recommendations(
            stage.out / f"recommendations_{name}_{suffix}.parquet",
            dataset,
            cases,
            joined[f"items_{suffix}"],
            joined[f"scores_{suffix}"],
        )
    short = ((joined["items_seen"] < 0) | (joined["items_unseen"] < 0)).any(1)
    figures: dict[str, Any] = {"beam": max(config.beam, k), "short_lists": int(short.sum())}
    if figures["short_lists"]:
        stage.log(short_lists_line(figures["short_lists"], figures["beam"], k, dataset.n_items))
    if config.unconstrained:
        figures["unconstrained_invalid_rate"] = round(float(np.nanmean(joined["invalid"])), 4)
    (stage.out / "decoding.json").write_text(json.dumps(figures, indent=1) + "\n")
    stage.stats.update(rows=len(cases), seconds=round(time.monotonic() - started, 1), **figures)


def short_lists_line(users: int, beam: int, k: int, n_items: int) -> str:
    """Why some users' lists are shorter than ``k``, and what to do about it where something can be done.

    Args:
        users: how many have such a list.
        beam: width of the search.
        k: the longest cut-off.
        n_items: items of the catalogue.
    """
    head = f"recommend: {users:,} users have a list of fewer than {k} items, the longest of evaluation.ks"
    if beam >= n_items:
        return (
            f"{head}: the catalogue has {n_items:,}, and those that a user has seen are left out of one list"
        )
    return f"{head}, since beams went to items they have seen; raise evaluation.beam above {beam}"


def _to_table(result: dict[str, np.ndarray]) -> Any:
    import pyarrow as pa

    return pa.table(
        {
            name: pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(a).reshape(-1)), a.shape[1])
            for name, a in result.items()
        }
    )


def _from_table(table: Any) -> dict[str, np.ndarray]:
    return {
        name: np.array(table.column(name).combine_chunks().flatten()).reshape(table.num_rows, -1)
        for name in table.column_names
    }


def _scatter(order: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Rows back in the order of the cases."""
    out = np.empty_like(values)
    out[order] = values
    return out
