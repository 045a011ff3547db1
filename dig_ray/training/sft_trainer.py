"""TRL's SFTTrainer on packed SID documents: the loss over SID rows, validation by real constrained decoding.

Three things differ from TRL's own: batches are packed rows with a document mask and carry the item and the place in its SID that
each position predicts; the loss is ``SidLoss`` (plus a full-vocabulary cross-entropy where a task writes text); ``evaluate`` decodes
validation users and reports NDCG@10, which is what early stopping and the best checkpoint go by.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from transformers import TrainerCallback
from trl import SFTConfig as TrlSftConfig
from trl import SFTTrainer

from dig_ray.recommender.decoding import BeamSearcher
from dig_ray.recommender.objective import SidLoss
from dig_ray.recommender.packing import document_mask
from dig_ray.recommender.policy import SidPolicy
from dig_ray.training.validation import FiniteGradients, ValidationSet, validate
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
        self.add_callback(FiniteGradients(policy.model, lambda: self._batch))
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

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Decode the validation users, with the average where there is one."""
        average = self.average.applied() if self.average else nullcontext()
        return validate(self, self._policy, self._valid, self._searcher, average)
