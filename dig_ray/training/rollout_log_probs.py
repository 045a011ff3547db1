"""Log-probabilities of rollouts under the policy that is trained, and under the one it started from."""

from __future__ import annotations

import copy
import types
from contextlib import contextmanager
from typing import Any

import torch
from trl.trainer.utils import use_adapter

from dig_ray.recommender.decoder.prompt_pass import PromptPass
from dig_ray.recommender.policy import SidPolicy
from dig_ray.recommender.rollout_trees import tree_log_probs, tree_states
from dig_ray.recommender.trie import TrieDistribution

REFERENCE = "reference"


def attach_log_probs(policy: SidPolicy, trie: TrieDistribution, temperature: float) -> None:
    """Make the model's forward return each rollout's log-probabilities and entropies, (B * G, D) each.

    It has to happen inside ``forward``: that is where distributed wrappers hook in to average gradients.
    """

    def forward(
        self: Any, tree: dict[str, Any], known: PromptPass | None = None, **_: Any
    ) -> dict[str, torch.Tensor]:
        read = tree_states(self.get_decoder(), tree, known)
        log_probs, entropies = tree_log_probs(trie, read, policy.sid_rows(), tree, temperature)
        return {"log_probs": log_probs, "entropies": entropies}

    policy.causal_lm.forward = types.MethodType(forward, policy.causal_lm)


class Reference:
    """The policy as it was before RL: a frozen copy, of its adapter alone where it has one.

    Args:
        policy: the policy before ``attach_log_probs``, whose weights are copied.
        trie: distributions over the catalogue's prefixes.
        temperature: logits are divided by it; the same as for the policy.
    """

    def __init__(self, policy: SidPolicy, trie: TrieDistribution, temperature: float) -> None:
        self.trie, self.temperature = trie, temperature
        self.policy = policy
        self.adapter = hasattr(policy.model, "peft_config")
        if self.adapter:
            model = policy.model
            active = model.active_adapter
            model.add_adapter(REFERENCE, model.peft_config[active])
            tensors = dict(model.named_parameters())
            for name, tensor in tensors.items():
                twin = tensors.get(name.replace(f".{REFERENCE}", f".{active}")) if REFERENCE in name else None
                if twin is not None:
                    tensor.data.copy_(twin.data)
                    tensor.requires_grad_(False)
        else:
            model = copy.deepcopy(policy.model).requires_grad_(False)
            self.policy = SidPolicy(model, policy.sid_start, policy.n_sid, policy.bos, policy.pad)

    @contextmanager
    def _active(self) -> Any:
        if not self.adapter:
            yield
            return
        inner = getattr(self.policy.model, "module", self.policy.model)
        with use_adapter(inner, REFERENCE):
            yield

    def log_probs(self, tree: dict[str, Any]) -> torch.Tensor:
        """Log-probabilities of each rollout's tokens, (B * G, D), without gradients; ``tree`` is what ``RolloutTrees.tensors`` gives."""
        with torch.no_grad(), self._active():
            read = tree_states(self.policy.causal_lm.get_decoder(), tree)
            return tree_log_probs(self.trie, read, self.policy.sid_rows(), tree, self.temperature)[0]
