"""One key-value cache for all beams of a user.

A beam is not a row of the batch but a position in its user's row: the prompt's keys and values exist once, every fed token appends one
more, and a 4-D attention mask lets a beam see the prompt, its own ancestors and itself. Nothing is ever copied or reordered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dig_ray.recommender.decoder.slim_decoder import SlimDecoder, is_slim
from dig_ray.recommender.decoder.slim_weights import SlimWeights

if TYPE_CHECKING:
    from torch import Tensor

    from dig_ray.recommender.decoder.prompt_pass import PromptPass
    from dig_ray.recommender.policy import SidPolicy


class TreeCache:
    """The state of a batched search: prefill once, then feed one token per beam and step.

    Args:
        policy: any Hugging Face causal LM that takes a 4-D attention mask and a ``DynamicCache``.
        prompts: int64 (B, P), vocabulary ids, padded on the right.
        lengths: int64 (B,), real tokens of each prompt, at least 1.
        room: tokens of a row that will be fed after the prompt, at most.
        weights: the weights of an earlier search with this policy, to be used again where they still hold.
    """

    def __init__(
        self,
        policy: SidPolicy,
        prompts: Tensor,
        lengths: Tensor,
        room: int,
        weights: SlimWeights | None = None,
    ) -> None:
        import torch

        self.lengths = lengths
        self.batch, self.width = prompts.shape
        self.device = prompts.device
        self.dtype = policy.dtype
        self.blocked = torch.finfo(self.dtype).min
        decoder = policy.causal_lm.get_decoder()
        self.weights: SlimWeights | None = None
        self._stack: SlimDecoder | _GeneralDecoder
        if is_slim(decoder, self.width + room):
            self.weights = SlimWeights.of(decoder, weights)
            self._stack = SlimDecoder(decoder, self.weights, prompts, room)
        else:
            self._stack = _GeneralDecoder(policy, prompts)
        self._padding: Tensor | None = (
            None  # additive (B, 1, 1, P), where some prompt is shorter than the widest
        )
        if bool((lengths < self.width).any()):
            real = torch.arange(self.width, device=self.device) < lengths[:, None]
            self._padding = torch.zeros(real.shape, dtype=self.dtype, device=self.device)
            self._padding = self._padding.masked_fill_(~real, self.blocked)[:, None, None]
        self._columns: Tensor | None = (
            None  # (B, beams now, fed steps): where each beam's own tokens lie in its row
        )
        self._used, self._steps = self.width, 0

    def prefill(self, known: PromptPass | None = None) -> Tensor:
        """Run the prompts, or go on from what they gave; returns the state that predicts the first token, (B, 1, d)."""
        if known is not None and isinstance(self._stack, SlimDecoder):
            return self._stack.take(known)
        return self._stack.prefill(self.lengths - 1, self._padding)

    def reparent(self, parent: Tensor) -> None:
        """Say which of the last step's beams each new beam, (B, K), continues."""
        if self._columns is not None:
            self._columns = self._columns.gather(1, parent[..., None].expand(-1, -1, self._steps))

    def feed(self, tokens: Tensor) -> Tensor:
        """Append one token per beam, (B, K) vocabulary ids; returns the states that predict what follows, (B, K, d)."""
        import torch

        beams = tokens.shape[1]
        own = torch.arange(self._used, self._used + beams, device=self.device).expand(self.batch, -1)[
            ..., None
        ]
        self._columns = own if self._columns is None else torch.cat([self._columns, own], dim=2)
        self._used += beams
        mask = torch.full(
            (self.batch, 1, beams, self._used), self.blocked, dtype=self.dtype, device=self.device
        )
        mask[..., : self.width] = 0.0 if self._padding is None else self._padding
        mask.scatter_(3, self._columns[:, None], 0.0)
        positions = (self.lengths[:, None] + self._steps).expand(-1, beams)
        self._steps += 1
        return self._stack.feed(tokens, positions, mask)


class _GeneralDecoder:
    """The same state for any other architecture, through Hugging Face's own forward pass."""

    def __init__(self, policy: SidPolicy, prompts: Tensor) -> None:
        from transformers import DynamicCache

        self.policy = policy
        self.prompts = prompts
        self.cache = DynamicCache(config=policy.causal_lm.config)

    def prefill(self, last: Tensor, mask: Tensor | None) -> Tensor:
        import torch

        width = self.prompts.shape[1]
        at = torch.arange(width, device=last.device)
        # Padding comes after all that is real, so a causal mask hides it; what padded columns compute is never read.
        dtype = self.policy.dtype
        causal = torch.zeros(width, width, dtype=dtype, device=last.device)
        causal.masked_fill_(at[None, :] > at[:, None], torch.finfo(dtype).min)
        out = self._run(self.prompts, at.expand(len(last), -1), causal.expand(len(last), 1, -1, -1))
        return out[torch.arange(len(last), device=last.device), last][:, None]

    def feed(self, tokens: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        return self._run(tokens, positions, mask)

    def _run(self, tokens: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        out = self.policy.hidden(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
        )
        return out.last_hidden_state
