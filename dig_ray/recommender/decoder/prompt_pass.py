"""Prompts that are read once for everything a GRPO step asks of the policy: rollouts, and their log-probabilities with gradients.

Rollouts are drawn from the policy that is then updated, so the keys and values they start from are those of the update's forward pass.
Prompts lie in packed rows, so that short ones next to a long one cost no padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dig_ray.recommender.packing import document_mask, pack

if TYPE_CHECKING:
    from torch import Tensor

ROW = 64
"""Tokens of a packed row, where no prompt is longer. Rows attend to all they hold, so short ones are less work (measured on a CPU)."""


@dataclass(frozen=True)
class PromptRows:
    """B prompts in R rows of T columns.

    Attributes:
        input_ids, position_ids, document: int64 (R, T); the document is a prompt's number, -1 is padding.
        row, column: int64 (B,), the place of each prompt's first token.
        lengths: int64 (B,), how many tokens each prompt has.
    """

    input_ids: np.ndarray
    position_ids: np.ndarray
    document: np.ndarray
    row: np.ndarray
    column: np.ndarray
    lengths: np.ndarray

    @staticmethod
    def of(prompts: Sequence[np.ndarray], pad: int) -> PromptRows:
        """Lay out B prompts, int64 vocabulary ids each; equal prompts are laid out equally. ``pad`` fills what is left of a row."""
        lengths = np.array([len(p) for p in prompts], np.int64)
        packed = pack(lengths, max(int(lengths.max()), min(ROW, int(lengths.sum()))))
        row, column = np.empty_like(lengths), np.empty_like(lengths)
        for number, documents in enumerate(packed):
            row[documents] = number
            column[documents] = np.cumsum(lengths[documents]) - lengths[documents]
        shape = (len(packed), int((column + lengths).max()))
        input_ids = np.full(shape, pad, np.int64)
        position, document = np.zeros(shape, np.int64), np.full(shape, -1, np.int64)
        whose = np.repeat(np.arange(len(prompts)), lengths)
        within = np.arange(len(whose)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        at = row[whose], column[whose] + within
        input_ids[at] = np.concatenate(list(prompts))
        position[at] = within
        document[at] = whose
        return PromptRows(input_ids, position, document, row, column, lengths)


def reads_of(row: np.ndarray, column: np.ndarray, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """What is read of each row, int64 (R, Q), 0 where it is less; and which of the R * Q each given place is, int64 (n,)."""
    order = np.argsort(row, kind="stable")
    count = np.bincount(row, minlength=n_rows)
    rank = np.empty(len(row), np.int64)
    rank[order] = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    reads = np.zeros((n_rows, int(count.max())), np.int64)
    reads[row, rank] = column
    return reads, row * reads.shape[1] + rank


@dataclass(frozen=True)
class PromptPass:
    """What the policy made of B prompts in R rows of T columns, with its graph.

    Attributes:
        layers: per layer, keys and values of all columns, (R, H, T, D) each: H heads of width D.
        ends: (B, d), states at the last token of each prompt, which predict the first token after it.
        row, column: int64 (B,), the place of each prompt's first token, as in ``PromptRows``.
    """

    layers: list[tuple[Tensor, Tensor]]
    ends: Tensor
    row: Tensor
    column: Tensor


def read_prompts(decoder: Any, rows: PromptRows) -> PromptPass:
    """Read prompts with gradients, on a stack for which ``slim_block.has_slim_blocks`` holds."""
    import torch

    from dig_ray.recommender.decoder.slim_block import additive, slim_stack

    ids, positions, document, row, column = (
        torch.from_numpy(a) for a in (rows.input_ids, rows.position_ids, rows.document, rows.row, rows.column)
    )
    reads, places = reads_of(rows.row, rows.column + rows.lengths - 1, len(ids))
    x = decoder.embed_tokens(ids)
    mask = additive(document_mask(document), x.dtype)
    states, layers = slim_stack(decoder, x, positions, mask, torch.from_numpy(reads))
    return PromptPass(layers, states[torch.from_numpy(places)], row, column)
