"""How a worker of Ray Train begins and ends: it is set up, it trains, and where every further try would end the same, it says so."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from dig_ray.artifacts.folders import write_bytes
from dig_ray.base import Stretch
from dig_ray.on_ray.said import doing
from dig_ray.on_ray.session import teller

if TYPE_CHECKING:
    import torch


class Hopeless(Exception):
    """Every further try would end the same. ``sentence`` says why to the user; "" on workers that only stop with the others."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence


class LossIsNaN(Exception):
    """The gradients of a step are not finite; every rank raises it at the same step, before the weights are touched."""

    def __init__(self, step: int, batch: dict[str, torch.Tensor]) -> None:
        super().__init__(f"the loss became NaN at step {step}")
        self.step, self.batch = step, batch


def keep_batch(failed: str, rank: int, arrays: dict[str, Any]) -> None:
    """Keep a step's arrays as ``batch-rankRANK.npz`` in the folder ``failed``, for whoever looks into it."""
    batch = io.BytesIO()
    np.savez(batch, **arrays)
    write_bytes(failed, f"batch-rank{rank}.npz", batch.getvalue())


def run_worker(
    config: dict[str, Any], name: str, train: Callable[[Any, Callable[[Any], None], Stretch], None]
) -> None:
    """A ``train_loop_per_worker``: set the process up, train, and where every further try would end the same, say so and stop.

    Args:
        config: what ``fit`` gives a worker: ``job``, ``lines``, ``failed`` and ``stretch``.
        name: the stage's name, which is also its part of the config.
        train: gets the job, what prints a line or tells the dashboard an entry of ``Figures``, and the stretch that is wanted.
    """
    import ray
    import ray.train
    import torch

    from dig_ray.on_ray.worker_failures import leave_sentence, read_sentence

    failed, say = config["failed"], teller(config["lines"])
    lead = ray.train.get_context().get_world_rank() == 0
    if read_sentence(failed) is not None:  # the workers before these found that going on makes no sense
        return
    if lead:
        _say_where_it_begins(failed, name, say, config["stretch"])
        doing(say, "the worker imports what it trains with")
    job = ray.get(config["job"]) if isinstance(config["job"], ray.ObjectRef) else config["job"]
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    torch.set_num_threads(job.threads)
    try:
        train(job, say, config["stretch"])
    except LossIsNaN as stop:
        rank = ray.train.get_context().get_world_rank()
        arrays = {key: v.cpu().numpy() for key, v in stop.batch.items() if isinstance(v, torch.Tensor)}
        keep_batch(failed, rank, arrays)
        if rank == 0:
            leave_sentence(
                failed,
                f"{name}: the loss became NaN at step {stop.step} (its batch is in {failed}); "
                f"lower {name}.learning_rate, or set {name}.precision to float32",
            )
    except Hopeless as stop:
        if stop.sentence:
            leave_sentence(failed, f"{name}: {stop.sentence}")


def _say_where_it_begins(failed: str, name: str, say: Callable[[Any], None], stretch: Stretch) -> None:
    """Note where this try begins, and after a failure say it."""
    import ray.train

    from dig_ray.on_ray.run_folder import place_of
    from dig_ray.on_ray.worker_failures import begin, read_failures

    checkpoint = ray.train.get_checkpoint()
    place = (
        place_of(checkpoint)
        if checkpoint is not None
        else "the stretch's start"
        if stretch.start
        else "step 0"
    )
    begin(failed, place)
    past = read_failures(failed)
    if past:
        goes = (
            f"goes on from {place}"
            if checkpoint is not None
            else f"begins again from {place} (no checkpoint yet)"
        )
        say(f"{name}: a worker failed ({past[-1].reason}); training {goes}")
