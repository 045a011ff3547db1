"""A flat, sparse index of every Semantic ID prefix: what may follow what.

The items of a catalogue are sorted by their token path. A *node* of depth ``d`` is a distinct prefix of ``d`` tokens, numbered in
sorted order, so the children of a node are one contiguous range of the nodes one level deeper: two integer arrays a level (the token of
a node, the first child of a node) hold the whole trie. Looking up the children of a million beams is one gather.

An item without a collision suffix ends one level early. It is carried to the deepest level by a single child with token ``STAY``, which
costs nothing and emits nothing; so every item is exactly one deepest node.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

STAY = -1
"""Token of the placeholder child that carries a finished item to the deepest level."""


@dataclass(frozen=True)
class PrefixTable:
    """The prefixes of a catalogue as flat arrays.

    Attributes:
        tokens: per depth 1..D, int32 (n_d,): the last token of each node, in the SID token numbering of ``SidCatalog``; ``STAY`` at the
            suffix depth for items without one.
        child_start: per depth 0..D-1, int32 (n_d + 1,): node ``i`` of depth ``d`` owns nodes ``child_start[d][i]`` up to
            ``child_start[d][i + 1]`` of depth ``d + 1``.
        items: int32 (n_D,): item index of each deepest node.
        max_children: per depth 0..D-1, the largest number of children of any node.
        level_ranges: per depth 1..D, the half-open range of SID tokens that depth can hold.
    """

    tokens: list[NDArray[np.int32]]
    child_start: list[NDArray[np.int32]]
    items: NDArray[np.int32]
    max_children: list[int]
    level_ranges: list[tuple[int, int]]

    @property
    def depth(self) -> int:
        return len(self.tokens)

    @property
    def n_items(self) -> int:
        return len(self.items)

    @property
    def nbytes(self) -> int:
        return sum(a.nbytes for a in (*self.tokens, *self.child_start, self.items))

    def child(self, depth: int, node: int, token: int) -> int:
        """The node of ``depth + 1`` that ``token`` leads to; raises ``KeyError`` when no item continues that way."""
        first, last = self.child_start[depth][node : node + 2]
        at = first + np.searchsorted(self.tokens[depth][first:last], token)
        if at < last and self.tokens[depth][at] == token:
            return int(at)
        raise KeyError(f"no item has SID token {token} after node {node} of depth {depth}")

    def walk(self, prefix: list[int]) -> int:
        """The node reached by ``prefix`` (SID tokens); raises ``KeyError`` at the first token that leaves the catalogue."""
        node = 0
        for depth, token in enumerate(prefix):
            if depth >= self.depth:
                raise KeyError(
                    f"prefix of {len(prefix)} tokens is longer than any Semantic ID ({self.depth})"
                )
            node = self.child(depth, node, int(token))
        return node

    def allowed(self, prefix: list[int]) -> list[int]:
        """SID tokens that may follow ``prefix``; raises ``KeyError`` for a prefix no item has. Empty when the item is complete."""
        depth, node = len(prefix), self.walk(prefix)
        if depth == self.depth:
            return []
        first, last = self.child_start[depth][node : node + 2]
        return [int(t) for t in self.tokens[depth][first:last] if t != STAY]

    def begins_item(self, paths: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Bool (M,): whether each row of SID tokens (M, l), l at most the depth, begins the Semantic ID of some item.

        One binary search among a node's children per token, for all rows at once: nothing of the catalogue's size is built.
        """
        node = np.zeros(len(paths), np.int64)
        known = np.ones(len(paths), bool)
        for depth, wanted in enumerate(np.asarray(paths).T):
            tokens = self.tokens[depth]
            low, end = (self.child_start[depth][node + side].astype(np.int64) for side in (0, 1))
            high = end.copy()
            while (searching := low < high).any():
                middle = (low + high) >> 1
                less = searching & (tokens[np.minimum(middle, len(tokens) - 1)] < wanted)
                high = np.where(searching & ~less, middle, high)
                low = np.where(less, middle + 1, low)
            known &= (low < end) & (tokens[np.minimum(low, len(tokens) - 1)] == wanted)
            node = np.where(known, low, 0)
        return known


def build_prefix_table(
    codes: NDArray[np.integer], suffix: NDArray[np.integer], sizes: tuple[int, ...], n_suffix: int
) -> PrefixTable:
    """Index a catalogue's Semantic IDs.

    Args:
        codes: int (N, L), code of each item at each level, ``0 <= codes[:, l] < sizes[l]``.
        suffix: int (N,), collision suffix or -1.
        sizes: codebook size per level.
        n_suffix: number of suffix tokens (0 when no item collides).

    Raises:
        ValueError: two items share a path, so the catalogue is not one-to-one, or it is empty.
    """
    n, levels = codes.shape
    if n == 0:
        raise ValueError("a prefix table needs at least one item")
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    radices = [*sizes, n_suffix + 1] if n_suffix else list(sizes)
    columns = [codes[:, level] for level in range(levels)]
    if n_suffix:
        columns.append(suffix + 1)  # 0 is "no suffix", so an item that ends early comes first
    order, digits, new = _sorted_digits(columns, radices)
    depth = len(radices)
    if not new[depth - 1].all():
        raise ValueError("two items share one Semantic ID; give colliding items a suffix first")

    tokens: list[NDArray[np.int32]] = []
    child_start: list[NDArray[np.int32]] = []
    ranges: list[tuple[int, int]] = []
    parents = np.zeros(1, np.int64)  # sorted row at which each node of the current depth begins
    for d in range(depth):
        if d + 1 < depth:
            rows = np.flatnonzero(new[d])
            starts = np.flatnonzero(new[d - 1][rows]) if d else parents
            code = digits(d, rows)
        else:  # every sorted row is its own deepest node
            rows, starts, code = np.zeros(0, np.int64), parents, digits(d, slice(None))
        child_start.append(np.append(starts, len(code)).astype(np.int32))
        if d < levels:
            tokens.append(code + np.int32(offsets[d]))
            ranges.append((int(offsets[d]), int(offsets[d + 1])))
        else:
            tokens.append(np.where(code == 0, np.int32(STAY), code + np.int32(offsets[levels] - 1)))
            ranges.append((int(offsets[levels]), int(offsets[levels]) + n_suffix))
        parents = rows
    return PrefixTable(
        tokens=tokens,
        child_start=child_start,
        items=order,
        max_children=[int(np.diff(s).max()) for s in child_start],
        level_ranges=ranges,
    )


Digits = Callable[[int, Any], NDArray[np.int32]]


def _sorted_digits(
    columns: list[NDArray[np.integer]], radices: list[int]
) -> tuple[NDArray[np.int32], Digits, list[NDArray[np.bool_]]]:
    """Sort rows by their columns, the first one leading.

    Where a row's digits and its number fit 63 bits, they are sorted as one integer each (several times faster than an argsort) and
    compared by shifts; otherwise column by column.

    Returns:
        The row numbers in sorted order, int32 (N,); ``digits(d, rows)``, column ``d`` of the given sorted rows, int32; and per depth,
        bool (N,), whether a sorted row differs from the one before it in columns up to that depth.
    """
    n, depth = len(columns[0]), len(columns)
    bits = [max(1, int(r - 1).bit_length()) for r in radices]
    row_bits = max(1, int(n - 1).bit_length())
    new = [np.ones(n, bool) for _ in range(depth)]
    if sum(bits) + row_bits < 63:
        key = columns[0].astype(np.int64)
        for column, width in zip(columns[1:], bits[1:], strict=True):
            key <<= width
            key |= column
        key <<= row_bits
        key |= np.arange(n, dtype=np.int64)
        key.sort()
        order = (key & ((1 << row_bits) - 1)).astype(np.int32)
        key >>= row_bits
        change = key[1:] ^ key[:-1]
        below = [sum(bits[d + 1 :]) for d in range(depth)]
        for d in range(depth):
            np.greater_equal(change, 1 << below[d], out=new[d][1:])
        return order, lambda d, rows: ((key[rows] >> below[d]) & ((1 << bits[d]) - 1)).astype(np.int32), new
    by = np.lexsort(columns[::-1])
    for d in range(depth):
        column = columns[d][by]
        np.not_equal(column[1:], column[:-1], out=new[d][1:])
        if d:
            new[d] |= new[d - 1]
    return by.astype(np.int32), lambda d, rows: columns[d][by[rows]].astype(np.int32), new
