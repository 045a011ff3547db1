"""Training with transformers' trainer in parts, between which settings change; what SFT and GRPO both tell it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dig_ray.base import Stretch
from dig_ray.training.config import TrainingConfig


def trainer_arguments(config: Any, seed: int, output: str, every: int) -> dict[str, Any]:
    """What SFT and GRPO both tell transformers' trainer.

    Args:
        config: an ``SftConfig`` or a ``GrpoConfig``.
        seed: the seed of data and model.
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
        steps: the steps of an epoch; 1 where changes count in steps.
        stretch: the stretch of the run that is wanted.
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
