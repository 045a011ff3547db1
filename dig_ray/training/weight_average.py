"""An exponential moving average of the weights while they train: what is validated, early stopping goes by, and is published.

It is kept in float32 beside the model, over the trained parameters only, and is part of every checkpoint, so a resumed run has the same
average.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

FILE = "average.safetensors"
FOLDER = "averaged"
"""Inside a checkpoint: the average itself, for a resume, and the model with it, for publishing."""


class WeightAverage(TrainerCallback):
    """Keeps the average of a model's trained parameters.

    Args:
        model: the model that is trained in place; what of it trains must be known by now.
        decay: share of the average that stays at each step, in [0, 1); the first steps forget faster, (1 + step) / (10 + step), so that
            the start does not weigh.

    As a callback it must come before any that hands checkpoints on.
    """

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self._names = [name for name, p in model.named_parameters() if p.requires_grad]
        self._live = [p for p in model.parameters() if p.requires_grad]
        self._average: list[torch.Tensor] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._average is None:
            self._average = [p.detach().float().clone() for p in self._live]
        else:  # read from a checkpoint, on the CPU
            self._average = [a.to(p.device) for a, p in zip(self._average, self._live, strict=True)]

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        assert self._average is not None
        step = state.global_step
        move = 1 - min(self.decay, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(self._average, [p.detach().float() for p in self._live], move)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        from safetensors.torch import save_file

        assert self._average is not None
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        save_file(dict(zip(self._names, self._average, strict=True)), folder / FILE)
        with self.applied():
            self.model.save_pretrained(folder / FOLDER)  # type: ignore[operator]

    def load(self, checkpoint: Path) -> None:
        """Take up the average of a checkpoint."""
        from safetensors.torch import load_file

        tensors = load_file(checkpoint / FILE)
        self._average = [tensors[name] for name in self._names]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model holds the average; afterwards the trained weights again, to the bit."""
        if self._average is None:
            yield
            return
        kept = [p.detach().clone() for p in self._live]
        self._set(self._average)
        try:
            yield
        finally:
            self._set(kept)

    def _set(self, values: list[torch.Tensor]) -> None:
        # copying in place tells decoders that hold packed weights that these have changed
        with torch.no_grad():
            for parameter, value in zip(self._live, values, strict=True):
                parameter.copy_(value)
