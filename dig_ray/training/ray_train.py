"""What SFT and GRPO need of Ray Train: a run that resumes, lines that come through, and sentences for what went wrong.

A run is named after its stage's fingerprint and stored in the stage's work directory, so the same command after a kill finds its latest
checkpoint and goes on to the same result.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from dig_ray.base import Stretch
from dig_ray.cluster import beside_the_driver, teller
from dig_ray.errors import UserError
from dig_ray.folders import read_bytes, remove_file, write_bytes
from dig_ray.training.config import TrainingConfig, WorkersConfig


class Hopeless(Exception):
    """Every further try would end the same. ``sentence`` says why to the user; "" on workers that only stop with the others."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence


CALLS = 5
"""Times that a run is begun whose directing process could not be reached."""
STOPPED = "stopped.json"
"""What a worker leaves in ``failed`` when going on makes no sense: ``{"sentence": ...}``."""


def fit(
    worker: Callable[[dict[str, Any]], None],
    job: Any,
    config: WorkersConfig,
    threads: int,
    storage: str,
    name: str,
    log: Callable[[str], None],
    stretch: Stretch | None = None,
) -> Any:
    """Run a job on Ray Train; resumes when ``storage/name`` holds a checkpoint.

    Args:
        worker: ``train_loop_per_worker``; gets ``job`` (a reference), ``lines`` (a queue), ``failed`` (a folder or URI) and ``stretch``.
        job: plain data.
        config: workers, GPUs and failures.
        threads: torch threads of a worker.
        storage: a local folder or a URI.
        name: of the run.
        log: prints one line.
        stretch: of the run that is trained; the whole by default.

    Raises:
        UserError: a worker left a sentence and stopped.
    """
    import ray
    import ray.train
    from ray.train.torch import TorchTrainer
    from ray.util.queue import Queue

    from dig_ray.training.loopback import LoopbackTorchConfig

    if not ray.is_initialized():
        ray.init(address="local", num_cpus=max(4, 2 * config.num_workers + 2), include_dashboard=False)
    storage = _absolute(storage)
    if "://" not in storage:
        Path(storage).mkdir(parents=True, exist_ok=True)
    failed = f"{storage}/{name}/failed"
    take_bytes(failed, STOPPED)  # of an earlier try
    free = ray.cluster_resources().get("CPU", 1)
    cpus = config.cpus_per_worker or max(0.5, min(threads, (free - 1) // config.num_workers))
    resources: dict[str, float] = {"CPU": cpus}
    if config.use_gpu:
        resources["GPU"] = 1
    if not any(config.nodes.items() <= node["Labels"].items() for node in ray.nodes() if node["Alive"]):
        log(f"no node of the cluster has the labels {config.nodes} yet; waiting for one")
    lines = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": beside_the_driver()})
    shared = ray.put(job)

    def trainer() -> TorchTrainer:
        return TorchTrainer(
            worker,
            train_loop_config={
                "job": shared,
                "lines": lines,
                "failed": failed,
                "stretch": stretch or Stretch(),
            },
            scaling_config=ray.train.ScalingConfig(  # type: ignore[call-arg]
                num_workers=config.num_workers,
                use_gpu=config.use_gpu,
                resources_per_worker=resources,
                label_selector=config.nodes or None,
            ),
            run_config=ray.train.RunConfig(
                name=name,
                storage_path=storage,
                failure_config=ray.train.FailureConfig(max_failures=config.max_failures),
                checkpoint_config=ray.train.CheckpointConfig(
                    num_to_keep=1, checkpoint_score_attribute="eval_ndcg@10", checkpoint_score_order="max"
                ),
                callbacks=_to_tune(),
            ),
            torch_config=LoopbackTorchConfig(
                backend="nccl" if config.use_gpu else "gloo", timeout_s=config.hang_seconds
            ),
        )

    with _forwarded(lines, log):
        for left in reversed(range(CALLS)):
            try:
                result = trainer().fit()
                break
            except ray.exceptions.ActorUnavailableError:  # the one call that Ray does not repeat
                if not left:
                    raise
                log("the call to what directs the training was lost; going on from its last checkpoint")
    stopped = take_bytes(failed, STOPPED)
    if stopped is not None:
        raise UserError(json.loads(stopped)["sentence"])
    return result


def _absolute(storage: str) -> str:
    return storage if "://" in storage else str(Path(storage).resolve())


def _to_tune() -> list[Any]:
    """What hands every validation on to Ray Tune, inside a trial of it."""
    functions = sys.modules.get(
        "ray.tune.trainable.trainable_fn_utils"
    )  # loaded in every trial, and dear to import
    if functions is None or not functions._in_tune_session():
        return []
    from ray.tune.integration.ray_train import TuneReportCallback

    return [TuneReportCallback()]


@contextmanager
def _forwarded(lines: Any, log: Callable[[str], None]) -> Iterator[None]:
    """Print the lines of the leading worker and tell the dashboard its figures, while they come; workers' own output is not shown."""
    from ray.exceptions import ActorUnavailableError
    from ray.util.queue import Empty

    from dig_ray.training.figures import tell

    done = threading.Event()

    def drain() -> None:
        while True:
            try:
                said = lines.get(timeout=1.0)
                tell(said) if isinstance(said, dict) else log(said)
            except (Empty, ActorUnavailableError):  # nothing said, or the call was lost
                if done.is_set():
                    return
            except Exception:  # the queue's actor went down with Ray: there is nothing left to print
                return

    thread = threading.Thread(target=drain, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=10)
        lines.shutdown()


def best_checkpoint(result: Any) -> tuple[Any, list[dict[str, Any]]]:
    """The checkpoint with the best validation (the earliest of equals) and the whole log of the last one."""
    ranked = sorted(
        result.best_checkpoints, key=lambda pair: (-pair[1]["eval_ndcg@10"], pair[1].get("epoch", 0.0))
    )
    with result.checkpoint.as_directory() as directory:
        state = json.loads((Path(directory) / "checkpoint" / "trainer_state.json").read_text())
    return ranked[0][0], state["log_history"]


def last_checkpoint(result: Any, storage: str, name: str) -> tuple[str, list[dict[str, Any]]]:
    """Where the latest checkpoint of a run in ``storage/name`` is, a local folder or a URI, and its log."""
    with result.checkpoint.as_directory() as directory:
        state = json.loads((Path(directory) / "checkpoint" / "trainer_state.json").read_text())
    return f"{_absolute(storage)}/{name}/{PurePosixPath(result.checkpoint.path).name}", state["log_history"]


def take_bytes(folder: str, name: str) -> bytes | None:
    """Read and remove what ``write_bytes`` wrote; None when there is nothing."""
    content = read_bytes(folder, name)
    if content is not None:
        remove_file(folder, name)
    return content


def keep_batch(failed: str, rank: int, arrays: dict[str, Any]) -> None:
    """Keep a step's arrays for whoever looks into it."""
    batch = io.BytesIO()
    np.savez(batch, **arrays)
    write_bytes(failed, f"batch-rank{rank}.npz", batch.getvalue())


def leave_sentence(failed: str, sentence: str) -> None:
    """Say why every further try would end the same; the driver raises it as a UserError."""
    write_bytes(failed, STOPPED, json.dumps({"sentence": sentence}).encode())


def run_worker(
    config: dict[str, Any], name: str, train: Callable[[Any, Callable[[Any], None], Stretch], None]
) -> None:
    """A ``train_loop_per_worker``: set the process up, train, and where every further try would end the same, say so and stop.

    Args:
        config: what ``fit`` gives a worker.
        name: of the stage, which is also its part of the config.
        train: gets the job, what prints a line or tells the dashboard an entry of ``Figures``, and the stretch that is wanted.
    """
    import ray
    import ray.train
    import torch

    job = ray.get(config["job"]) if isinstance(config["job"], ray.ObjectRef) else config["job"]
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    torch.set_num_threads(job.threads)
    from dig_ray.training.validation import LossIsNaN

    failed = config["failed"]
    try:
        train(job, teller(config["lines"]), config["stretch"])
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


def trainer_arguments(config: Any, seed: int, output: str, every: int) -> dict[str, Any]:
    """What SFT and GRPO both tell transformers' trainer.

    Args:
        config: an ``SftConfig`` or a ``GrpoConfig``.
        seed: of data and model.
        output: a folder of the worker's.
        every: steps between validations, with a checkpoint at each.
    """
    return {
        "output_dir": output,
        "num_train_epochs": config.epochs,
        "gradient_accumulation_steps": config.gradient_accumulation,
        "learning_rate": config.learning_rate,
        "weight_decay": config.weight_decay,
        "adam_beta2": config.adam_beta2,
        "warmup_steps": config.warmup_steps,
        "lr_scheduler_type": config.schedule,
        "max_grad_norm": config.max_grad_norm,
        "bf16": config.precision == "bfloat16",
        "gradient_checkpointing": config.gradient_checkpointing,
        "use_cpu": not config.use_gpu,
        "seed": seed,
        "data_seed": seed,
        "eval_strategy": "steps",
        "eval_steps": every,
        "save_strategy": "steps",
        "save_steps": every,
        "save_total_limit": 1,
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        "report_to": "none",
        "remove_unused_columns": False,
        "dataloader_num_workers": 0,
        "ddp_find_unused_parameters": False,
    }


def train_in_parts(
    config: TrainingConfig,
    steps: int,
    stretch: Stretch,
    output: str,
    make: Callable[[Any, str], tuple[Any, Callable[[Path], None] | None]],
) -> None:
    """In a worker: train, from the run's latest checkpoint where there is one; with new settings wherever they change.

    Every change ends a part, and the next goes on from its checkpoint. So a run whose settings change ends as one that was stopped there
    and gone on with under other settings.

    Args:
        config: what changes, and when.
        steps: of an epoch; 1 where changes count in steps.
        stretch: of the run that is wanted.
        output: a folder of this worker's.
        make: settings and a folder -> trainer of transformers, prepared for Ray, and what else takes up what a checkpoint holds.
    """
    import torch

    for number, (settings, until) in enumerate(config.parts()):
        last = until is None or (stretch.until is not None and until >= stretch.until)
        end = stretch.until if last else until
        folder = Path(output) / str(number)
        saved = _fetch_checkpoint(stretch.start, folder / "resume")
        if saved is None or not _is_over(saved, config.patience, None if end is None else end * steps):
            trainer, load = make(settings, str(folder))
            if end is not None:
                trainer.add_callback(_stop_after(end * steps))
            if saved is not None and load is not None:
                load(saved)
            _keep_own_settings(trainer)
            trainer.train(resume_from_checkpoint=None if saved is None else str(saved))
        if last:
            return
        if torch.distributed.is_initialized():  # every rank has handed its share of the checkpoint on
            torch.distributed.barrier()
        shutil.rmtree(folder)


def _fetch_checkpoint(start: str, target: Path) -> Path | None:
    """A copy of the run's latest checkpoint, or of ``start`` where it has none; None without either."""
    import ray.train

    checkpoint = ray.train.get_checkpoint() or (ray.train.Checkpoint(start) if start else None)
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as directory:
        shutil.copytree(Path(directory) / "checkpoint", target)
    return target


def _is_over(checkpoint: Path, patience: int, end: int | None) -> bool:
    """Whether training had already ended, or come to step ``end``, when this checkpoint was written."""
    from transformers import TrainerState

    from dig_ray.training.validation import validations_since_best

    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    end = state.max_steps if end is None else min(end, state.max_steps)
    return state.global_step >= end or validations_since_best(state.log_history) >= patience


def _stop_after(step: int) -> Any:
    from transformers import TrainerCallback

    class StopAfter(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step >= step:
                control.should_training_stop = True

    return StopAfter()


def _keep_own_settings(trainer: Any) -> None:
    """Make a trainer that takes up an optimizer's state keep its own learning rate, weight decay and betas.

    What is saved with an optimizer would lie over them otherwise.
    """
    load = trainer._load_optimizer_and_scheduler

    def load_state(checkpoint: str | None) -> None:
        groups = [{k: v for k, v in g.items() if k != "params"} for g in trainer.optimizer.param_groups]
        bases = list(trainer.lr_scheduler.base_lrs)
        load(checkpoint)
        if checkpoint is None:
            return
        scheduler = trainer.lr_scheduler
        scheduler.base_lrs = bases
        rates = [
            base * factor(scheduler.last_epoch)
            for base, factor in zip(bases, scheduler.lr_lambdas, strict=True)
        ]
        scheduler._last_lr = rates
        for group, own, rate in zip(trainer.optimizer.param_groups, groups, rates, strict=True):
            group.update(own | {"lr": rate})

    trainer._load_optimizer_and_scheduler = load_state
