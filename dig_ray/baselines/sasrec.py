"""Training SASRec to its best validation epoch, resumably, and recommending with it.

The data order and the dropout of an epoch depend on (seed, epoch) only: every epoch sets its own generator, so a run
that was killed and goes on from the last checkpoint gives the same weights, bit for bit on a CPU with the same thread
count. Early stop watches NDCG@10 over every validation case and the full catalogue.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dig_ray.base import nobody
from dig_ray.baselines import checkpoint
from dig_ray.baselines.baseline import Baseline, Fitted, Material
from dig_ray.baselines.config import BaselinesConfig, SASRecConfig
from dig_ray.baselines.lists import Lists, rank_all
from dig_ray.catalog.windows import windows
from dig_ray.errors import UserError
from dig_ray.evaluation.case_histories import without_seen
from dig_ray.numerics import ranking

if TYPE_CHECKING:
    from dig_ray.baselines.sasrec_model import SASRecModel
    from dig_ray.catalog.dataset import Cases, Dataset

PAD_DOCUMENT = -1
MOST_THREADS = 8  # at this size it gains little from more


def epoch_figures(row: Mapping[str, float]) -> dict[str, float]:
    """What a sweep reads of an epoch: its number, and validation figures under the names that all trained models share."""
    return {"epoch": row["epoch"], "eval_ndcg@10": row["NDCG@10"], "eval_hr@10": row["HR@10"]}


@dataclass
class Trained:
    """A trained model with its best validation metrics and one row per epoch (loss, seconds, NDCG@10 ...)."""

    model: SASRecModel
    config: SASRecConfig
    best_epoch: int
    validation: dict[str, float]
    epochs: list[dict[str, float]] = field(default_factory=list)


def pack(lengths: np.ndarray, width: int) -> list[list[int]]:
    """First-fit decreasing: which sequences share a row of ``width`` places. Deterministic; ties keep their order."""
    rows: list[list[int]] = []
    free: list[int] = []
    for index in np.argsort(-lengths, kind="stable").tolist():
        need = int(lengths[index])
        for row, room in enumerate(free):
            if room >= need:
                rows[row].append(index)
                free[row] -= need
                break
        else:
            rows.append([index])
            free.append(width - need)
    return rows


def layout(events: np.ndarray, starts: np.ndarray, ends: np.ndarray, width: int) -> dict[str, np.ndarray]:
    """Sequences packed into rows, as the model reads them.

    Args:
        events: int ``(E,)`` item indices.
        starts, ends: int64 ``(S,)``, sequence s is ``events[starts[s]:ends[s]]``, at most ``width`` events.
        width: places of a row.

    Returns:
        int64 ``items``, ``positions`` (within a sequence) and ``documents`` (which sequence, -1 at padding), each ``(R, T)`` with T the
        places that are used, at most ``width``; ``last``, the flat place of each sequence's last event, ``(S,)``; and ``places``, the
        flat places of all events, ``(sum of lengths,)``, sequence by sequence.
    """
    lengths = ends - starts
    rows = pack(lengths, width)
    items = np.zeros(len(rows) * width, np.int64)
    positions = np.zeros_like(items)
    documents = np.full_like(items, PAD_DOCUMENT)
    first = np.zeros(len(lengths), np.int64)
    for number, members in enumerate(rows):
        place = number * width
        for index in members:
            first[index] = place
            place += int(lengths[index])
    document = np.repeat(np.arange(len(lengths)), lengths)
    within = np.arange(len(document)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    flat = first[document] + within
    items[flat] = events[np.repeat(starts, lengths) + within]
    positions[flat], documents[flat] = within, document
    shaped = {"items": items, "positions": positions, "documents": documents}
    used = max(1, int(np.max(flat % width)) + 1) if len(flat) else 1
    out = {name: a.reshape(-1, width)[:, :used] for name, a in shaped.items()}
    last = first + lengths - 1
    out["last"] = last // width * used + last % width
    out["places"] = flat // width * used + flat % width
    return out


def batches(
    events: np.ndarray, starts: np.ndarray, ends: np.ndarray, config: SASRecConfig, seed: int, epoch: int
) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
    """Shuffled batches of about ``batch_tokens`` targets; yields the packed inputs and the targets at ``places``."""
    order = np.random.default_rng([seed, epoch]).permutation(len(starts))
    filled = np.cumsum(ends[order] - starts[order] - 1)
    cuts = np.flatnonzero(np.diff(filled // config.batch_tokens)) + 1
    for chunk in np.split(order, cuts):
        low, high = starts[chunk], ends[chunk]
        length = high - low - 1
        within = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
        yield layout(events, low, high - 1, config.max_length), events[np.repeat(low, length) + within + 1]


def pick_device(wanted: str) -> str:
    """The torch device: ``auto`` is CUDA where there is one.

    Raises:
        UserError: CUDA is wanted and there is none.
    """
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("baselines.sasrec.device is 'cuda' but torch sees no GPU; use 'auto' or 'cpu'")
    return wanted


def new_model(n_items: int, config: SASRecConfig, seed: int) -> SASRecModel:
    """A model with weights drawn from ``seed``, on the CPU; the global generator is left alone.

    Raises:
        UserError: the width is no multiple of the heads.
    """
    import torch

    from dig_ray.baselines.sasrec_model import SASRecModel

    if config.width % config.heads:
        raise UserError(f"baselines.sasrec.width {config.width} is not a multiple of heads {config.heads}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SASRecModel(
            n_items, config.width, config.layers, config.heads, config.hidden, config.dropout,
            config.embedding_dropout, config.max_length, config.original_blocks, config.temperature,
        )  # fmt: skip


def _encode(model: SASRecModel, events: np.ndarray, cases: Cases, low: int, high: int) -> Any:
    """Hidden state after the last event of cases ``low:high``, ``(B, D)``; an empty history gives zeros."""
    import torch

    device = model.items.weight.device
    end = np.asarray(cases.end[low:high], np.int64)
    start = np.maximum(np.asarray(cases.start[low:high], np.int64), end - model.max_length)
    some = np.flatnonzero(end > start)
    out = torch.zeros(len(end), model.items.embedding_dim, device=device)
    if len(some):
        packed = layout(events, start[some], end[some], model.max_length)
        args = [torch.from_numpy(packed[name]).to(device) for name in ("items", "positions", "documents")]
        hidden = model(*args).flatten(0, 1)
        out[torch.from_numpy(some).to(device)] = hidden[torch.from_numpy(packed["last"]).to(device)]
    return out


def validate(
    model: SASRecModel,
    dataset: Dataset,
    cases: Cases,
    valid_seen: str = "allowed",
    chunk: int | None = None,
    places: np.ndarray | None = None,
) -> np.ndarray:
    """Exact 0-based rank of each target, int64 ``(C,)``.

    Args:
        model: on the device on which scores are computed.
        dataset: the catalogue and its events.
        cases: whose targets are ranked.
        valid_seen: ``allowed`` ranks among all items, ``left_out`` among those that are not in the case's history.
        chunk: cases scored together; by default as many as fit. Ranks do not depend on it.
        places: int ``(N,)``, which of items with one score comes first; by default ``ranking.tie_places`` of seed 0.
    """
    from dig_ray.numerics.exact_ranks import ranks_among_all, rows_at_once

    model.eval()

    def score(low: int, high: int) -> Any:
        scores = model.logits(_encode(model, dataset.events, cases, low, high))
        return without_seen(scores, dataset.events, cases, low) if valid_seen == "left_out" else scores

    places = ranking.tie_places(dataset.item_ids, 0) if places is None else places
    return ranks_among_all(score, cases.target, chunk or rows_at_once(model.items.weight), places)


def train(
    dataset: Dataset,
    config: SASRecConfig,
    seed: int = 0,
    work: str | None = None,
    log: Callable[[str], None] = print,
    report: Callable[[Mapping[str, float]], None] = nobody,
) -> Trained:
    """Train on training events, stop when validation NDCG@10 has not risen for ``patience`` epochs, keep the best.

    Args:
        dataset: the catalogue and its split.
        config: model and optimiser settings; ``device`` picks CPU or GPU.
        seed: decides the first weights, the order of sequences and what dropout leaves out.
        work: directory (path or URI) for the checkpoint after every epoch; None keeps none.
        log: gets one line per epoch.
        report: gets ``epoch_figures`` of each epoch.

    Raises:
        UserError: no user has two training events, a setting does not fit, or the loss is not finite.
    """
    import torch

    from dig_ray.numerics.linear_cross_entropy import linear_cross_entropy

    device = pick_device(config.device)
    offsets, events = dataset.train_sequences()
    starts, ends = windows(np.asarray(offsets), config.max_length)
    if not len(starts):
        raise UserError(
            "SASRec needs users with at least two training events, and there are none; drop it from run"
        )
    model = new_model(dataset.n_items, config, seed).to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        betas=(0.9, 0.98),
        fused=True,
    )
    targets_total = int((ends - starts - 1).sum())
    steps_total = max(1, math.ceil(targets_total / config.batch_tokens)) * config.max_epochs
    cases = dataset.cases("valid").spread(config.valid_users)
    places = ranking.tie_places(dataset.item_ids, seed)
    signature = (
        f"{config.model_dump_json(exclude={'device', 'num_cpus'})} seed={seed} items={dataset.n_items}"
    )
    signature += f" targets={targets_total}"
    rows: list[dict[str, float]] = []
    best: dict[str, Any] = {"score": -1.0, "epoch": -1, "weights": {}}
    step = 0
    saved = checkpoint.read(work, "sasrec.pt", signature, log) if work else None
    if saved is not None:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        rows, best, step = saved["rows"], saved["best"], saved["step"]
        log(f"sasrec: resuming after epoch {len(rows)}")
    cuda = [torch.cuda.current_device()] if device == "cuda" else []
    while len(rows) < config.max_epochs and len(rows) - 1 - best["epoch"] < config.patience:
        epoch, began, loss_sum, seen = len(rows), time.perf_counter(), 0.0, 0
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(seed * 100_003 + epoch)
            model.train()
            for packed, wanted in batches(events, starts, ends, config, seed, epoch):
                for group in optimizer.param_groups:
                    group["lr"] = config.rate(step, steps_total)
                inputs = [torch.from_numpy(packed[n]).to(device) for n in ("items", "positions", "documents")]
                hidden = model(*inputs).flatten(0, 1)[torch.from_numpy(packed["places"]).to(device)]
                target = torch.from_numpy(wanted.astype(np.int64)).to(device)
                loss = linear_cross_entropy(*model.scorable(hidden), target, precision=config.precision)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                step += 1
                loss_sum += float(loss.detach()) * len(wanted)
                seen += len(wanted)
        if not math.isfinite(loss_sum):
            raise UserError(
                f"SASRec's loss is not finite in epoch {epoch + 1}; lower baselines.sasrec.learning_rate"
            )
        trained_in = time.perf_counter() - began
        metrics = ranking.mean_metrics(
            validate(model, dataset, cases, config.valid_seen, places=places), (10,)
        )
        score = metrics["NDCG@10"]
        seconds = time.perf_counter() - began
        rows.append({"epoch": epoch + 1, "loss": loss_sum / seen, "seconds": seconds, **metrics})
        report(epoch_figures(rows[-1]))
        if score > best["score"]:
            weights = {n: v.detach().cpu().clone() for n, v in model.state_dict().items()}
            best = {"score": score, "epoch": epoch, "weights": weights}
        if work:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            checkpoint.write(
                work, "sasrec.pt", signature, {**state, "rows": rows, "best": best, "step": step}
            )
        left = min(config.max_epochs - len(rows), config.patience - (epoch - best["epoch"]))
        log(
            f"sasrec: epoch {epoch + 1}/{config.max_epochs}, loss {loss_sum / seen:.4f}, validation NDCG@10 {score:.4f}"
            f" (best {best['score']:.4f} in epoch {best['epoch'] + 1}), {seen / trained_in:,.0f} targets/s, "
            f"{left * seconds:.0f} to {(config.max_epochs - len(rows)) * seconds:.0f} s left"
        )
    model.load_state_dict(best["weights"])
    model.eval()
    chosen = {name: value for name, value in rows[best["epoch"]].items() if "@" in name}
    return Trained(model, config, best["epoch"] + 1, chosen, rows)


def recommend(
    model: SASRecModel,
    dataset: Dataset,
    cases: Cases,
    k: int,
    exclude_seen: bool,
    chunk: int = 1024,
    places: np.ndarray | None = None,
) -> Lists:
    """The k items with the highest score of the whole catalogue; equal ones by ``places``, see :func:`rank_all`."""
    import torch

    model.eval()

    def score(low: int, high: int) -> np.ndarray:
        with torch.inference_mode():
            found: np.ndarray = (
                model.logits(_encode(model, dataset.events, cases, low, high)).float().cpu().numpy()
            )
        return found

    return rank_all(score, dataset, cases, k, exclude_seen, places, chunk)


def fit(material: Material) -> Fitted:
    """Train, or go on from the checkpoint among the stage's work; the figures are the best epoch's number and all epochs.

    Raises:
        UserError: as :func:`train`.
    """
    dataset, config = material.dataset, material.config
    trained = train(dataset, config.sasrec, material.seed, material.work, material.log, material.report)

    def best(cases: Cases, exclude_seen: bool) -> Lists:
        return recommend(trained.model, dataset, cases, config.top_k, exclude_seen, places=material.places)

    return Fitted(best, {"best_epoch": trained.best_epoch, "epochs": trained.epochs})


def resources(config: BaselinesConfig) -> dict[str, float]:
    """A GPU where there is one and ``device`` allows it, else CPUs of one machine; never more than a node has, or it would wait for ever.

    Raises:
        UserError: ``device`` is cuda and the cluster has no GPU.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if config.sasrec.device != "cpu" and any(node.get("GPU", 0) >= 1 for node in nodes):
        return {"num_cpus": 1, "num_gpus": 1}
    if config.sasrec.device == "cuda":
        raise UserError(
            "baselines.sasrec.device is 'cuda' but the Ray cluster has no GPU; use 'auto' or 'cpu'"
        )
    most = max(int(node.get("CPU", 1)) for node in nodes)
    wanted = config.sasrec.num_cpus or min(MOST_THREADS, os.cpu_count() or 1)
    return {"num_cpus": max(1, min(wanted, most))}


BASELINE = Baseline(fit, epochs=lambda config: config.sasrec.max_epochs, resources=resources)
