"""What every GRPO worker runs, and the plain data it needs.

``grpo_worker`` is Ray Train's ``train_loop_per_worker``; ``make_trainer`` also runs in one plain process.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dig_ray.base import Stretch
from dig_ray.on_ray.worker import run_worker
from dig_ray.semantic_ids.prefix_table import PrefixTable
from dig_ray.training.grpo_config import GrpoConfig
from dig_ray.training.in_parts import train_in_parts
from dig_ray.training.in_parts import trainer_arguments as common_arguments


@dataclass(frozen=True)
class GrpoJob:
    """All a worker needs, as plain data that travels through Ray's object store.

    Attributes:
        grpo: settings.
        seed: the seed of rollouts and of the order of prompts.
        policy: the SFT policy's files by name; they travel along, so that workers need no path of the driver's.
        table: the catalogue's prefixes.
        sids: its Semantic IDs, a ``SidCatalog``.
        prompt_tokens, prompt_offsets, targets, users: the training prompts, as ``grpo_trainer.Prompts`` takes them.
        valid_prompts: C validation histories, int64 vocabulary ids each.
        valid_targets: int64 (C,), the item that followed each.
        threads: torch threads of each worker.
        evidence: what the rewards read, by the names of ``reward_evidence``.
        trust_remote_code: run Python code that comes with the base of an adapter.
    """

    grpo: GrpoConfig
    seed: int
    policy: dict[str, bytes]
    table: PrefixTable
    sids: Any
    prompt_tokens: np.ndarray
    prompt_offsets: np.ndarray
    targets: np.ndarray
    users: np.ndarray
    valid_prompts: list[np.ndarray]
    valid_targets: np.ndarray
    threads: int
    evidence: dict[str, Any] = field(default_factory=dict)
    trust_remote_code: bool = False


def steps_per_epoch(job: GrpoJob) -> int:
    """Optimisation steps of one pass over the prompts; what does not fill a step waits for another epoch's order."""
    return max(1, len(job.targets) // job.grpo.prompts_per_step) * job.grpo.num_iterations


def trainer_arguments(job: GrpoJob, output: str) -> Any:
    """The job's settings under TRL's names; ``output`` is the folder of its checkpoints."""
    from trl import GRPOConfig as TrlGrpoConfig

    grpo = job.grpo
    every = grpo.eval_every_steps
    published = grpo.loss_type == "published"
    return TrlGrpoConfig(
        **common_arguments(grpo, job.seed, output, every),
        per_device_train_batch_size=grpo.prompts_per_step
        // (grpo.num_workers * grpo.gradient_accumulation)
        * grpo.num_generations,
        per_device_eval_batch_size=grpo.num_generations,  # never used: ``evaluate`` decodes
        num_generations=grpo.num_generations,
        num_iterations=grpo.num_iterations,
        max_completion_length=job.table.depth,
        temperature=grpo.temperature,
        beta=0.0,  # the trainer would look for a reference of its own
        epsilon=grpo.epsilon,
        epsilon_high=grpo.epsilon_high,
        loss_type="grpo" if published else grpo.loss_type,
        importance_sampling_level="sequence" if published else grpo.importance_sampling_level,
        scale_rewards="group" if grpo.scale_rewards == "published" else grpo.scale_rewards,
        logging_steps=next(n for n in range(max(1, every // 10), 0, -1) if every % n == 0),
        dataloader_pin_memory=False,
    )


def make_trainer(job: GrpoJob, output: str, callbacks: Sequence[Any] = ()) -> Any:
    """The trainer of one worker, with policy, rewards and prompts in it.

    Args:
        job: all it needs.
        output: folder that the policy's files and the checkpoints are written to.
        callbacks: transformers' callbacks, called after the one that stops a run that gets no better.

    Raises:
        UserError: the policy cannot be read, or a custom reward cannot be imported.
    """
    from transformers import PrinterCallback

    from dig_ray.recommender.backbone import load_policy
    from dig_ray.recommender.decoding import BeamSearcher
    from dig_ray.training.grpo_trainer import Prompts, SidGrpoTrainer
    from dig_ray.training.rewards import reward_functions
    from dig_ray.training.validation import StopWhenStale, ValidationSet

    start = Path(output) / "start"
    start.mkdir(parents=True, exist_ok=True)
    for name, content in job.policy.items():
        (start / name).write_bytes(content)
    policy, tokenizer, _ = load_policy(
        start, job.sids, trainable=True, trust_remote_code=job.trust_remote_code
    )
    trainer = SidGrpoTrainer(
        policy=policy,
        table=job.table,
        sids=job.sids,
        prompts=Prompts(job.prompt_tokens, job.prompt_offsets, job.targets, job.users),
        functions=reward_functions(job.grpo.rewards, job.evidence),
        config=job.grpo,
        args=trainer_arguments(job, f"{output}/run"),
        valid=ValidationSet(job.valid_prompts, job.valid_targets, policy.pad),
        searcher=lambda: BeamSearcher(policy, job.table, job.grpo.valid_beam, "trie"),
        seed=job.seed,
        tokenizer=tokenizer,
        callbacks=[StopWhenStale(job.grpo.patience), *callbacks],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def grpo_worker(config: dict[str, Any]) -> None:
    """Ray Train worker: roll out, judge, train; report a full checkpoint at every validation, resume from the latest one."""
    run_worker(config, "grpo", _train)


def _train(job: GrpoJob, say: Callable[[Any], None], stretch: Stretch) -> None:
    import ray.train
    from ray.train.huggingface.transformers import RayTrainReportCallback, prepare_trainer

    from dig_ray.on_ray.said import doing
    from dig_ray.on_ray.training_figures import Figures
    from dig_ray.training.validation import ProgressLines

    lead = ray.train.get_context().get_world_rank() == 0

    def make(settings: GrpoConfig, folder: str) -> tuple[Any, Any]:
        if lead:
            doing(say, "loading the policy that SFT trained")
        callbacks: list[Any] = [RayTrainReportCallback()]
        if lead:
            per_step = settings.prompts_per_step
            callbacks += [
                ProgressLines(say, "grpo", per_step, "prompts"),
                Figures(say, "grpo", per_step, "prompts"),
            ]
        return prepare_trainer(make_trainer(replace(job, grpo=settings), folder, callbacks)), None

    with tempfile.TemporaryDirectory() as output:
        train_in_parts(job.grpo, 1, stretch, output, make)
