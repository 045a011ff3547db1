"""Batches of users decoded by a pool of actors on Ray Data, each of which holds the policy."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dig_ray.evaluation.config import EvaluationConfig
from dig_ray.evaluation.policy_decoder import Decoder
from dig_ray.numerics.subset import evenly_spaced
from dig_ray.on_ray.session import actor_pool
from dig_ray.on_ray.telemetry import count, named, observe

if TYPE_CHECKING:
    from dig_ray.catalog.dataset import Cases, Dataset
    from dig_ray.semantic_ids.sid_catalog import SidCatalog

INVALID_SAMPLE = 1000  # users whose free decoding is looked at: +-3 points on a rate
FREE_BEAM = 10
ARRAYS = ("items_seen", "scores_seen", "items_unseen", "scores_unseen", "invalid")


@dataclass
class UserBatches:
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


class DecodeWorker:
    """The Ray Data actor: holds the policy and decodes whole batches.

    Args:
        stage: name that its metrics carry.
        shared: reference to (Semantic IDs, :class:`UserBatches`, whether a backbone may bring code of its own).
        policy_dir: the policy's folder.
        beam: width of the search.
        k: length of the lists.
        threads: the threads of torch in this process.
        use_gpu: compute on CUDA.
    """

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


def decode_on_ray(
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
    """Decode batches of users on as many actors as the config asks for, or the cluster has room for.

    Args:
        config: beam, batch size, actors and what each asks for.
        stage: name that Ray and the metrics show.
        dataset: whose events are read.
        cases: C cases that are decoded.
        sids: Semantic IDs of the catalogue.
        policy_dir: the policy's folder.
        order: int (C,), the order in which cases are cut into batches.
        todo: numbers of the batches that are decoded.
        k: length of the lists.
        trust_remote_code: whether a backbone may bring code of its own.

    Yields:
        (batch number, arrays) in the order they come back. Of a batch's B cases these are ``items_seen`` and ``items_unseen``, int32
        (B, k) padded -1, ``scores_seen`` and ``scores_unseen``, float32 (B, k), and ``invalid``, float32 (B, 1): which share of free beams
        is no item, NaN where that was not looked at.
    """
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
    users = UserBatches(dataset.events, cases.start[order], cases.end[order], free[order], config.batch_size)
    shared = ray.put((sids, users, trust_remote_code))
    context = DataContext.get_current()
    bars, context.enable_progress_bars = context.enable_progress_bars, False
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        rows = [{"batch": n} for n in todo]
        decoded = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            named(DecodeWorker, "Decode"),
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
