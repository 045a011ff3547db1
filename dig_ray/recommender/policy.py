"""What decoding and training need of a causal LM: hidden states, and the head cut down to the SID rows.

Any Hugging Face causal LM will do. SID tokens sit in one contiguous range of its vocabulary, ``[sid_start, sid_start + n_sid)``, so
scoring them is one small matrix product instead of a projection on the whole vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass
class SidPolicy:
    """A causal LM and where the SID tokens live in its vocabulary.

    Attributes:
        model: any Hugging Face causal LM, or one wrapped by PEFT.
        sid_start: vocabulary id of SID token 0.
        n_sid: number of SID tokens.
        bos: vocabulary id that begins every history.
        pad: vocabulary id used for padding.
    """

    model: Any
    sid_start: int
    n_sid: int
    bos: int
    pad: int

    @property
    def causal_lm(self) -> Any:
        """The Hugging Face model itself, out of any PEFT wrapper (adapters stay in place)."""
        inner = getattr(self.model, "module", self.model)  # DistributedDataParallel
        return inner.get_base_model() if hasattr(inner, "get_base_model") else inner

    @property
    def dtype(self) -> torch.dtype:
        """Of the base: what its layers compute in, whatever an adapter keeps its own weights in."""
        embedding = self.causal_lm.get_input_embeddings()
        weight: Tensor = getattr(embedding, "original_module", embedding).weight
        return weight.dtype

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.causal_lm.parameters()).device

    def hidden(self, **inputs: Any) -> Any:
        """Run the decoder stack without its head; returns the model output with ``last_hidden_state``."""
        return self.causal_lm.get_decoder()(**inputs)

    def sid_rows(self) -> Tensor:
        """The head's rows of the SID tokens, (n_sid, d), with whatever adapter trains them applied; differentiable."""
        return sid_rows(self.causal_lm, self.sid_start, self.n_sid)


def sid_logits(hidden: Tensor, rows: Tensor) -> Tensor:
    """Scores of SID tokens, float32 (..., n): states (..., d) against head rows (n, d), in the type of the rows.

    Under an adapter the rows are float32 beside a base of another type, so states are cast here, at the head, and nowhere else.
    """
    return (hidden.to(rows.dtype) @ rows.T).float()


def sid_rows(causal_lm: Any, sid_start: int, n_sid: int) -> Tensor:
    """Rows ``[sid_start, sid_start + n_sid)`` of the output embedding, (n_sid, d).

    PEFT's trainable tokens keep the trained rows beside the frozen matrix; these are read instead of merging, which would copy the
    whole vocabulary at every step.
    """
    head = causal_lm.get_output_embeddings()
    adapter = getattr(head, "token_adapter", None)
    if adapter is not None:
        name = head.active_adapters[0] if getattr(head, "active_adapters", None) else "default"
        return adapter.trainable_tokens_delta[name]
    return head.weight[sid_start : sid_start + n_sid]
