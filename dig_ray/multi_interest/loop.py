"""What every worker of a multi-interest model runs, and the plain data it needs.

The order of an epoch, its sampled negatives and its dropout follow from (seed, epoch), and each epoch ends with a checkpoint. So a run
that was killed goes on to the same weights, bit for bit on a CPU with the same thread count; without dropout, also with another number of
workers.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from dig_ray.base import Stretch
from dig_ray.multi_interest.config import MultiInterestConfig
from dig_ray.multi_interest.examples import Batch, Crowd, Examples
from dig_ray.multi_interest.infer import ranks_of_targets
from dig_ray.multi_interest.losses import alignment, contrast, sampled_softmax
from dig_ray.multi_interest.model import MultiInterestModel, read_out
from dig_ray.numerics import ranking
from dig_ray.numerics.linear_cross_entropy import linear_cross_entropy

if TYPE_CHECKING:
    from dig_ray.catalog.dataset import Cases

STATE = "state.pt"
PARTS = ("recommendation", "alignment", "contrast")


@dataclass(frozen=True)
class MultiInterestJob:
    """All a worker needs.

    Attributes:
        config: settings of the model and of its training.
        seed: what weights, order, dropout and negatives are drawn from.
        n_items: items in the catalogue, N.
        examples: windows of the training histories.
        frequency: int64 ``(N,)``, how often each item occurs in the training events.
        crowd: synthesized users; None where they are not contrasted.
        events: int32 item indices of all events of all users, which ``valid`` points into.
        valid: validation cases, whose NDCG@10 picks the best epoch.
        threads: threads that torch uses in a worker.
    """

    config: MultiInterestConfig
    seed: int
    n_items: int
    examples: Examples
    frequency: np.ndarray
    crowd: Crowd | None
    events: np.ndarray
    valid: Cases
    threads: int


def new_model(n_items: int, config: MultiInterestConfig, seed: int) -> MultiInterestModel:
    """A model with weights drawn from ``seed``; the global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MultiInterestModel(n_items, config)


class Objective(nn.Module):
    """The loss of one optimisation step: recommendation + lambda_align * alignment + lambda_con * contrast.

    Args:
        model: the model that is trained.
        frequency: int64 ``(N,)``, how often each item occurs in the training events; negatives are drawn by it.
        clusters: clusters that a user has at most, C of ``losses.alignment``.
        seed: what sampled negatives are drawn from, together with the number of the step.
    """

    def __init__(self, model: MultiInterestModel, frequency: np.ndarray, clusters: int, seed: int) -> None:
        super().__init__()
        self.chance: Tensor
        self.log_expected: Tensor
        self.model, self.clusters, self.seed = model, clusters, seed
        config = model.config
        chance = np.asarray(frequency, np.float64) ** config.negatives_power * (frequency > 0)
        chance /= max(chance.sum(), 1e-12)
        expected = np.log(np.maximum(chance, 1e-12) * (config.negatives or 1)).astype(np.float32)
        self.register_buffer("chance", torch.from_numpy(chance), persistent=False)
        self.register_buffer("log_expected", torch.from_numpy(expected), persistent=False)

    def forward(
        self, batch: Batch, crowd: tuple[Tensor, Tensor, int] | None, step: int, world: int
    ) -> tuple[Tensor, dict[str, float]]:
        """This worker's part of the step's mean loss, times the number of workers, which DDP divides by; and its parts, not weighted.

        Args:
            batch: this worker's share of the step.
            crowd: items and crowd interests of this worker's share of the synthesized users, int64 ``(U, M)`` each, and how many the step
                contrasts over all workers; None where none are.
            step: number of the step in the run, from 0 on.
            world: number of workers.
        """
        model, config = self.model, self.model.config
        device = model.items.weight.device
        items, lengths, targets, labels = (
            torch.from_numpy(x).to(device) for x in (batch.items, batch.lengths, batch.targets, batch.labels)
        )
        interests, _ = model(items, lengths)
        wanted = targets >= 0
        keys, target = model.keys(), targets[wanted]
        queries = read_out(model.queries(interests[wanted]), keys[target])
        if not len(target):  # a step of fewer windows than workers
            summed = queries.sum()
        elif config.negatives is None:
            summed = linear_cross_entropy(queries, keys, target, precision=config.precision) * len(target)
        else:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
            drawn = torch.multinomial(self.chance.cpu(), config.negatives, True, generator=generator)
            summed = sampled_softmax(queries, keys, target, drawn.to(device), self.log_expected)
        parts = {"recommendation": summed / max(1, batch.all_targets)}
        loss = parts["recommendation"]
        if config.alignment.weight:
            last = interests[torch.arange(len(items), device=device), lengths - 1]
            summed = alignment(model.items(items), labels, last, self.clusters, config.alignment.temperature)
            parts["alignment"] = summed / max(1, batch.all_windows)
            loss = loss + config.alignment.weight * parts["alignment"]
        if crowd is not None:
            members, groups = (part.to(device) for part in crowd[:2])
            summed = contrast(model.items(members), groups, config.crowd.temperature)
            parts["contrast"] = summed / crowd[2]
            loss = loss + config.crowd.weight * parts["contrast"]
        return loss * world, {name: float(value.detach()) for name, value in parts.items()}


class Training:
    """A model in training, epoch by epoch: what a worker holds, and what a checkpoint keeps.

    Args:
        job: what is trained on, and how.
        rank: number of this worker, from 0 on.
        world: number of workers.
        wrap: puts the objective on its device, and in DDP where there are several workers.
    """

    def __init__(
        self,
        job: MultiInterestJob,
        rank: int = 0,
        world: int = 1,
        wrap: Callable[[nn.Module], Any] = lambda module: module,
    ) -> None:
        self.job, self.rank, self.world = job, rank, world
        self.model = new_model(job.n_items, job.config, job.seed)
        self.objective = wrap(Objective(self.model, job.frequency, job.examples.clusters, job.seed))
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=job.config.learning_rate,
            weight_decay=job.config.weight_decay,
            betas=(0.9, 0.98),
            fused=True,
        )
        self.rows: list[dict[str, float]] = []
        self.best: dict[str, Any] = {"score": -1.0, "epoch": -1, "weights": {}}
        self.step = 0

    @property
    def over(self) -> bool:
        """Whether every epoch was trained, or validation stopped rising."""
        config = self.job.config
        return (
            len(self.rows) >= config.max_epochs or len(self.rows) - 1 - self.best["epoch"] >= config.patience
        )

    def state(self) -> dict[str, Any]:
        """All of it, as tensors, numbers and strings."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rows": self.rows,
            "best": self.best,
            "step": self.step,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a ``state``."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rows, self.best, self.step = state["rows"], state["best"], state["step"]

    def epoch(self) -> dict[str, float]:
        """Train one epoch and validate; the new row of figures."""
        job, config, number = self.job, self.job.config, len(self.rows)
        total = max(1, math.ceil(job.examples.targets / config.batch_targets)) * config.max_epochs
        crowd = None if job.crowd is None else job.crowd.steps(config.crowd.per_step, job.seed, number)
        sums, steps, began = dict.fromkeys(PARTS, 0.0), 0, time.perf_counter()
        torch.manual_seed((job.seed * 100_003 + number) * 1_009 + self.rank)
        self.objective.train()
        for batch in job.examples.batches(config.batch_targets, job.seed, number, self.rank, self.world):
            for group in self.optimizer.param_groups:
                group["lr"] = config.rate(self.step, total)
            contrasted = None
            if crowd is not None and job.crowd is not None:
                rows = next(crowd)
                mine = rows[self.rank :: self.world]
                contrasted = (
                    torch.from_numpy(job.crowd.items[mine]),
                    torch.from_numpy(job.crowd.labels[mine]),
                    len(rows),
                )
            loss, parts = self.objective(batch, contrasted, self.step, self.world)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            self.step += 1
            steps += 1
            for name, value in parts.items():
                sums[name] += value
        trained_in = time.perf_counter() - began
        metrics = ranking.mean_metrics(self._validate(), (10,))
        row = {
            "epoch": number + 1,
            **{name: value / max(1, steps) for name, value in self._add_up(sums).items()},
        }
        row |= {
            "targets_per_second": job.examples.targets / trained_in,
            "seconds": time.perf_counter() - began,
            **{f"eval_{name.lower()}": value for name, value in metrics.items()},
        }
        self.rows.append(row)
        if metrics["NDCG@10"] > self.best["score"]:
            weights = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}
            self.best = {"score": metrics["NDCG@10"], "epoch": number, "weights": weights}
        return row

    def _validate(self) -> np.ndarray:
        """Ranks of all validation targets; each worker takes its share of the cases."""
        cases = self.job.valid
        mine = slice(self.rank, None, self.world)
        ranks = torch.full((len(cases.target),), 0, dtype=torch.int64)
        ranks[mine] = torch.from_numpy(ranks_of_targets(self.model, self.job.events, cases.take(mine)))
        if self.world > 1:
            device = self.model.items.weight.device
            ranks = ranks.to(device)
            torch.distributed.all_reduce(ranks)
        return ranks.cpu().numpy()

    def _add_up(self, sums: dict[str, float]) -> dict[str, float]:
        if self.world > 1:
            device = self.model.items.weight.device
            values = torch.tensor(list(sums.values()), dtype=torch.float64, device=device)
            torch.distributed.all_reduce(values)
            sums = dict(zip(sums, values.tolist(), strict=True))
        config = self.job.config
        used = {
            "recommendation": True,
            "alignment": config.alignment.weight > 0,
            "contrast": self.job.crowd is not None,
        }
        return {name: value for name, value in sums.items() if used[name]}


def worker(config: dict[str, Any]) -> None:
    """Ray Train worker: train, report a checkpoint after every epoch, resume from the latest one."""
    from dig_ray.on_ray.worker import run_worker

    run_worker(config, "multi_interest", train)


def train(job: MultiInterestJob, say: Callable[[Any], None], _: Stretch) -> None:
    """In a worker of Ray Train: train and report epochs until the run is over.

    Args:
        job: what is trained on, and how.
        say: prints a line, or tells the dashboard an entry of figures.

    Raises:
        Hopeless: the loss is not finite.
    """
    import ray.train
    import ray.train.torch

    from dig_ray.on_ray.said import doing
    from dig_ray.on_ray.worker import Hopeless

    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()

    def wrap(module: nn.Module) -> Any:
        return ray.train.torch.prepare_model(module, parallel_strategy="ddp" if world > 1 else None)

    training = Training(job, rank, world, wrap)
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        training.load(read_state(checkpoint))
        if rank == 0:
            say(f"multi_interest: going on after epoch {len(training.rows)}")
    while not training.over:
        if rank == 0:
            doing(say, f"epoch {len(training.rows) + 1} of at most {job.config.max_epochs} is being trained")
        row = training.epoch()
        if not all(math.isfinite(row[name]) for name in PARTS if name in row):
            raise Hopeless(
                f"the loss is not finite in epoch {row['epoch']}; lower multi_interest.learning_rate"
                if rank == 0
                else ""
            )
        figures = {name: float(row[name]) for name in ("epoch", "eval_ndcg@10", "eval_hr@10")}
        if rank == 0:
            say(progress(training))
            say(
                {
                    "stage": "multi_interest",
                    "unit": "targets",
                    "units": float(job.examples.targets),
                    "rate": row["targets_per_second"],
                    "figures": figures | {"loss": row["recommendation"], "step": training.step},
                }
            )
            with tempfile.TemporaryDirectory() as folder:
                torch.save(training.state(), os.path.join(folder, STATE))
                ray.train.report(figures, checkpoint=ray.train.Checkpoint.from_directory(folder))
        else:
            ray.train.report(figures)


def progress(training: Training) -> str:
    """What a terminal shows of the last epoch."""
    row, config, best = training.rows[-1], training.job.config, training.best
    done = len(training.rows)
    left = min(config.max_epochs - done, config.patience - (done - 1 - best["epoch"]))
    losses = ", ".join(f"{name} {row[name]:.4f}" for name in PARTS if name in row)
    return (
        f"multi_interest: epoch {done}/{config.max_epochs}, {losses}, validation NDCG@10 {row['eval_ndcg@10']:.4f} "
        f"(best {best['score']:.4f} in epoch {best['epoch'] + 1}), {row['targets_per_second']:,.0f} targets/s, "
        f"{left * row['seconds']:.0f} to {(config.max_epochs - done) * row['seconds']:.0f} s left"
    )


def read_state(checkpoint: Any) -> dict[str, Any]:
    """The state in a checkpoint of Ray Train, read without unpickling code."""
    with checkpoint.as_directory() as folder:
        state: dict[str, Any] = torch.load(Path(folder) / STATE, map_location="cpu", weights_only=True)
    return state
