"""Validation by real decoding, what training stops by, and what it says meanwhile; the same for SFT and GRPO."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import TrainerCallback

from dig_ray.errors import UserError
from dig_ray.numerics.ranking import ndcg, rank_of_target
from dig_ray.numerics.subset import evenly_spaced
from dig_ray.on_ray.said import SECONDS, doing
from dig_ray.on_ray.worker import LossIsNaN
from dig_ray.recommender.decoding import BeamSearcher, pad_prompts
from dig_ray.recommender.policy import SidPolicy

if TYPE_CHECKING:
    from dig_ray.catalog.dataset import Dataset
    from dig_ray.recommender.tasks import SidStream

TELL_EVERY = 2.0
"""Seconds between words of a worker on what it does."""


class ValidationSet:
    """Validation users as the policy reads them; equal shares for every rank.

    Args:
        prompts: C histories, int64 vocabulary ids each.
        targets: int64 (C,), the item that is to be found after each.
        pad: vocabulary id that fills up shorter histories of a batch.
    """

    def __init__(self, prompts: list[np.ndarray], targets: np.ndarray, pad: int) -> None:
        order = np.argsort(
            [len(p) for p in prompts], kind="stable"
        )  # batches of similar length waste no padding
        self.prompts = [prompts[i] for i in order]
        self.targets = np.asarray(targets)[order]
        self.pad = pad

    def sums(self, searcher: BeamSearcher, rank: int, world: int, batch: int = 64) -> np.ndarray:
        """float64 (3,): summed NDCG@10, summed hits@10 and count over this rank's users.

        Args:
            searcher: the beam search, of at least ten beams.
            rank, world: number of this rank, and of all ranks; each takes every ``world``-th batch.
            batch: users that are decoded together.
        """
        total = np.zeros(3)
        mine = range(rank * batch, len(self.prompts), world * batch)
        for begin in mine:
            ids, lengths = pad_prompts(self.prompts[begin : begin + batch], self.pad)
            device = searcher.policy.device
            beams = searcher.search(torch.from_numpy(ids).to(device), torch.from_numpy(lengths).to(device))
            ranks = rank_of_target(beams.items.cpu().numpy(), self.targets[begin : begin + batch])
            total += ndcg(ranks, 10).sum(), ((ranks >= 0) & (ranks < 10)).sum(), len(ranks)
        return total


def validation_prompts(
    dataset: Dataset, stream: SidStream, bos: int, max_history: int, users: int | None, name: str
) -> tuple[list[np.ndarray], np.ndarray]:
    """Histories (vocabulary ids) and targets int64 of the validation users, or of so many of them, evenly spaced.

    Args:
        dataset, stream: events, and the SIDs of the same items.
        bos: vocabulary id that begins a history.
        max_history: a history holds at most so many items, the latest ones.
        users: how many users at most; all when None.
        name: name of the stage, which the message begins with.

    Raises:
        UserError: the validation split has no events.
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


@contextmanager
def gathered(model: torch.nn.Module) -> Iterator[None]:
    """Hold the whole of an FSDP-sharded model on every rank, so that ranks may decode different numbers of batches; else do nothing."""
    from torch.distributed.fsdp import FSDPModule

    sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for module in sharded:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in sharded:
            module.set_reshard_after_forward(True, recurse=False)
            module.reshard()


def validate(
    trainer: Any,
    policy: SidPolicy,
    valid: ValidationSet,
    searcher: Callable[[], BeamSearcher],
    inside: AbstractContextManager[Any] | None = None,
    more: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Decode the validation users: ``eval_ndcg@10``, ``eval_hr@10`` and the seconds it took. Draws no random number.

    Args:
        trainer: transformers' trainer; the figures go into its log and to its callbacks.
        policy: the policy that is validated; it is in eval mode meanwhile.
        valid: histories and targets of the validation users; every rank decodes its share.
        searcher: makes the beam search.
        inside: a context that is held meanwhile, such as averaged weights in place of the trained ones.
        more: further figures of this validation, without the prefix ``eval_``.

    Raises:
        RuntimeError: the ranks together did not read each user once.
    """
    args = trainer.args
    started = time.monotonic()
    was_training = policy.model.training
    policy.model.eval()
    with gathered(policy.model), inside or nullcontext():
        found = valid.sums(searcher(), args.process_index, args.world_size)
    sums = torch.from_numpy(found).to(args.device)
    if args.world_size > 1:
        torch.distributed.all_reduce(sums)
    policy.model.train(was_training)
    gain, hits, count = sums.tolist()
    if int(count) != len(valid.prompts):
        raise RuntimeError(f"validation read {int(count)} users of {len(valid.prompts)}")
    metrics = {
        "eval_ndcg@10": gain / count,
        "eval_hr@10": hits / count,
        "eval_seconds": round(time.monotonic() - started, 2),
        **{f"eval_{name}": value for name, value in (more or {}).items()},
    }
    trainer.log(metrics)
    trainer.control = trainer.callback_handler.on_evaluate(args, trainer.state, trainer.control, metrics)
    return metrics


def validations_since_best(log_history: list[dict[str, Any]]) -> int:
    """How many validations came after the one with the best NDCG@10 (the first of equals)."""
    scores = [entry["eval_ndcg@10"] for entry in log_history if "eval_ndcg@10" in entry]
    return len(scores) - 1 - int(np.argmax(scores)) if scores else 0


class FiniteGradients(TrainerCallback):
    """Raises ``LossIsNaN`` when a step's gradients are not finite. They are averaged by then, so all ranks agree.

    Args:
        model: the model that is trained.
        batch: gives the batch that was read last, which the error carries.

    Raises:
        LossIsNaN: before the optimizer's step, on every rank.
    """

    def __init__(self, model: torch.nn.Module, batch: Callable[[], dict[str, torch.Tensor]]) -> None:
        self.model, self.batch = model, batch

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm: Any = torch.nn.utils.get_total_norm(grads)
        if hasattr(norm, "full_tensor"):  # FSDP: each rank holds a shard
            norm = norm.full_tensor()
        if not bool(torch.isfinite(norm)):
            raise LossIsNaN(state.global_step + 1, self.batch())


class StopWhenStale(TrainerCallback):
    """Early stopping that keeps no state of its own: it reads the log, so a resumed run stops where an uninterrupted one does."""

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if validations_since_best(state.log_history) >= self.patience:
            control.should_training_stop = True


class ProgressLines(TrainerCallback):
    """A line now and then: epoch, step, loss, tokens (or what ``unit`` says) per second and the time left."""

    def __init__(
        self,
        say: Callable[[str], None],
        name: str,
        per_step: float,
        unit: str = "tokens",
        seconds: float = SECONDS,
    ) -> None:
        self.say, self.name, self.per_step, self.unit, self.seconds = say, name, per_step, unit, seconds
        self._start: tuple[float, int] | None = None
        self._last = 0.0
        self._told = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step:
            self.say(f"{self.name}: going on after step {state.global_step}, epoch {state.epoch or 0:.1f}")

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        now = time.monotonic()
        if now - self._told > TELL_EVERY:  # a call to another process, and steps may be short
            self._told = now
            doing(self.say, f"step {state.global_step + 1} of {state.max_steps} is being computed")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if control.should_evaluate:
            doing(self.say, f"validating and saving after step {state.global_step} of {state.max_steps}")
        now = time.monotonic()
        if self._start is None:
            self._start, self._last = (now, state.global_step), now
            return
        if now - self._last < self.seconds and state.global_step < state.max_steps:
            return
        self._last = now
        steps = state.global_step - self._start[1]
        rate = steps / max(now - self._start[0], 1e-9)
        loss = next((f"loss {h['loss']:.3f}, " for h in reversed(state.log_history) if "loss" in h), "")
        self.say(
            f"{self.name}: epoch {state.epoch or 0:.1f}/{args.num_train_epochs:g}, step {state.global_step}/{state.max_steps}, "
            f"{loss}{rate * self.per_step:,.0f} {self.unit}/s, "
            f"at most {(state.max_steps - state.global_step) / max(rate, 1e-9):.0f} s left"
        )

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        if logs and "eval_ndcg@10" in logs:
            self.say(
                f"{self.name}: epoch {state.epoch or 0:.1f}, validation NDCG@10 {logs['eval_ndcg@10']:.4f}, "
                f"HR@10 {logs['eval_hr@10']:.4f} ({logs['eval_seconds']:.0f} s)"
            )
