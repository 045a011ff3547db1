"""Bench: packed against padded histories, and SFT through Ray Train and TRL against a bare PyTorch loop.

    python jobs/bench_sft.py [--steps 12] [--threads 1]

Histories are Amazon Beauty's training events ($DIG_RAY_DATA or ../shared/data), or generated ones of the same lengths. Packed rows of 256
tokens and rows padded to 50 items go through the same model and loss by turns; the trainer and the bare loop take the same batch one
after the other inside one Ray Train worker, so a busy machine slows both. All figures are ratios within one run. 2 CPU cores, about
6 minutes. Exit code 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from dig_ray.bench import conclude

ROOT = Path(__file__).resolve().parents[1]
SIZES = (256, 256, 256)
N_ITEMS, LONGEST = 12_101, 50
TARGETS = {  # figure: (direction, limit)
    "packed_over_padded": (">=", 5.0),
    "loss_difference": ("<=", 1e-5),
    "trainer_over_bare_loop": (">=", 0.85),
}


def histories() -> tuple[Any, str]:
    """A dataset of Beauty's users (the last two events held out), and where it is from."""
    import pyarrow as pa

    from dig_ray.catalog.dataset import Dataset

    path = Path(os.environ.get("DIG_RAY_DATA", ROOT.parent / "shared" / "data")) / "amazon14_beauty"
    if (path / "interactions.parquet").is_file():
        import pyarrow.parquet as pq

        table = pq.read_table(path / "interactions.parquet", columns=["user_id", "item_id", "position"])
        table = table.sort_by([("user_id", "ascending"), ("position", "ascending")])
        users, events = (table[c].combine_chunks().dictionary_encode() for c in ("user_id", "item_id"))
        lengths = np.bincount(users.indices.to_numpy())
        items, source = events.indices.to_numpy().astype(np.int32), "amazon14_beauty"
    else:  # median 5 training events, mean 7, a long tail: Beauty's
        rng = np.random.default_rng(0)
        lengths = np.minimum(5 + rng.negative_binomial(0.6, 0.13, 22_363), 204)
        items, source = rng.integers(0, N_ITEMS, int(lengths.sum())).astype(np.int32), "generated"
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    split = np.zeros(offsets[-1], np.int8)
    split[offsets[1:] - 2], split[offsets[1:] - 1] = 1, 2
    dataset = Dataset(
        items=pa.table({"item_id": [f"i{i}" for i in range(N_ITEMS)], "title": [""] * N_ITEMS}),
        user_ids=np.array([f"u{i:05d}" for i in range(len(lengths))]),
        offsets=offsets,
        events=items,
        split=split,
    )
    return dataset, source


def build_job(threads: int, rows_per_step: int) -> tuple[Any, Any, str]:
    """The SFT job of the default decoder on Beauty's histories with random distinct codes, without dropout."""
    from dig_ray.recommender.config import DecoderConfig, RecommenderConfig
    from dig_ray.semantic_ids.sid_catalog import SidCatalog
    from dig_ray.training import sft_stage
    from dig_ray.training.config import SftConfig

    dataset, source = histories()
    key = np.random.default_rng(0).choice(256**3, N_ITEMS, replace=False)
    codes = np.stack([key >> 16, (key >> 8) & 255, key & 255], axis=1)
    sids = SidCatalog.from_codes(dataset.item_ids, codes, SIZES)
    recommender = RecommenderConfig(
        decoder=DecoderConfig(dropout=0, embedding_dropout=0), max_history=LONGEST
    )
    sft = SftConfig(rows_per_step=rows_per_step, threads_per_worker=threads, valid_users=1, epochs=1)
    return sft_stage.build_job(sft, recommender, dataset, sids, seed=0), dataset, source


def padded_arrays(job: Any, dataset: Any) -> dict[str, np.ndarray]:
    """The same documents, one to a row of 50 items."""
    from dig_ray.recommender.packing import packed_arrays
    from dig_ray.recommender.tasks import TaskInputs, next_sid

    docs = next_sid(TaskInputs(dataset, job.sids, None, job.recommender, 3, 0, 2))  # type: ignore[arg-type]
    rows = [np.array([d]) for d in np.random.default_rng(0).permutation(len(docs))]
    return packed_arrays(docs, rows, 1 + LONGEST * len(SIZES), pad=1)


def batch_of(arrays: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, Any]:
    """Tensors under the names that the model's forward takes."""
    import torch

    return {("labels" if n == "label" else n): torch.from_numpy(a[rows]) for n, a in arrays.items()}


def step(model: Any, optimizer: Any, batch: dict[str, Any]) -> float:
    """One step of the bare loop; the loss per target."""
    import torch

    loss = model(**batch)["loss"] / (batch["labels"] != -100).sum()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


def make_model(job: Any) -> Any:
    from dig_ray.recommender.backbone import build_policy, build_tokenizer
    from dig_ray.recommender.objective import SidLoss
    from dig_ray.training.sft_trainer import attach_loss

    tokenizer = build_tokenizer(job.recommender, job.sids, job.texts)
    policy = build_policy(job.recommender, job.sids, tokenizer, 0)
    attach_loss(policy, SidLoss(job.table, job.recommender.normalizer))
    return policy.model


def packing(job: Any, dataset: Any, steps: int) -> dict[str, Any]:
    """Useful tokens per second, packed and padded by turns at equally many positions a step; and that the loss is the same."""
    import torch

    padded = padded_arrays(job, dataset)
    packed = job.arrays
    order = np.random.default_rng(0).permutation(len(packed["input_ids"]))
    rows = {"packed": job.sft.rows_per_step}
    rows["padded"] = rows["packed"] * packed["input_ids"].shape[1] // padded["input_ids"].shape[1]
    widths = {"packed": packed["input_ids"], "padded": padded["input_ids"]}
    model = make_model(job)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    times: dict[str, list[float]] = {"packed": [], "padded": []}
    for turn in range(steps + 1):
        for name, arrays in (("packed", packed), ("padded", padded)):
            chosen = np.arange(turn * rows[name], (turn + 1) * rows[name])
            batch = batch_of(arrays, order[chosen] if name == "packed" else chosen)
            started = time.perf_counter()
            step(model, optimizer, batch)
            if turn:  # the first one loads kernels
                times[name].append(time.perf_counter() - started)
    model.eval()
    with torch.inference_mode():  # the documents of some packed rows, alone in padded ones
        some = batch_of(packed, order[:8])
        whole = float(model(**some)["loss"])
        alone = float(
            model(**batch_of(_alone(packed, order[:8]), np.arange(10**6)[: _count(packed, order[:8])]))[
                "loss"
            ]
        )
    share = {
        "packed": float((packed["document"] >= 0).mean()),
        "padded": float((padded["document"] >= 0).mean()),
    }
    useful = {name: share[name] * rows[name] * arrays.shape[1] for name, arrays in widths.items()}
    best = {name: useful[name] / min(values) for name, values in times.items()}
    middle = {name: useful[name] / statistics.median(values) for name, values in times.items()}
    return {
        "useful_share_packed": round(share["packed"], 3),
        "useful_share_padded": round(share["padded"], 3),
        "useful_tokens_per_second": {n: round(v) for n, v in best.items()},
        "packed_over_padded": round(best["packed"] / best["padded"], 2),
        "packed_over_padded_median": round(middle["packed"] / middle["padded"], 2),
        "loss_difference": abs(whole - alone) / whole,
    }


def _count(arrays: dict[str, np.ndarray], rows: np.ndarray) -> int:
    return int((arrays["document"][rows].max(axis=1) + 1).sum())


def _alone(arrays: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    """Every document of packed rows in a row of its own, of 50 items."""
    width = 1 + LONGEST * len(SIZES)
    blank = {"input_ids": 1, "position_ids": 0, "label": -100}
    out: dict[str, list[np.ndarray]] = {name: [] for name in arrays}
    for row in rows:
        for number in range(int(arrays["document"][row].max()) + 1):
            at = arrays["document"][row] == number
            for name, values in arrays.items():
                line = np.full(width, blank.get(name, -1), values.dtype)
                line[: at.sum()] = 0 if name == "document" else values[row, at]
                out[name].append(line)
    return {name: np.stack(lines) for name, lines in out.items()}


def timed_worker(config: dict[str, Any]) -> None:
    """Ray Train worker: the trainer's steps, and after each the bare loop's step on the same batch."""
    import ray
    import torch
    from ray.train.huggingface.transformers import prepare_trainer
    from transformers import TrainerCallback

    from dig_ray.training.sft_loop import make_trainer

    job = ray.get(config["job"])
    torch.set_num_threads(job.threads)
    bare = make_model(job).train()
    optimizer = torch.optim.AdamW(
        bare.parameters(), lr=job.sft.learning_rate, betas=(0.9, job.sft.adam_beta2)
    )
    times: dict[str, list[float]] = {"trainer": [], "bare": []}

    class Turns(TrainerCallback):
        since = 0.0

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            now = time.perf_counter()
            if state.global_step > 2:  # the first steps load kernels
                times["trainer"].append(now - self.since)
            batch = {name: values.clone() for name, values in trainer._batch.items()}  # type: ignore[attr-defined]
            now = time.perf_counter()
            step(bare, optimizer, batch)
            if state.global_step > 2:
                times["bare"].append(time.perf_counter() - now)
            control.should_training_stop = state.global_step >= config["steps"] + 2
            self.since = time.perf_counter()

    with tempfile.TemporaryDirectory() as output:
        trainer = prepare_trainer(make_trainer(job, output, [Turns()]))
        trainer.train()
    Path(config["result"]).write_text(json.dumps(times))


def through_ray(job: Any, steps: int) -> dict[str, Any]:
    """Steady-state steps per second of SidTrainer under Ray Train over those of the bare loop."""
    import ray
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    try:
        with tempfile.TemporaryDirectory() as folder:
            result = Path(folder) / "times.json"
            TorchTrainer(
                timed_worker,
                train_loop_config={"job": ray.put(job), "steps": steps, "result": str(result)},
                scaling_config=ray.train.ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
                run_config=ray.train.RunConfig(name="bench", storage_path=folder),
                torch_config=TorchConfig(backend="gloo"),
            ).fit()
            times = json.loads(result.read_text())
    finally:
        ray.shutdown()
    best = {name: min(values) for name, values in times.items()}
    middle = {name: statistics.median(values) for name, values in times.items()}
    return {
        "step_seconds": {name: round(value, 4) for name, value in middle.items()},
        "trainer_over_bare_loop": round(middle["bare"] / middle["trainer"], 3),
        "trainer_over_bare_loop_best": round(best["bare"] / best["trainer"], 3),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=12, help="timed steps of each kind")
    parser.add_argument("--rows", type=int, default=8, help="packed rows of 256 tokens a step")
    parser.add_argument(
        "--threads", type=int, default=1, help="torch threads; more than one needs an idle machine"
    )
    args = parser.parse_args()
    import torch

    threads = args.threads
    torch.set_num_threads(threads)
    job, dataset, source = build_job(threads, args.rows)
    figures: dict[str, Any] = {"histories": source, "threads": threads, "rows_per_step": args.rows}
    print(
        f"{source}: {job.useful_tokens:,} tokens in {len(job.arrays['input_ids']):,} packed rows", flush=True
    )
    figures.update(packing(job, dataset, args.steps))
    figures.update(through_ray(job, args.steps))
    return conclude("sft", figures, TARGETS)


if __name__ == "__main__":
    sys.exit(main())
