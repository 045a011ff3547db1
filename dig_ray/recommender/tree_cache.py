"""One key-value cache for all beams of a user.

A beam is not a row of the batch but a position in its user's row: the prompt's keys and values exist once, every fed token appends one
more, and a 4-D attention mask lets a beam see the prompt, its own ancestors and itself. Nothing is ever copied or reordered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from dig_ray.recommender.policy import SidPolicy


class TreeCache:
    """The state of a batched search: prefill once, then feed one token per beam and step.

    Args:
        policy: any Hugging Face causal LM that takes a 4-D attention mask and a ``DynamicCache``.
        prompts: int64 (B, P) vocabulary ids, padded on the right.
        lengths: int64 (B,) real lengths, at least 1.
    """

    def __init__(self, policy: SidPolicy, prompts: Tensor, lengths: Tensor) -> None:
        import torch
        from transformers import DynamicCache

        self.policy = policy
        self.lengths = lengths
        self.batch, width = prompts.shape
        self.device = prompts.device
        self.dtype = policy.causal_lm.get_input_embeddings().weight.dtype
        self.blocked = torch.finfo(self.dtype).min
        self.cache = DynamicCache(config=policy.causal_lm.config)
        real = torch.arange(width, device=self.device)[None, :] < lengths[:, None]  # (B, P)
        bias = torch.zeros(self.batch, 1, 1, width, dtype=self.dtype, device=self.device)
        self._prompt_bias = bias.masked_fill_(~real[:, None, None, :], self.blocked)
        self._real = real
        self._prompts = prompts
        self._ancestors: list[
            Tensor
        ] = []  # per fed step, (B, beams now): the beam of that step each beam descends from
        self._fed: list[int] = []

    def prefill(self) -> Tensor:
        """Run the prompts; returns the state that predicts the first token, (B, 1, d)."""
        import torch

        width = self._prompts.shape[1]
        at = torch.arange(width, device=self.device)
        out = self.policy.hidden(
            input_ids=self._prompts,
            attention_mask=self._causal_bias(at),
            position_ids=at[None, :].expand(self.batch, -1),
            past_key_values=self.cache,
            use_cache=True,
        )
        rows = torch.arange(self.batch, device=self.device)
        return out.last_hidden_state[rows, self.lengths - 1][:, None]

    def reparent(self, parent: Tensor) -> None:
        """Say which of the last step's beams each new beam, (B, K), continues."""
        self._ancestors = [a.gather(1, parent) for a in self._ancestors]

    def feed(self, tokens: Tensor) -> Tensor:
        """Append one token per beam, (B, K) vocabulary ids; returns the states that predict what follows, (B, K, d)."""
        import torch

        beams = tokens.shape[1]
        step = len(self._fed)
        own = torch.arange(beams, device=self.device)[None, :].expand(self.batch, -1)
        self._ancestors.append(own)
        self._fed.append(beams)
        bias = [self._prompt_bias.expand(-1, -1, beams, -1)]
        for origin, fed in zip(self._ancestors, self._fed, strict=True):
            block = torch.full(
                (self.batch, 1, beams, fed), self.blocked, dtype=self.dtype, device=self.device
            )
            bias.append(block.scatter_(3, origin[:, None, :, None], 0.0))
        out = self.policy.hidden(
            input_ids=tokens,
            attention_mask=torch.cat(bias, dim=3),
            position_ids=(self.lengths[:, None] + step).expand(-1, beams),
            past_key_values=self.cache,
            use_cache=True,
        )
        return out.last_hidden_state

    def _causal_bias(self, at: Tensor) -> Any:
        """Additive (B, 1, P, P): causal and blind to padding; a padded position still sees itself, to stay finite."""
        import torch

        causal = at[None, :] <= at[:, None]
        own = at[None, :] == at[:, None]
        allowed = causal[None] & (self._real[:, None, :] | own[None])
        bias = torch.zeros(allowed.shape, dtype=self.dtype, device=self.device)
        return bias.masked_fill_(~allowed, self.blocked)[:, None]
