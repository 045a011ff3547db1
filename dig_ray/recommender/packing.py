"""Packing many short histories into rows of one length, each blind to its neighbours.

Beauty's histories have a median of five items; padding them to fifty wastes 85% of a batch. Rows are filled by best-fit-decreasing, and
every token carries the number of its document, from which the attention mask is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Documents:
    """Token sequences to train on, flat.

    Attributes:
        tokens: int32 (T,), vocabulary ids of all documents, one after the other.
        offsets: int64 (D + 1,), document ``i`` is ``tokens[offsets[i]:offsets[i + 1]]``.
        target_item: int32 (T,): item whose SID holds this token as a training target, -1 where the token is context only.
        target_depth: int8 (T,): the token's place in that SID, 0-based.
        text_target: bool (T,): tokens to be predicted with the full vocabulary head (text tasks).
    """

    tokens: NDArray[np.int32]
    offsets: NDArray[np.int64]
    target_item: NDArray[np.int32]
    target_depth: NDArray[np.int8]
    text_target: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @staticmethod
    def concatenate(parts: Sequence[Documents]) -> Documents:
        """All documents of several tasks, in order."""
        if len(parts) == 1:
            return parts[0]
        shifts = np.cumsum([0, *(len(p.tokens) for p in parts[:-1])])
        ends = [p.offsets[1:] + s for p, s in zip(parts, shifts, strict=True)]
        return Documents(
            tokens=np.concatenate([p.tokens for p in parts]),
            offsets=np.concatenate([[0], *ends]).astype(np.int64),
            target_item=np.concatenate([p.target_item for p in parts]),
            target_depth=np.concatenate([p.target_depth for p in parts]),
            text_target=np.concatenate([p.text_target for p in parts]),
        )


def pack(lengths: NDArray[np.integer], row_length: int) -> list[NDArray[np.int64]]:
    """Assign documents to rows of at most ``row_length`` tokens by best-fit-decreasing.

    Args:
        lengths: int (D,), tokens per document; none may exceed ``row_length``.

    Returns:
        One array of document numbers per row. Deterministic.
    """
    if len(lengths) and int(np.max(lengths)) > row_length:
        raise ValueError(f"a document of {int(np.max(lengths))} tokens does not fit a row of {row_length}")
    # Rows are kept by the room they have left; with integer lengths, "best fit" is the first non-empty bucket that is large enough.
    by_room: list[list[int]] = [[] for _ in range(row_length + 1)]
    rows: list[list[int]] = []
    nonempty = np.zeros(row_length + 1, bool)
    for doc in np.argsort(-np.asarray(lengths), kind="stable").tolist():
        need = int(lengths[doc])
        fits = np.flatnonzero(nonempty[need:])
        if len(fits):
            room = need + int(fits[0])
            row = by_room[room].pop()
            nonempty[room] = bool(by_room[room])
        else:
            room, row = row_length, len(rows)
            rows.append([])
        rows[row].append(doc)
        left = room - need
        if left:
            by_room[left].append(row)
            nonempty[left] = True
    return [np.array(r, np.int64) for r in rows]


def packed_arrays(
    docs: Documents, rows: Sequence[NDArray[np.int64]], row_length: int, pad: int
) -> dict[str, NDArray[Any]]:
    """Lay packed documents out as arrays of shape (R, row_length).

    Returns ``input_ids``, ``position_ids``, ``document`` (number within the row, -1 on padding) and, for the token that *follows* each
    position in its document, ``label`` (its vocabulary id, -100 where nothing is trained), ``item`` and ``depth`` (-1 where it is no
    SID target).
    """
    n_rows = len(rows)
    order = np.concatenate(rows) if n_rows else np.zeros(0, np.int64)
    lengths = np.diff(docs.offsets)
    per_row = np.array([len(r) for r in rows], np.int64)
    row_of_doc = np.repeat(np.arange(n_rows), per_row)
    doc_lengths = lengths[order]
    ends = np.cumsum(doc_lengths)
    begins = ends - doc_lengths  # in the concatenation of all rows, without padding
    row_first_doc = np.cumsum(per_row) - per_row
    row_begin = begins[row_first_doc] if n_rows else np.zeros(0, np.int64)
    total = int(doc_lengths.sum())
    within = np.arange(total) - np.repeat(begins, doc_lengths)
    source = np.repeat(docs.offsets[order], doc_lengths) + within
    at_row = np.repeat(row_of_doc, doc_lengths)
    at_col = np.arange(total) - np.repeat(row_begin[row_of_doc], doc_lengths)
    number = np.repeat(np.arange(len(order)) - row_first_doc[row_of_doc], doc_lengths)

    def lay(values: NDArray[Any], fill: int, dtype: Any) -> NDArray[Any]:
        out = np.full((n_rows, row_length), fill, dtype)
        out[at_row, at_col] = values
        return out

    follows = within + 1 < np.repeat(doc_lengths, doc_lengths)
    nxt = np.minimum(source + 1, max(len(docs.tokens) - 1, 0))
    sid = follows & (docs.target_item[nxt] >= 0)
    trained = sid | (follows & docs.text_target[nxt])
    return {
        "input_ids": lay(docs.tokens[source], pad, np.int64),
        "position_ids": lay(within, 0, np.int64),
        "document": lay(number, -1, np.int64),
        "label": lay(np.where(trained, docs.tokens[nxt], -100), -100, np.int64),
        "item": lay(np.where(sid, docs.target_item[nxt], -1), -1, np.int64),
        "depth": lay(np.where(sid, docs.target_depth[nxt], -1), -1, np.int64),
    }


def fill_rows(arrays: dict[str, NDArray[Any]], multiple: int, pad: int) -> dict[str, NDArray[Any]]:
    """Add rows of padding until their number divides by ``multiple``.

    Every optimisation step then reads equally many rows, so that it is the same step however many workers share it.
    """
    blank = {"input_ids": pad, "position_ids": 0, "label": -100}  # document, item and depth: -1
    short = -len(arrays["input_ids"]) % multiple
    return {
        name: np.concatenate([a, np.full((short, a.shape[1]), blank.get(name, -1), a.dtype)])
        for name, a in arrays.items()
    }


def document_mask(document: Tensor) -> Tensor:
    """Boolean attention mask (B, 1, T, T) from document numbers (B, T): causal, and only within a document.

    Padding (document -1) sees only itself, so that no row of the mask is empty.
    """
    import torch

    at = torch.arange(document.shape[1], device=document.device)
    same = document[:, None, :] == document[:, :, None]
    causal = at[None, :] <= at[:, None]
    own = at[None, :] == at[:, None]
    return ((same & (document >= 0)[:, None, :] & causal) | own)[:, None]
