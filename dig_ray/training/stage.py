"""The SFT stage: documents, packing, Ray Train, and the best checkpoint as a published policy.

Ray Train's run is named after the stage's fingerprint and stored in ``stage.work``, so the same command after a kill finds its latest
checkpoint and goes on to the same result.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dig_ray.base import Stage
from dig_ray.errors import UserError
from dig_ray.recommender.config import RecommenderConfig
from dig_ray.schedule import warm_up_line
from dig_ray.subset import evenly_spaced
from dig_ray.training.config import SftConfig

if TYPE_CHECKING:
    from dig_ray.catalog.dataset import Dataset
    from dig_ray.recommender.tasks import SidStream
    from dig_ray.semantic_ids.sid_catalog import SidCatalog
    from dig_ray.training.sft_loop import SftJob

PUBLISHED = {
    ".safetensors",
    ".json",
    ".txt",
    ".model",
    ".jinja",
}  # weights, configs and tokenizers; no pickles
STATE = {"trainer_state.json", "average.safetensors"}


def run(
    sft: SftConfig,
    recommender: RecommenderConfig,
    stage: Stage,
    catalog_dir: Path,
    semantic_ids_dir: Path,
    item_interests_dir: Path | None = None,
    user_interests_dir: Path | None = None,
) -> None:
    """Train a policy and write ``stage.out/policy`` and ``stage.out/curves.json``; of a stretch see ``write_stretch``.

    The interests' artifacts are needed by the tasks that name them only.

    Raises:
        UserError: no training or validation events, an unloadable backbone, a task without its data, or a loss that became NaN.
    """
    from dig_ray.catalog.dataset import Dataset
    from dig_ray.recommender.backbone import load_policy
    from dig_ray.recommender.tasks import check_same_items
    from dig_ray.semantic_ids.sid_catalog import SidCatalog
    from dig_ray.training.ray_train import best_checkpoint, fit
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
    with best.as_directory() as directory:
        copy_policy(Path(directory) / "checkpoint", stage.out / "policy", recommender.trust_remote_code)
    write_policy_facts(stage.out / "policy", recommender, sids, sft.hold_out)
    (stage.out / "curves.json").write_text(json.dumps(history, indent=1))
    # what is published can be read back
    load_policy(stage.out / "policy", sids, trust_remote_code=recommender.trust_remote_code)
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


def write_stretch(result: Any, name: str, stage: Stage) -> None:
    """Leave where a stretch's last checkpoint is, and its validations, for whoever goes on from there."""
    from dig_ray.training.ray_train import last_checkpoint

    where, history = last_checkpoint(result, stage.work, name)
    stage.stats.update(checkpoint=where, curves=history)


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
        sft, recommender: settings.
        dataset, sids: of the same items, in the same order.
        seed: of everything that is drawn.
        codebooks: vectors that SID tokens start from.
        item_interests, user_interests: one text an item or user, "" where none was mined; None when no task reads them.
    """
    from dig_ray.recommender.backbone import build_tokenizer, token_id
    from dig_ray.recommender.packing import fill_rows, pack, packed_arrays
    from dig_ray.recommender.pretrained import check_adapter, check_backbone, longest_text
    from dig_ray.recommender.tasks import SidStream, TaskInputs, build_documents
    from dig_ray.semantic_ids.prefix_table import build_prefix_table
    from dig_ray.training.sft_loop import SftJob

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


def validation_prompts(
    dataset: Dataset, stream: SidStream, bos: int, max_history: int, users: int | None, name: str
) -> tuple[list[np.ndarray], np.ndarray]:
    """Histories (vocabulary ids) and targets int64 of the validation users, or of so many of them, evenly spaced.

    Args:
        dataset, stream: of the same items.
        bos: vocabulary id that begins a history.
        max_history: items of it, the latest ones.
        users: at most so many.
        name: of the stage, for messages.

    Raises:
        UserError: there are none.
    """
    cases = dataset.cases("valid")
    if not len(cases.target):
        raise UserError(
            f"{name}: the validation split is empty, so nothing can pick the best policy; check catalog.split"
        )
    chosen = evenly_spaced(len(cases.target), len(cases.target) if users is None else users)
    prompts = [
        stream.prompt(
            dataset.events[max(int(cases.start[i]), int(cases.end[i]) - max_history) : int(cases.end[i])], bos
        )
        for i in chosen.tolist()
    ]
    return prompts, cases.target[chosen].astype(np.int64)


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


def copy_policy(checkpoint: Path, target: Path, code: bool = False) -> None:
    """Copy weights and tokenizer out of a training checkpoint or a policy: the averaged weights, where there are some, over the others.

    ``code`` copies the Python files of a trusted model too.
    """
    from dig_ray.training.weight_average import FOLDER

    target.mkdir(parents=True)
    for folder in (checkpoint, checkpoint / FOLDER):
        for file in sorted(folder.iterdir()) if folder.is_dir() else ():
            wanted = file.suffix in PUBLISHED or (code and file.suffix == ".py")
            if file.is_file() and wanted and file.name not in STATE:
                shutil.copyfile(file, target / file.name)


def write_policy_facts(
    directory: Path, recommender: RecommenderConfig, sids: SidCatalog, held_out: int = 0
) -> None:
    """Say beside a policy what it was trained for, and how many of each user's latest training events it has not seen."""
    from dig_ray.recommender.backbone import write_about
    from dig_ray.recommender.pretrained import source

    names = sids.token_strings
    write_about(
        directory,
        {
            "sid_fingerprint": sids.fingerprint,
            "n_sid": len(names),
            "first_sid_token": names[0],
            "normalizer": recommender.normalizer,
            "max_history": recommender.max_history,
            "held_out": held_out,
            "levels": int(sids.codes.shape[1]),
            "dtype": recommender.dtype,
            "base_model": source(recommender.backbone) if recommender.lora is not None else None,
            "base_revision": recommender.revision,
        },
    )
