"""The GRPO stage: the SFT policy, prompts from the training split, rewards, Ray Train, and the best policy, the SFT start among them.

RL is judged by what it is for: NDCG@10 on the validation users by decoding, at the start and during training. Where it never gets better
than the start, the start is what is published, and the report says so.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from dig_ray.base import Inputs, Stage
from dig_ray.errors import UserError
from dig_ray.numerics.subset import evenly_spaced
from dig_ray.training.grpo_config import GrpoConfig

if TYPE_CHECKING:
    from dig_ray.catalog.dataset import Dataset
    from dig_ray.semantic_ids.sid_catalog import SidCatalog
    from dig_ray.training.grpo_loop import GrpoJob


def run(config: Any, stage: Stage, inputs: Inputs) -> None:
    """See ``train_by_rewards``."""
    train_by_rewards(
        config.grpo,
        stage,
        inputs["catalog"],
        inputs["semantic_ids"],
        inputs["sft"],
        inputs,
        config.embedding.model,
        config.recommender.trust_remote_code,
    )


def train_by_rewards(
    grpo: GrpoConfig,
    stage: Stage,
    catalog_dir: Path,
    semantic_ids_dir: Path,
    sft_dir: Path,
    mined: Inputs = MappingProxyType({}),
    encoder: str = "minilm",
    trust_remote_code: bool = False,
) -> None:
    """Train a policy on and write ``stage.out/policy`` and ``stage.out/curves.json``; of a stretch see ``publish.write_stretch``.

    Args:
        grpo: settings of training and of rewards.
        stage: the artifact that is made; ``stage.stats`` gets its figures.
        catalog_dir, semantic_ids_dir, sft_dir: directories of the artifacts that it starts from, all of the same items.
        mined: stage -> directory of its artifact, for all that the rewards read, see ``reward_evidence``.
        encoder: key or path of the text encoder that interests are compared by.
        trust_remote_code: run Python code that comes with the base of an adapter.

    Raises:
        UserError: a policy of other Semantic IDs, no training prompts, missing quality, a reward that fails, or a loss that became NaN.
    """
    from dig_ray.catalog.dataset import Dataset
    from dig_ray.on_ray.fit import best_checkpoint, fit
    from dig_ray.recommender.tasks import check_same_items
    from dig_ray.semantic_ids.sid_catalog import SidCatalog
    from dig_ray.training.grpo_loop import grpo_worker, steps_per_epoch
    from dig_ray.training.publish import publish, write_stretch
    from dig_ray.training.reward_evidence import Sources

    started = time.monotonic()
    dataset = Dataset.load(catalog_dir)
    sids = SidCatalog.load(semantic_ids_dir / "semantic_ids.parquet")
    check_same_items(sids, dataset, semantic_ids_dir)
    sources = Sources(grpo.rewards, dataset, mined, encoder, stage.log)
    evidence = {one.name: one.read(sources) for one in grpo.evidence}
    policy_dir = sft_dir / "policy"
    job = build_job(grpo, dataset, sids, policy_dir, stage.seed, evidence, trust_remote_code)
    steps = steps_per_epoch(job) * grpo.epochs
    stage.log(
        f"grpo: {len(job.targets):,} prompts, {grpo.num_generations} rollouts each ({grpo.method}), {steps:,} steps of "
        f"{grpo.prompts_per_step} prompts, {len(job.valid_targets):,} validation users, {grpo.num_workers} worker(s)"
    )
    name = f"grpo-{stage.fingerprint[:16]}"
    result = fit(grpo_worker, job, grpo, job.threads, stage.work, name, stage.log, stage.stretch)
    if stage.stretch is not None:
        write_stretch(result, name, stage)
        return
    best, history = best_checkpoint(result)
    scores = [h for h in history if "eval_ndcg@10" in h]
    start = scores[0]
    top = max(scores, key=lambda h: h["eval_ndcg@10"])  # the first of equals
    helped = top is not start
    facts = json.loads((policy_dir / "policy.json").read_text())
    if helped:
        # it was trained under the trie's mask, whatever SFT's normalizer was, and so it is decoded
        facts["normalizer"] = "trie"
        with best.as_directory() as directory:
            publish(Path(directory) / "checkpoint", facts, history, sids, stage, trust_remote_code)
    else:
        publish(policy_dir, facts, history, sids, stage, trust_remote_code)
    stage.stats.update(
        prompts=len(job.targets),
        steps=max(h["step"] for h in history),
        best_step=top["step"],
        helped=helped,
        start_valid_ndcg_at_10=start["eval_ndcg@10"],
        start_valid_hr_at_10=start["eval_hr@10"],
        valid_ndcg_at_10=top["eval_ndcg@10"],
        valid_hr_at_10=top["eval_hr@10"],
        valid_users=len(job.valid_targets),
        seconds=round(time.monotonic() - started, 1),
    )
    stage.log(
        f"grpo: validation NDCG@10 {start['eval_ndcg@10']:.4f} before, {top['eval_ndcg@10']:.4f} at step {top['step']}"
        + ("" if helped else "; no step was better than the start, which is kept")
    )


def build_job(
    grpo: GrpoConfig,
    dataset: Dataset,
    sids: SidCatalog,
    policy_dir: Path,
    seed: int,
    evidence: Mapping[str, Any] = MappingProxyType({}),
    trust_remote_code: bool = False,
) -> GrpoJob:
    """Prompts, validation cases and the policy's files: everything the workers need.

    Args:
        grpo: settings of training and of rewards.
        dataset, sids: catalogue and Semantic IDs of the same items, in the same order.
        policy_dir: directory of the SFT policy that is trained on.
        seed: the seed of rollouts and of the order of prompts.
        evidence: what the rewards read, by the names of ``reward_evidence``.
        trust_remote_code: run Python code that comes with the base of an adapter.

    Raises:
        UserError: a policy of other Semantic IDs, no prompts, or larger groups than there are items.
    """
    from dig_ray.recommender.backbone import load_policy
    from dig_ray.recommender.tasks import SidStream
    from dig_ray.semantic_ids.prefix_table import build_prefix_table
    from dig_ray.training.grpo_loop import GrpoJob
    from dig_ray.training.validation import validation_prompts

    if grpo.num_generations > dataset.n_items:
        raise UserError(
            f"grpo.num_generations={grpo.num_generations}: the catalogue has only {dataset.n_items} items to roll out; lower it"
        )
    policy, _, about = load_policy(policy_dir, sids, trust_remote_code=trust_remote_code)
    max_history = int(about["max_history"])
    stream = SidStream(sids, policy.sid_start)
    held_out = int(about.get("held_out", 0))
    if grpo.prompts == "held_out" and not held_out:
        raise UserError(
            f"grpo.prompts=held_out: SFT of {policy_dir} saw every training event; set sft.hold_out=1 and train it again, or set "
            "grpo.prompts to all or last"
        )
    users, begin, end = prompt_events(dataset, grpo.prompts, max_history, held_out)
    if not len(users):
        raise UserError(
            "grpo: no user of the training split has two events, so there is nothing to roll out from; check catalog.split"
        )
    if grpo.max_prompts is not None:
        chosen = evenly_spaced(len(users), grpo.max_prompts)
        users, begin, end = users[chosen], begin[chosen], end[chosen]
    if len(users) < grpo.prompts_per_step:
        raise UserError(
            f"grpo.prompts_per_step={grpo.prompts_per_step}: there are only {len(users):,} prompts; lower it"
        )
    _, items = dataset.train_sequences()
    prompts = [stream.prompt(items[low:high], policy.bos) for low, high in zip(begin, end, strict=True)]
    valid_prompts, valid_targets = validation_prompts(
        dataset, stream, policy.bos, max_history, grpo.valid_users, "grpo"
    )
    return GrpoJob(
        grpo=grpo,
        seed=seed,
        policy={path.name: path.read_bytes() for path in sorted(policy_dir.iterdir()) if path.is_file()},
        table=build_prefix_table(sids.codes, sids.suffix, sids.sizes, sids.n_suffix),
        sids=sids,
        prompt_tokens=np.concatenate(prompts).astype(np.int32),
        prompt_offsets=np.concatenate([[0], np.cumsum([len(p) for p in prompts])]).astype(np.int64),
        targets=items[end].astype(np.int64),
        users=users,
        valid_prompts=valid_prompts,
        valid_targets=valid_targets,
        threads=grpo.threads_per_worker or max(1, (os.cpu_count() or 1) // grpo.num_workers),
        evidence=dict(evidence),
        trust_remote_code=trust_remote_code,
    )


def prompt_events(
    dataset: Dataset, which: str, max_history: int, held_out: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(users, begin, end), int64 each: a prompt is training events ``[begin, end)``, and event ``end`` is its target.

    Args:
        dataset: only its training split is read.
        which: ``all`` events that have one before them, each user's ``last`` one, or those ``held_out`` from SFT.
        max_history: a prompt holds at most so many items, the latest ones.
        held_out: how many of each user's latest training events SFT did not see.
    """
    offsets, _ = dataset.train_sequences()
    lengths = np.diff(offsets)
    if which == "held_out":
        start = dataset.kept_without_latest(held_out)
    else:  # an event has one before it
        start = np.minimum(lengths, 1 if which == "all" else np.maximum(lengths - 1, 1))
    count = lengths - start
    users = np.repeat(np.arange(len(lengths)), count)
    end = offsets[users] + start[users] + np.arange(len(users)) - np.repeat(np.cumsum(count) - count, count)
    begin = np.maximum(offsets[users], end - max_history)
    return users.astype(np.int64), begin.astype(np.int64), end.astype(np.int64)
