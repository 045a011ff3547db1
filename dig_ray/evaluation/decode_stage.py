"""Recommending with a policy: every test user over the full catalogue, decoded on Ray Data.

Users are sorted by history length and cut into batches whose composition never depends on the number of actors, so two runs give equal
bytes. Batches that came back are kept as part files; after a kill only the missing ones are decoded.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dig_ray.base import Stage
from dig_ray.cluster import actor_pool
from dig_ray.errors import UserError
from dig_ray.evaluation.config import EvaluationConfig
from dig_ray.evaluation.recommendations import write_recommendations
from dig_ray.parts import read_part, write_part
from dig_ray.progress import Progress
from dig_ray.subset import evenly_spaced
from dig_ray.telemetry import count, named, observe

if TYPE_CHECKING:
    from dig_ray.catalog.dataset import Cases, Dataset
    from dig_ray.recommender.decoding import BeamSearcher
    from dig_ray.recommender.policy import SidPolicy
    from dig_ray.recommender.tasks import SidStream
    from dig_ray.semantic_ids.prefix_table import PrefixTable
    from dig_ray.semantic_ids.sid_catalog import SidCatalog

INVALID_SAMPLE = 1000  # users whose free decoding is looked at: +-3 points on a rate
FREE_BEAM = 10
ARRAYS = ("items_seen", "scores_seen", "items_unseen", "scores_unseen", "invalid")


@dataclass
class Decoder:
    """A loaded policy, ready to rank histories.

    Attributes:
        about: the policy's ``policy.json``.
    """

    policy: SidPolicy
    sids: SidCatalog
    table: PrefixTable
    about: dict[str, Any]
    _searchers: dict[int, BeamSearcher] = field(default_factory=dict, init=False, repr=False)

    @staticmethod
    def load(
        policy_dir: Path, sids: SidCatalog, use_gpu: bool = False, trust_remote_code: bool = False
    ) -> Decoder:
        """Read a policy; UserError when it is damaged or was trained on other Semantic IDs."""
        from dig_ray.recommender.backbone import load_policy
        from dig_ray.semantic_ids.prefix_table import build_prefix_table

        policy, _, about = load_policy(policy_dir, sids, trust_remote_code=trust_remote_code)
        if use_gpu:
            policy.model.to("cuda")
        return Decoder(
            policy=policy,
            sids=sids,
            table=build_prefix_table(sids.codes, sids.suffix, sids.sizes, sids.n_suffix),
            about=about,
        )

    @cached_property
    def _stream(self) -> SidStream:
        from dig_ray.recommender.tasks import SidStream

        return SidStream(self.sids, self.policy.sid_start)

    def _searcher(self, beam: int) -> BeamSearcher:
        """One searcher per width: it holds the catalogue's table and the packed weights, which no batch changes."""
        from dig_ray.recommender.decoding import BeamSearcher

        if beam not in self._searchers:
            self._searchers[beam] = BeamSearcher(self.policy, self.table, beam, self.about["normalizer"])
        return self._searchers[beam]

    def _prompts(self, histories: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The latest items of each history as the policy reads them, padded: int64 (B, P), lengths int64 (B,)."""
        from dig_ray.recommender.decoding import pad_prompts

        latest = int(self.about["max_history"])
        return pad_prompts(
            [self._stream.prompt(h[-latest:], self.policy.bos) for h in histories], self.policy.pad
        )

    def recommend(
        self, histories: list[np.ndarray], beam: int, k: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Best ``k`` items per history, seen ones allowed and left out: (items, scores, items, scores), each (B, k)."""
        import torch

        prompts, lengths = self._prompts(histories)
        seen = np.full((len(histories), max(len(h) for h in histories)), -1, np.int64)
        for row, history in enumerate(histories):
            seen[row, : len(history)] = history
        searcher = self._searcher(max(beam, k))
        device = self.policy.device
        tensors = [torch.from_numpy(a).to(device) for a in (prompts, lengths, seen)]
        both = searcher.search_both(*tensors)
        out: list[np.ndarray] = []
        for beams in both:
            short = max(0, k - beams.items.shape[1])
            items, scores = beams.items[:, :k].cpu().numpy(), beams.scores[:, :k].cpu().numpy()
            out.append(np.pad(items, ((0, 0), (0, short)), constant_values=-1).astype(np.int32))
            out.append(np.pad(scores, ((0, 0), (0, short)), constant_values=-np.inf).astype(np.float32))
        return out[0], out[1], out[2], out[3]

    def free_invalid(self, histories: list[np.ndarray], beam: int) -> np.ndarray:
        """Bool (B, beam): which beams of unconstrained decoding are no item's codes."""
        import torch

        from dig_ray.recommender.decoding import unconstrained_invalid

        prompts, lengths = self._prompts(histories)
        device = self.policy.device
        return unconstrained_invalid(
            self.policy,
            self.table,
            int(self.about["levels"]),
            torch.from_numpy(prompts).to(device),
            torch.from_numpy(lengths).to(device),
            beam,
        ).numpy()


def run(
    config: EvaluationConfig,
    stage: Stage,
    catalog_dir: Path,
    semantic_ids_dir: Path,
    policy_dir: Path,
    name: str = "policy",
    trust_remote_code: bool = False,
) -> None:
    """Write ``recommendations_<name>_<seen|unseen>.parquet`` for every test case and ``decoding.json``.

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
    for number, result in _decode_on_ray(
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
    """Why users have a list shorter than ``k``, and what to do about it where something can be done."""
    head = f"recommend: {users:,} users have a list of fewer than {k} items, the longest of evaluation.ks"
    if beam >= n_items:
        return (
            f"{head}: the catalogue has {n_items:,}, and those that a user has seen are left out of one list"
        )
    return f"{head}, since beams went to items they have seen; raise evaluation.beam above {beam}"


@dataclass
class _Users:
    """What every actor reads of the users, as flat arrays: it lies in the object store once a machine and is not copied.

    Attributes:
        events: int32 (E,), all events.
        start, end: int64 (C,), the history of each case, in the order of the batches.
        free: bool (C,), whose free decoding is looked at too.
        batch_size: cases per batch.
    """

    events: np.ndarray
    start: np.ndarray
    end: np.ndarray
    free: np.ndarray
    batch_size: int

    def batch(self, number: int) -> tuple[list[np.ndarray], np.ndarray]:
        """Histories of a batch, and bool which of them are decoded freely too."""
        rows = slice(number * self.batch_size, (number + 1) * self.batch_size)
        spans = zip(self.start[rows].tolist(), self.end[rows].tolist(), strict=True)
        return [self.events[start:end] for start, end in spans], self.free[rows]


class _Worker:
    """The Ray Data actor: holds the policy and decodes whole batches."""

    def __init__(
        self, stage: str, shared: Any, policy_dir: str, beam: int, k: int, threads: int, use_gpu: bool
    ) -> None:
        import ray
        import torch

        torch.set_num_threads(threads)
        sids, self.users, trusted = ray.get(shared)
        self.decoder = Decoder.load(Path(policy_dir), sids, use_gpu, trusted)
        self.stage, self.beam, self.k = stage, beam, k

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        number = int(batch["batch"][0])
        histories, free = self.users.batch(number)
        begun = time.perf_counter()
        items, scores, unseen, unseen_scores = self.decoder.recommend(histories, self.beam, self.k)
        observe("dig_decode_batch_seconds", time.perf_counter() - begun, stage=self.stage)
        count("dig_decode_users", len(items), stage=self.stage)
        invalid = np.full((len(items), 1), np.nan, np.float32)  # of the users that are not looked at
        looked_at = np.flatnonzero(free)
        if len(looked_at):
            some = [histories[i] for i in looked_at]
            invalid[looked_at, 0] = self.decoder.free_invalid(some, FREE_BEAM).mean(axis=1)
        arrays = (items, scores, unseen, unseen_scores, invalid)
        columns = {name: [array.tobytes()] for name, array in zip(ARRAYS, arrays, strict=True)}
        return {"batch": [number], "rows": [len(items)], **columns}


def _decode_on_ray(
    config: EvaluationConfig,
    stage: str,
    dataset: Dataset,
    cases: Cases,
    sids: SidCatalog,
    policy_dir: Path,
    order: np.ndarray,
    todo: list[int],
    k: int,
    trust_remote_code: bool = False,
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Yield (batch number, arrays) in the order they come back."""
    if not todo:
        return
    import ray
    from ray.data import DataContext

    if not ray.is_initialized():
        ray.init(
            address="local",
            num_cpus=max(4, os.cpu_count() or 1),
            include_dashboard=False,
            log_to_driver=False,
        )
    total = ray.cluster_resources()
    gpus = config.num_gpus if config.num_gpus is not None else (1.0 if total.get("GPU", 0) >= 1 else 0.0)
    actors = min(
        len(todo), config.num_actors or (int(total["GPU"] // gpus) if gpus else max(1, len(ray.nodes())))
    )
    threads = max(1, (os.cpu_count() or 1) * len(ray.nodes()) // actors)
    free = np.zeros(len(cases), bool)
    if config.unconstrained:
        free[evenly_spaced(len(cases), INVALID_SAMPLE)] = True
    users = _Users(dataset.events, cases.start[order], cases.end[order], free[order], config.batch_size)
    shared = ray.put((sids, users, trust_remote_code))
    context = DataContext.get_current()
    bars, context.enable_progress_bars = context.enable_progress_bars, False
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        rows = [{"batch": n} for n in todo]
        decoded = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            named(_Worker, "Decode"),
            fn_constructor_kwargs={
                "stage": stage,
                "shared": shared,
                "policy_dir": str(policy_dir),
                "beam": config.beam,
                "k": k,
                "threads": threads,
                "use_gpu": gpus > 0,
            },
            compute=actor_pool(actors, config.num_cpus, gpus),
            batch_size=1,
            num_cpus=config.num_cpus,
            num_gpus=gpus or None,
        )
        decoded.set_name(stage)
        for row in decoded.iter_rows():
            n = int(row["rows"])
            yield (
                int(row["batch"]),
                {
                    name: np.frombuffer(row[name], dtype=np.int32 if "items" in name else np.float32).reshape(
                        n, -1
                    )
                    for name in ARRAYS
                },
            )
    finally:
        context.enable_progress_bars = bars
        logger.setLevel(level)


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
