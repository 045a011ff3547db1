"""The SFT stage: documents, packing, Ray Train, and the best checkpoint as a published policy.

Ray Train's run is named after the stage's fingerprint and stored in ``stage.work``, so the same command after a kill finds its latest
checkpoint and goes on to the same result.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dig_ray.base import Inputs, Stage
from dig_ray.errors import UserError
from dig_ray.numerics.schedule import warm_up_line
from dig_ray.recommender.config import RecommenderConfig
from dig_ray.training.config import SftConfig

if TYPE_CHECKING:
    from dig_ray.catalog.dataset import Dataset
    from dig_ray.semantic_ids.sid_catalog import SidCatalog
    from dig_ray.training.sft_loop import SftJob


def run(config: Any, stage: Stage, inputs: Inputs) -> None:
    """See ``fine_tune``. Of users' interests, those that the config names: the miners' or LDMI's."""
    fine_tune(
        config.sft,
        config.recommender,
        stage,
        inputs["catalog"],
        inputs["semantic_ids"],
        inputs.get("item_interests"),
        inputs.get("multi_interest", inputs.get("user_interests")),
    )


def fine_tune(
    sft: SftConfig,
    recommender: RecommenderConfig,
    stage: Stage,
    catalog_dir: Path,
    semantic_ids_dir: Path,
    item_interests_dir: Path | None = None,
    user_interests_dir: Path | None = None,
) -> None:
    """Train a policy and write ``stage.out/policy`` and ``stage.out/curves.json``; of a stretch see ``publish.write_stretch``.

    Args:
        sft, recommender: settings of training and of the policy.
        stage: the artifact that is made; ``stage.stats`` gets its figures.
        catalog_dir, semantic_ids_dir: directories of artifacts of the same items.
        item_interests_dir, user_interests_dir: directories of mined interests; only tasks that name them need them.

    Raises:
        UserError: no training or validation events, an unloadable backbone, a task without its data, or a loss that became NaN.
    """
    from dig_ray.catalog.dataset import Dataset
    from dig_ray.on_ray.fit import best_checkpoint, fit
    from dig_ray.recommender.tasks import check_same_items
    from dig_ray.semantic_ids.sid_catalog import SidCatalog
    from dig_ray.training.publish import policy_facts, publish, write_stretch
    from dig_ray.training.sft_loop import sft_worker, steps_per_epoch

    started = time.monotonic()
    dataset = Dataset.load(catalog_dir)
    sids = SidCatalog.load(semantic_ids_dir / "semantic_ids.parquet")
    check_same_items(sids, dataset, semantic_ids_dir)
    stage.log(f"sft: packing {len(dataset.events):,} events of {len(dataset.offsets) - 1:,} users")
    job = build_job(
        sft,
        recommender,
        dataset,
        sids,
        stage.seed,
        read_codebooks(semantic_ids_dir),
        interest_texts(item_interests_dir, dataset.item_ids.tolist()),
        interest_texts(user_interests_dir, dataset.user_ids.tolist()),
    )
    rows = len(job.arrays["input_ids"])
    stage.log(
        f"sft: {job.useful_tokens:,} tokens in {rows:,} rows of {sft.row_length} "
        f"({job.useful_tokens / (rows * sft.row_length):.0%} full), {len(job.valid_targets):,} validation users, "
        f"{sft.num_workers} worker(s)"
    )
    if late := warm_up_line("sft", sft.warmup_steps, steps_per_epoch(job) * sft.epochs):
        stage.log(f"sft: warning: {late}")
    name = f"sft-{stage.fingerprint[:16]}"
    result = fit(sft_worker, job, sft, job.threads, stage.work, name, stage.log, stage.stretch)
    if stage.stretch is not None:
        write_stretch(result, name, stage)
        return
    best, history = best_checkpoint(result)
    facts = policy_facts(recommender, sids, sft.hold_out)
    with best.as_directory() as directory:
        publish(Path(directory) / "checkpoint", facts, history, sids, stage, recommender.trust_remote_code)
    scores = [h for h in history if "eval_ndcg@10" in h]
    top = max(scores, key=lambda h: h["eval_ndcg@10"])
    stage.stats.update(
        rows=rows,
        useful_tokens_per_epoch=job.useful_tokens,
        epochs_trained=round(max(h["epoch"] for h in history), 2),
        best_epoch=round(top["epoch"], 2),
        valid_ndcg_at_10=top["eval_ndcg@10"],
        valid_hr_at_10=top["eval_hr@10"],
        valid_users=len(job.valid_targets),
        seconds=round(time.monotonic() - started, 1),
    )
    stage.log(f"sft: best validation NDCG@10 {top['eval_ndcg@10']:.4f} at epoch {top['epoch']:.0f}")


def interest_texts(directory: Path | None, subjects: list[str]) -> list[str] | None:
    """Each subject's merged interests as one text, strongest first; None without an artifact."""
    if directory is None:
        return None
    from dig_ray.mining.read_mined import read_interests

    found = read_interests(directory)
    return ["; ".join(one["text"] for one in found.get(subject) or ()) for subject in subjects]


def build_job(
    sft: SftConfig,
    recommender: RecommenderConfig,
    dataset: Dataset,
    sids: SidCatalog,
    seed: int,
    codebooks: list[np.ndarray] | None = None,
    item_interests: list[str] | None = None,
    user_interests: list[str] | None = None,
) -> SftJob:
    """Documents, packing and validation prompts: everything the workers need.

    Args:
        sft, recommender: settings of training and of the policy.
        dataset, sids: catalogue and Semantic IDs of the same items, in the same order.
        seed: the seed of random weights, dropout and the order of rows.
        codebooks: per level, the (K_l, D) vectors that SID tokens start from; None starts them at random.
        item_interests, user_interests: one text for each item and each user, "" where none was mined; None when no task reads them.

    Raises:
        UserError: a backbone that cannot be trained, no events to learn from, a document longer than a row or than what the backbone
            reads, or no validation users.
    """
    from dig_ray.recommender.backbone import build_tokenizer, token_id
    from dig_ray.recommender.packing import fill_rows, pack, packed_arrays
    from dig_ray.recommender.pretrained import check_adapter, check_backbone, longest_text
    from dig_ray.recommender.tasks import SidStream, TaskInputs, build_documents
    from dig_ray.semantic_ids.prefix_table import build_prefix_table
    from dig_ray.training.sft_loop import SftJob
    from dig_ray.training.validation import validation_prompts

    check_backbone(recommender)
    check_adapter(recommender)
    dataset = dataset.without_latest(sft.hold_out)
    titles = dataset.items.column("title").to_pylist()
    texts = [t for t in (*titles, *(item_interests or ()), *(user_interests or ())) if t]
    tokenizer = build_tokenizer(recommender, sids, texts)
    sid_start = token_id(tokenizer, sids.token_strings[0])
    bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    documents = build_documents(
        TaskInputs(
            dataset,
            sids,
            tokenizer,
            recommender,
            sid_start,
            bos,
            tokenizer.eos_token_id,
            item_interests,
            user_interests,
        )
    )
    if not len(documents) or not (documents.target_item >= 0).any():
        raise UserError(
            "sft: the training split has no events to learn from; lower catalog.k_core or check the split"
        )
    longest = int(np.diff(documents.offsets).max())
    if longest > sft.row_length:
        raise UserError(
            f"sft.row_length={sft.row_length}: the longest document has {longest} tokens; raise it to at least {longest}, "
            "or lower recommender.max_history"
        )
    most = longest_text(recommender)
    if most is not None and longest > most:
        raise UserError(
            f"recommender.max_history={recommender.max_history}: the longest document has {longest} tokens, and {recommender.backbone} "
            f"reads {most} at most; lower it, or recommender.max_text_tokens"
        )
    rows = pack(np.diff(documents.offsets), sft.row_length)
    pad = int(tokenizer.pad_token_id)
    prompts, targets = validation_prompts(
        dataset, SidStream(sids, sid_start), bos, recommender.max_history, sft.valid_users, "sft"
    )
    threads = sft.threads_per_worker or max(1, (os.cpu_count() or 1) // sft.num_workers)
    return SftJob(
        sft=sft,
        recommender=recommender,
        seed=seed,
        table=build_prefix_table(sids.codes, sids.suffix, sids.sizes, sids.n_suffix),
        arrays=fill_rows(packed_arrays(documents, rows, sft.row_length, pad), sft.rows_per_step, pad),
        valid_prompts=prompts,
        valid_targets=targets,
        sids=sids,
        texts=texts,
        threads=threads,
        codebooks=codebooks,
    )


def read_codebooks(semantic_ids_dir: Path) -> list[np.ndarray] | None:
    """Per level the (K_l, D) vectors of the quantizer; None for SIDs that were brought along."""
    path = semantic_ids_dir / "codebooks.safetensors"
    if not path.exists():
        return None
    from safetensors.numpy import load_file

    tensors = load_file(path)
    return [
        tensors[f"codebook.{level}"] for level in range(sum(name.startswith("codebook.") for name in tensors))
    ]
