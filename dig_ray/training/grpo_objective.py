"""GRPO's advantage and objective, as published (DeepInterestGR-2), and what else TRL offers under TRL's names.

``J = mean_g min(rho_g A_g, clip(rho_g, 1 - eps, 1 + eps) A_g) - beta * KL``; ``rho`` is the ratio of whole sequences, so of the product of
their tokens' probabilities. The KL estimator is our choice: Schulman's k3, ``exp(d) - d - 1`` with ``d = log p_ref - log p``, per token and
summed over the sequence; never negative, and unbiased for rollouts drawn from the policy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

PUBLISHED_EPSILON = 1e-6


def advantages(rewards: np.ndarray, scale_rewards: str = "published") -> np.ndarray:
    """Advantages of each group's rollouts, float (B, G).

    Args:
        rewards: float (B, G), what each of the G rollouts of B prompts is worth.
        scale_rewards: ``published``: ``(r - mean) / (population standard deviation + 1e-6)``. The others are TRL's: ``group`` divides by
            the sample standard deviation + 1e-4, ``batch`` by that of the whole batch, ``none`` only subtracts the mean.

    The whole batch must be given for ``batch``, over all workers.

    Raises:
        ValueError: another ``scale_rewards``.
    """
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    if scale_rewards == "published":
        # a group of equal rewards has none, also where their mean is off by a rounding
        flat = rewards.max(axis=1, keepdims=True) == rewards.min(axis=1, keepdims=True)
        centred[flat[:, 0]] = 0.0
        scaled: np.ndarray = centred / (rewards.std(axis=1, keepdims=True) + PUBLISHED_EPSILON)
        return scaled
    if scale_rewards == "group":
        return centred / (rewards.std(axis=1, ddof=1, keepdims=True) + 1e-4)
    if scale_rewards == "batch":
        return centred / (rewards.std(ddof=1) + 1e-4)
    if scale_rewards == "none":
        return centred
    raise ValueError(f"scale_rewards is published, group, batch or none, not {scale_rewards!r}")


def policy_objective(ratio: Tensor, advantage: Tensor, epsilon: float, epsilon_high: float) -> Tensor:
    """``min(rho A, clip(rho, 1 - epsilon, 1 + epsilon_high) A)`` of each sequence, (R,), from ratios (R,) and advantages (R,)."""
    import torch

    return torch.minimum(ratio * advantage, ratio.clamp(1 - epsilon, 1 + epsilon_high) * advantage)


def k3(log_probs: Tensor, reference: Tensor) -> Tensor:
    """Schulman's estimate of KL(policy || reference) from log-probabilities of the same tokens; 0 where they are equal."""
    gap = reference - log_probs
    return gap.exp() - gap - 1


def published_objective(
    log_probs: Tensor,
    old: Tensor,
    reference: Tensor | None,
    advantage: Tensor,
    beta: float,
    epsilon: float,
    epsilon_high: float,
) -> Tensor:
    """The objective to be made large, a scalar.

    Args:
        log_probs: (R, C), log-probabilities of the C tokens of R rollouts under the policy, 0 on padding.
        old: (R, C), the same under the policy that made the rollouts.
        reference: (R, C), the same under the reference policy; None leaves the KL out.
        advantage: (R,), the advantage of each rollout.
        beta: weight of the KL; 0 leaves it out.
        epsilon, epsilon_high: ratios are clipped to ``[1 - epsilon, 1 + epsilon_high]``.
    """
    ratio = (log_probs - old).sum(1).exp()
    objective = policy_objective(ratio, advantage, epsilon, epsilon_high).mean()
    if reference is not None and beta:
        objective = objective - beta * k3(log_probs, reference).sum(1).mean()
    return objective
