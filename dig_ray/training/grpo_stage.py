"""The GRPO stage: the SFT policy, prompts from the training split, rewards, Ray Train, and the best policy, the SFT start among them.

RL is judged by what it is for: NDCG@10 on the validation users by decoding, at the start and during training. Where it never gets better
than the start, the start is what is published, and the report says so.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dig_ray.base import Stage
from dig_ray.errors import UserError
from dig_ray.subset import evenly_spaced
from dig_ray.training.config import GrpoConfig

if TYPE_CHECKING:
    from dig_ray.catalog.dataset import Dataset
    from dig_ray.semantic_ids.sid_catalog import SidCatalog
    from dig_ray.training.grpo_loop import GrpoJob


def run(
    grpo: GrpoConfig,
    stage: Stage,
    catalog_dir: Path,
    semantic_ids_dir: Path,
    sft_dir: Path,
    judgements_dir: Path | None = None,
    item_interests_dir: Path | None = None,
    user_interests_dir: Path | None = None,
    encoder: str = "minilm",
    trust_remote_code: bool = False,
) -> None:
    """Train a policy on and write ``stage.out/policy`` and ``stage.out/curves.json``; of a stretch see ``training.stage.write_stretch``.

    Args:
        grpo: settings.
        stage: the artifact that is made.
        catalog_dir, semantic_ids_dir, sft_dir: what it starts from.
        judgements_dir: items' quality, where the rewards read it.
        item_interests_dir, user_interests_dir: where the rewards compare them; of an item's, those that a judge called positive.
        encoder: of interests.
        trust_remote_code: run code that comes with an adapter's base.

    Raises:
        UserError: a policy of other Semantic IDs, no training prompts, missing quality, a reward that fails, or a loss that became NaN.
    """
    from dig_ray.catalog.dataset import Dataset
    from dig_ray.recommender.backbone import load_policy, write_about
    from dig_ray.recommender.tasks import check_same_items
    from dig_ray.semantic_ids.sid_catalog import SidCatalog
    from dig_ray.training.grpo_loop import grpo_worker, steps_per_epoch
    from dig_ray.training.ray_train import best_checkpoint, fit
    from dig_ray.training.stage import copy_policy, write_stretch

    started = time.monotonic()
    dataset = Dataset.load(catalog_dir)
    sids = SidCatalog.load(semantic_ids_dir / "semantic_ids.parquet")
    check_same_items(sids, dataset, semantic_ids_dir)
    quality = read_quality(grpo, judgements_dir, dataset) if grpo.reads_quality else None
    interests: tuple[Any, Any] = (None, None)
    if grpo.compares_interests:
        assert item_interests_dir is not None and user_interests_dir is not None
        interests = interest_vectors(
            dataset, item_interests_dir, user_interests_dir, judgements_dir, encoder, stage
        )
    policy_dir = sft_dir / "policy"
    job = build_job(
        grpo, dataset, sids, policy_dir, stage.seed, quality, *interests, trust_remote_code=trust_remote_code
    )
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
    if helped:
        with best.as_directory() as directory:
            copy_policy(Path(directory) / "checkpoint", stage.out / "policy", trust_remote_code)
    else:
        copy_policy(policy_dir, stage.out / "policy", trust_remote_code)
    about = json.loads((policy_dir / "policy.json").read_text())
    # it was trained under the trie's mask, whatever SFT's normalizer was, and so it is decoded
    write_about(stage.out / "policy", about | ({"normalizer": "trie"} if helped else {}))
    # what is published can be read back
    load_policy(stage.out / "policy", sids, trust_remote_code=trust_remote_code)
    (stage.out / "curves.json").write_text(json.dumps(history, indent=1))
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
    quality: np.ndarray | None = None,
    item_interests: list[np.ndarray] | None = None,
    user_interests: list[np.ndarray] | None = None,
    trust_remote_code: bool = False,
) -> GrpoJob:
    """Prompts, validation cases and the policy's files: everything the workers need.

    Raises:
        UserError: a policy of other Semantic IDs, no prompts, or larger groups than there are items.
    """
    from dig_ray.recommender.backbone import load_policy
    from dig_ray.recommender.tasks import SidStream
    from dig_ray.semantic_ids.prefix_table import build_prefix_table
    from dig_ray.training.grpo_loop import GrpoJob
    from dig_ray.training.stage import validation_prompts

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
        quality=quality,
        item_interests=item_interests,
        user_interests=user_interests,
        trust_remote_code=trust_remote_code,
    )


def prompt_events(
    dataset: Dataset, which: str, max_history: int, held_out: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(users, begin, end), int64 each: a prompt is training events ``[begin, end)``, and event ``end`` is its target.

    Args:
        dataset: only its training split is read.
        which: ``all`` events that have one before them, each user's ``last`` one, or those ``held_out`` from SFT.
        max_history: items of a prompt, the latest ones.
        held_out: latest events of each user that SFT did not see.
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


def read_quality(grpo: GrpoConfig, judgements_dir: Path | None, dataset: Dataset) -> np.ndarray:
    """float64 (N,), the quality of every item.

    Raises:
        UserError: items have none and ``grpo.rewards.missing_quality`` does not say what then.
    """
    from dig_ray.mining.read_mined import read_quality as read

    assert judgements_dir is not None
    known = read(judgements_dir)
    ids = dataset.item_ids.tolist()
    missing = [item for item in ids if item not in known]
    instead = grpo.rewards.missing_quality
    if missing and instead is None:
        raise UserError(
            f"{judgements_dir / 'quality.parquet'}: {len(missing):,} of {len(ids):,} items have no quality (such as "
            f"{', '.join(missing[:3])}); judge them, or set grpo.rewards.missing_quality"
        )
    return np.array([known.get(item, instead) for item in ids], float)


def interest_vectors(
    dataset: Dataset,
    item_interests_dir: Path,
    user_interests_dir: Path,
    judgements_dir: Path | None,
    encoder: str,
    stage: Stage,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Unit vectors of every item's and every user's interests, float32 (n_i, D) each; of items the positive ones, where labelled."""
    from dig_ray.mining.read_mined import read_interests, read_labels
    from dig_ray.mining.text_vectors import encode_on_ray

    labels = read_labels(judgements_dir) if judgements_dir is not None else {}
    of_items, of_users = read_interests(item_interests_dir), read_interests(user_interests_dir)
    texts_of_items = [
        [one["text"] for one in of_items.get(item) or () if labels.get((item, one["text"]), 1) == 1]
        for item in dataset.item_ids.tolist()
    ]
    texts_of_users = [[one["text"] for one in of_users.get(user) or ()] for user in dataset.user_ids.tolist()]
    every = [text for texts in (*texts_of_items, *texts_of_users) for text in texts]
    if not every:
        raise UserError("grpo.rewards.gamma reads interests, and mining found none; set it to 0")
    vectors = encode_on_ray(every, encoder, "embedding.model", stage.log)
    width = len(next(iter(vectors.values())))

    def rows(texts: list[str]) -> np.ndarray:
        found: Any = [vectors[text] for text in texts]
        return np.stack(found) if found else np.zeros((0, width), np.float32)

    return [rows(texts) for texts in texts_of_items], [rows(texts) for texts in texts_of_users]
