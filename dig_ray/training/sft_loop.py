"""What every SFT worker runs, and the plain data it needs.

``sft_worker`` is Ray Train's ``train_loop_per_worker``; everything in it also runs in one plain process.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dig_ray.base import Stretch
from dig_ray.on_ray.worker import run_worker
from dig_ray.recommender.config import RecommenderConfig
from dig_ray.semantic_ids.prefix_table import PrefixTable
from dig_ray.training.config import SftConfig
from dig_ray.training.in_parts import train_in_parts
from dig_ray.training.in_parts import trainer_arguments as common_arguments


@dataclass(frozen=True)
class SftJob:
    """All a worker needs, as plain data that travels through Ray's object store.

    Attributes:
        sft, recommender: settings of training and of the policy.
        seed: the seed of random weights, dropout and the order of rows.
        table: the catalogue's prefixes.
        arrays: packed documents, int64 (R, row_length) each, under the names of ``packing.packed_arrays``.
        valid_prompts: C validation histories, int64 vocabulary ids each.
        valid_targets: int64 (C,), the item that followed each.
        sids: the catalogue's Semantic IDs, a ``SidCatalog``.
        texts: what a from-scratch tokenizer learns its words on, when a text task is on.
        threads: torch threads of each worker.
        codebooks: per level, (K_l, D) vectors behind the SID tokens, where the quantizer left any.
    """

    sft: SftConfig
    recommender: RecommenderConfig
    seed: int
    table: PrefixTable
    arrays: dict[str, np.ndarray]
    valid_prompts: list[np.ndarray]
    valid_targets: np.ndarray
    sids: Any
    texts: list[str]
    threads: int
    codebooks: list[np.ndarray] | None = None

    @property
    def useful_tokens(self) -> int:
        """How many tokens of the packed rows are no padding."""
        return int((self.arrays["document"] >= 0).sum())


def steps_per_epoch(job: SftJob) -> int:
    """Optimisation steps an epoch; rows are filled up to whole steps."""
    return -(-len(job.arrays["input_ids"]) // job.sft.rows_per_step)


def trainer_arguments(job: SftJob, output: str) -> Any:
    """The job's settings under TRL's names; ``output`` is the folder of its checkpoints."""
    from trl import SFTConfig as TrlSftConfig

    sft = job.sft
    every = steps_per_epoch(job) * sft.eval_every_epochs
    options: dict[str, Any] = {}
    if sft.parallel == "fsdp":
        options["fsdp"] = "full_shard auto_wrap"
    return TrlSftConfig(
        **common_arguments(sft, job.seed, output, every),
        per_device_train_batch_size=sft.rows_per_step // (sft.num_workers * sft.gradient_accumulation),
        logging_steps=max(1, steps_per_epoch(job) // 4),
        dataloader_pin_memory=sft.use_gpu,
        average_tokens_across_devices=True,
        max_length=None,
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        **options,
    )


def make_trainer(job: SftJob, output: str, callbacks: list[Any] | None = None) -> Any:
    """The trainer of one worker, with policy, loss and data in it.

    Args:
        job: all it needs.
        output: folder that the checkpoints are written to.
        callbacks: transformers' callbacks, called after the one that stops a run that gets no better.

    Raises:
        UserError: the backbone cannot be loaded.
    """
    import torch
    from transformers import PrinterCallback

    from dig_ray.recommender.backbone import add_embedding_dropout, build_policy, build_tokenizer
    from dig_ray.recommender.decoding import BeamSearcher
    from dig_ray.recommender.objective import SidLoss
    from dig_ray.training.sft_trainer import SidTrainer
    from dig_ray.training.validation import StopWhenStale, ValidationSet
    from dig_ray.training.weight_average import WeightAverage

    tokenizer = build_tokenizer(job.recommender, job.sids, job.texts)
    policy = build_policy(job.recommender, job.sids, tokenizer, job.seed, job.codebooks)
    if job.recommender.backbone == "decoder":
        add_embedding_dropout(policy, job.recommender.decoder.embedding_dropout)
    arguments = trainer_arguments(job, output)
    names = {"label": "labels"}
    arrays = {names.get(k, k): torch.from_numpy(np.ascontiguousarray(v)) for k, v in job.arrays.items()}
    trainer = SidTrainer(
        policy=policy,
        loss=SidLoss(job.table, job.recommender.normalizer, job.sft.label_smoothing),
        arrays=arrays,
        valid=ValidationSet(job.valid_prompts, job.valid_targets, policy.pad),
        searcher=lambda: BeamSearcher(policy, job.table, job.sft.valid_beam, job.recommender.normalizer),
        args=arguments,
        tokenizer=tokenizer,
        callbacks=[StopWhenStale(job.sft.patience), *(callbacks or [])],
        average=WeightAverage(policy.model, job.sft.average_decay) if job.sft.average_decay else None,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def sft_worker(config: dict[str, Any]) -> None:
    """Ray Train worker: train, report a full checkpoint at every validation, resume from the latest one."""
    run_worker(config, "sft", _train)


def _train(job: SftJob, say: Callable[[Any], None], stretch: Stretch) -> None:
    import ray.train
    from ray.train.huggingface.transformers import RayTrainReportCallback, prepare_trainer

    from dig_ray.on_ray.said import doing
    from dig_ray.on_ray.training_figures import Figures
    from dig_ray.training.validation import ProgressLines

    lead = ray.train.get_context().get_world_rank() == 0

    def make(settings: SftConfig, folder: str) -> tuple[Any, Any]:
        if lead:
            doing(say, f"loading {job.recommender.backbone}, with {len(job.sids.token_strings):,} new tokens")
        callbacks: list[Any] = [RayTrainReportCallback()]
        if lead:
            per_step = job.useful_tokens / steps_per_epoch(job)
            callbacks += [ProgressLines(say, "sft", per_step), Figures(say, "sft", per_step, "tokens")]
        trainer = make_trainer(replace(job, sft=settings), folder, callbacks)
        return prepare_trainer(trainer), trainer.average.load if trainer.average else None

    with tempfile.TemporaryDirectory() as output:
        train_in_parts(job.sft, steps_per_epoch(job), stretch, output, make)
