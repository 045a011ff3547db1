"""The weighted sum of several rewards of a batch of rollouts, and each one, raw and weighted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from dig_ray.training.rollout_batch import Reward, RolloutBatch


class RewardError(Exception):
    """A reward function failed; the sentence names it and the row."""


@dataclass(frozen=True)
class Rewards:
    """Rewards of a batch.

    Attributes:
        total: float (B, G), the weighted sum of each rollout.
        raw: by name, each function's own values, float (B, G).
        weighted: by name, those values times the function's weight, float (B, G).
    """

    total: np.ndarray
    raw: dict[str, np.ndarray]
    weighted: dict[str, np.ndarray]


def weighted_rewards(functions: Mapping[str, tuple[Reward, float]], batch: RolloutBatch) -> Rewards:
    """The weighted sum of several rewards.

    Args:
        functions: name -> (function, weight); none of them give 0 everywhere.
        batch: the rollouts that they judge.

    Raises:
        RewardError: a function raised, returned another shape, or something that is no finite number; the function and the row are named.
    """
    raw: dict[str, np.ndarray] = {}
    for name, (function, _) in functions.items():
        try:
            values = np.asarray(function(batch), float)
        except Exception as error:
            raise RewardError(
                f"reward {name} raised {type(error).__name__}: {error} (training rows {batch.rows[0]} to {batch.rows[-1]} were given)"
            ) from error
        if values.shape != batch.items.shape:
            raise RewardError(
                f"reward {name} returned an array of shape {values.shape} for {batch.items.shape[0]} prompts with "
                f"{batch.items.shape[1]} rollouts each; it must be {batch.items.shape}"
            )
        if not np.isfinite(values).all():
            row, number = np.argwhere(~np.isfinite(values))[0]
            raise RewardError(
                f"reward {name} is {values[row, number]} for rollout {number} of training row {batch.rows[row]} (item "
                f"{batch.sids.item_ids[batch.items[row, number]]}); it must be a finite number"
            )
        raw[name] = values
    weighted = {name: raw[name] * weight for name, (_, weight) in functions.items()}
    total = np.sum(list(weighted.values()), axis=0) if weighted else np.zeros(batch.items.shape)
    return Rewards(total=total, raw=raw, weighted=weighted)
