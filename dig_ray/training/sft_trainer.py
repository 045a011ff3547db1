"""TRL's SFTTrainer on packed SID documents: the loss over SID rows, validation by real constrained decoding.

Three things differ from TRL's own: batches are packed rows with a document mask and carry the item and the place in its SID that
each position predicts; the loss is ``SidLoss`` (plus a full-vocabulary cross-entropy where a task writes text); ``evaluate`` decodes
validation users and reports NDCG@10, which is what early stopping and the best checkpoint go by.
"""

from __future__ import annotations

import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback
from trl import SFTConfig as TrlSftConfig
from trl import SFTTrainer

from dig_ray.ranking import ndcg, rank_of_target
from dig_ray.recommender.decoding import BeamSearcher, pad_prompts
from dig_ray.recommender.objective import SidLoss
from dig_ray.recommender.packing import document_mask
from dig_ray.recommender.policy import SidPolicy
from dig_ray.training.weight_average import WeightAverage


def attach_loss(policy: SidPolicy, loss: SidLoss) -> None:
    """Make the model's forward return the summed loss of a packed batch.

    The loss has to be computed inside ``forward``: that is where distributed wrappers hook in to average gradients.
    """

    def forward(
        self: Any,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        document: torch.Tensor,
        labels: torch.Tensor,
        item: torch.Tensor,
        depth: torch.Tensor,
        **_: Any,
    ) -> dict[str, torch.Tensor]:
        out = self.get_decoder()(
            input_ids=input_ids,
            position_ids=position_ids,
            attention_mask=document_mask(document),
            use_cache=False,
        )
        hidden = out.last_hidden_state
        sid = item >= 0
        rows = policy.sid_rows()
        total = loss(hidden[sid], rows, labels[sid] - policy.sid_start, item[sid], depth[sid])
        text = (labels >= 0) & ~sid
        if bool(text.any()):
            logits = self.get_output_embeddings()(hidden[text]).float()
            total = total + torch.nn.functional.cross_entropy(logits, labels[text], reduction="sum")
        return {"loss": total}

    policy.causal_lm.forward = types.MethodType(forward, policy.causal_lm)


class ValidationSet:
    """Validation users as the policy reads them; equal shares for every rank.

    Args:
        prompts: vocabulary ids of each history.
        targets: int64 (C,) item to be found.
    """

    def __init__(self, prompts: list[np.ndarray], targets: np.ndarray, pad: int) -> None:
        order = np.argsort(
            [len(p) for p in prompts], kind="stable"
        )  # batches of similar length waste no padding
        self.prompts = [prompts[i] for i in order]
        self.targets = np.asarray(targets)[order]
        self.pad = pad

    def sums(self, searcher: BeamSearcher, rank: int, world: int, batch: int = 64) -> np.ndarray:
        """float64 (3,): summed NDCG@10, summed hits@10 and count over this rank's users."""
        total = np.zeros(3)
        mine = range(rank * batch, len(self.prompts), world * batch)
        for begin in mine:
            ids, lengths = pad_prompts(self.prompts[begin : begin + batch], self.pad)
            device = searcher.policy.device
            beams = searcher.search(torch.from_numpy(ids).to(device), torch.from_numpy(lengths).to(device))
            ranks = rank_of_target(beams.items.cpu().numpy(), self.targets[begin : begin + batch])
            total += ndcg(ranks, 10).sum(), ((ranks >= 0) & (ranks < 10)).sum(), len(ranks)
        return total


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


class LossIsNaN(Exception):
    """The gradients of a step are not finite; every rank raises it at the same step, before the weights are touched."""

    def __init__(self, step: int, batch: dict[str, torch.Tensor]) -> None:
        super().__init__(f"the loss became NaN at step {step}")
        self.step, self.batch = step, batch


class SidTrainer(SFTTrainer):
    """See the module's docstring. ``policy.model`` is trained in place; with ``average`` its moving average is what is validated."""

    def __init__(
        self,
        policy: SidPolicy,
        loss: SidLoss,
        arrays: dict[str, torch.Tensor],
        valid: ValidationSet,
        searcher: Callable[[], BeamSearcher],
        args: TrlSftConfig,
        tokenizer: Any,
        callbacks: list[TrainerCallback],
        average: WeightAverage | None = None,
    ) -> None:
        from datasets import Dataset

        self._policy = policy
        self.average = average
        self._valid = valid
        self._searcher = searcher
        n_rows = len(arrays["input_ids"])

        def collate(rows: list[dict[str, int]]) -> dict[str, torch.Tensor]:
            chosen = torch.tensor([row["row"] for row in rows])
            return {name: values[chosen] for name, values in arrays.items()}

        super().__init__(
            model=policy.model,
            args=args,
            train_dataset=Dataset.from_dict({"row": list(range(n_rows))}),
            eval_dataset=Dataset.from_dict(
                {"row": [0]}
            ),  # never read: ``evaluate`` decodes; the trainer insists on one
            data_collator=collate,
            processing_class=tokenizer,
            callbacks=[*([average] if average else []), *callbacks],
        )
        self.add_callback(_BeforeEachStep(self._check_finite))
        self.model_accepts_loss_kwargs = True  # the loss is already divided by the tokens of the whole step
        attach_loss(policy, loss.to(self.args.device))

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        total = model(**inputs)["loss"]
        count = num_items_in_batch if num_items_in_batch is not None else (inputs["labels"] != -100).sum()
        # Ranks average their gradients, while the count is that of all ranks together.
        loss = total / count * (self.accelerator.num_processes if num_items_in_batch is not None else 1)
        return (loss, {"loss": loss}) if return_outputs else loss

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        self._batch = inputs
        return super().training_step(model, inputs, *args, **kwargs)

    def _check_finite(self) -> None:
        """Raise ``LossIsNaN`` when the step's gradients are not finite. They are averaged by now, so all ranks agree."""
        grads = [p.grad for p in self._policy.model.parameters() if p.grad is not None]
        norm: Any = torch.nn.utils.get_total_norm(grads)
        if hasattr(norm, "full_tensor"):  # FSDP: each rank holds a shard
            norm = norm.full_tensor()
        if not bool(torch.isfinite(norm)):
            raise LossIsNaN(self.state.global_step + 1, self._batch)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Decode the validation users: ``eval_ndcg@10``, ``eval_hr@10`` and the seconds it took. Draws no random number."""
        started = time.monotonic()
        was_training = self._policy.model.training
        self._policy.model.eval()
        with gathered(self._policy.model), self.average.applied() if self.average else nullcontext():
            found = self._valid.sums(self._searcher(), self.args.process_index, self.args.world_size)
        sums = torch.from_numpy(found).to(self.args.device)
        if self.args.world_size > 1:
            torch.distributed.all_reduce(sums)
        self._policy.model.train(was_training)
        gain, hits, count = sums.tolist()
        if int(count) != len(self._valid.prompts):
            raise RuntimeError(f"validation read {int(count)} users of {len(self._valid.prompts)}")
        metrics = {
            "eval_ndcg@10": gain / count,
            "eval_hr@10": hits / count,
            "eval_seconds": round(time.monotonic() - started, 2),
        }
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def validations_since_best(log_history: list[dict[str, Any]]) -> int:
    """How many validations came after the one with the best NDCG@10 (the first of equals)."""
    scores = [entry["eval_ndcg@10"] for entry in log_history if "eval_ndcg@10" in entry]
    return len(scores) - 1 - int(np.argmax(scores)) if scores else 0


class _BeforeEachStep(TrainerCallback):
    def __init__(self, check: Callable[[], None]) -> None:
        self.check = check

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.check()


class StopWhenStale(TrainerCallback):
    """Early stopping that keeps no state of its own: it reads the log, so a resumed run stops where an uninterrupted one does."""

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if validations_since_best(state.log_history) >= self.patience:
            control.should_training_stop = True


class ProgressLines(TrainerCallback):
    """A line now and then: epoch, step, loss, tokens per second and the time left."""

    def __init__(self, say: Callable[[str], None], tokens_per_step: float, seconds: float = 15.0) -> None:
        self.say, self.tokens_per_step, self.seconds = say, tokens_per_step, seconds
        self._start: tuple[float, int] | None = None
        self._last = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
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
            f"sft: epoch {state.epoch or 0:.1f}/{args.num_train_epochs:g}, step {state.global_step}/{state.max_steps}, "
            f"{loss}{rate * self.tokens_per_step:,.0f} tokens/s, "
            f"at most {(state.max_steps - state.global_step) / max(rate, 1e-9):.0f} s left"
        )

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        if logs and "eval_ndcg@10" in logs:
            self.say(
                f"sft: epoch {state.epoch or 0:.1f}, validation NDCG@10 {logs['eval_ndcg@10']:.4f}, "
                f"HR@10 {logs['eval_hr@10']:.4f} ({logs['eval_seconds']:.0f} s)"
            )
