"""A trained model's answers: interests of cases, ranks of their targets and lists of items, for as many cases at once as fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from dig_ray.evaluation.case_histories import histories, without_seen
from dig_ray.multi_interest.model import MultiInterestModel
from dig_ray.multi_interest.retrieval import FaissIndex, top_items, users_at_once
from dig_ray.numerics import ranking
from dig_ray.numerics.exact_ranks import ranks_among_all, rows_at_once

if TYPE_CHECKING:
    from dig_ray.catalog.dataset import Cases


def interests_of(
    model: MultiInterestModel, events: np.ndarray, start: np.ndarray, end: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    """Interests after histories ``events[start:end]``, of which the latest ``max_length`` events are read.

    Args:
        model: the model in evaluation mode, else its dropout shows.
        events: int ``(E,)``, item index of every event.
        start, end: int ``(B,)``, where each history begins and ends in ``events``; it may be empty.

    Returns:
        interests float ``(B, K, D)``, zero for an empty history, and how much of each event that was read is in them, ``(B, K, L)``.
    """
    device = model.items.weight.device
    start = np.maximum(np.asarray(start, np.int64), np.asarray(end, np.int64) - model.config.max_length)
    lengths = np.asarray(end, np.int64) - start
    place = np.arange(max(1, int(lengths.max(initial=1))))
    real = place < lengths[:, None]
    items = np.where(real, events[np.where(real, start[:, None] + place, 0)], 0).astype(np.int64)
    length = torch.from_numpy(lengths).to(device)
    interests, weights = model(torch.from_numpy(items).to(device), length, (length - 1).clamp(min=0))
    return interests[:, 0] * (length > 0)[:, None, None], weights[:, 0]


def ranks_of_targets(model: MultiInterestModel, events: np.ndarray, cases: Cases) -> np.ndarray:
    """Exact 0-based rank of each case's target among all items, less those of the history where ``valid_seen`` leaves them out; ties by the
    lower index. int64 ``(C,)``."""
    model.eval()
    with torch.inference_mode():
        keys = model.keys()

    def score(low: int, high: int) -> torch.Tensor:
        found, _ = interests_of(model, events, cases.start[low:high], cases.end[low:high])
        queries = model.queries(found)
        scores = (queries.flatten(0, 1) @ keys.T).unflatten(0, queries.shape[:2]).amax(1)
        return without_seen(scores, events, cases, low) if model.config.valid_seen == "left_out" else scores

    return ranks_among_all(score, cases.target, rows_at_once(keys, model.config.interests))


def recommend(
    model: MultiInterestModel, events: np.ndarray, cases: Cases, k: int, exclude_seen: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Lists for all cases, by the config's ``search``: items int32 ``(C, k)`` best first, padded -1, and scores float32 ``(C, k)``.

    Args:
        model: a trained model, which is put in evaluation mode.
        events: int ``(E,)``, item index of every event.
        cases: C cases, each with its history in ``events``.
        k: items of a list.
        exclude_seen: whether items of a case's history are left out of its list.

    Raises:
        UserError: faiss is wanted and not installed.
    """
    model.eval()
    items = np.full((len(cases.target), k), ranking.PAD, np.int32)
    values = np.full((len(cases.target), k), -np.inf, np.float32)
    with torch.inference_mode():
        keys = model.keys().float().cpu().numpy()
        index = FaissIndex(keys) if model.config.search == "faiss" else None
        at_once = users_at_once(model.config.interests, len(keys))
        for low in range(0, len(items), at_once):
            high = min(low + at_once, len(items))
            found, _ = interests_of(model, events, cases.start[low:high], cases.end[low:high])
            queries = model.queries(found).float().cpu().numpy()
            seen = None
            if exclude_seen:
                row, item, _ = histories(events, cases, low, high)
                seen = np.stack([row, item], axis=1)
            items[low:high], values[low:high] = (
                top_items(queries, keys, k, seen) if index is None else index.top_items(queries, k, seen)
            )
    return items, values
