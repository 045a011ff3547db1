"""A flat, sparse index of every Semantic ID prefix: what may follow what.

The items of a catalogue are sorted by their token path. A *node* of depth ``d`` is a distinct prefix of ``d`` tokens, numbered in
sorted order, so the children of a node are one contiguous range of the nodes one level deeper: two integer arrays a level (the token of
a node, the first child of a node) hold the whole trie. Looking up the children of a million beams is one gather.

An item without a collision suffix ends one level early. It is carried to the deepest level by a single child with token ``STAY``, which
costs nothing and emits nothing; so every item is exactly one deepest node.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    radices = [*sizes, n_suffix + 1] if n_suffix else list(sizes)
    bits_needed = sum(int(np.ceil(np.log2(max(r, 2)))) for r in radices) + max(1, int(n - 1).bit_length())
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    key = np.zeros(n, np.int64)
    for level in range(levels):
        key = key * sizes[level] + codes[:, level]
    if n_suffix:
        key = key * (n_suffix + 1) + (suffix.astype(np.int64) + 1)
    if bits_needed < 63:  # sorting (key, row) as one integer is several times faster than argsort
        shift = max(1, int(n - 1).bit_length())
        packed = np.sort((key << shift) | np.arange(n, dtype=np.int64))
        order = packed & ((1 << shift) - 1)
        key = packed >> shift
    else:
        order = np.argsort(key, kind="stable")
        key = key[order]
    if n > 1 and bool((key[1:] == key[:-1]).any()):
        raise ValueError("two items share one Semantic ID; give colliding items a suffix first")

    depth = len(radices)
    tokens: list[NDArray[np.int32]] = []
    child_start: list[NDArray[np.int32]] = []
    ranges: list[tuple[int, int]] = []
    first_rows = np.zeros(1, np.int64)  # sorted row at which each node of the current depth begins
    for d in range(depth):
        remaining = int(np.prod(radices[d + 1 :], dtype=np.int64)) if d + 1 < depth else 1
        prefix = key // remaining if remaining > 1 else key
        if d + 1 < depth:
            new = np.empty(n, bool)
            new[0] = True
            np.not_equal(prefix[1:], prefix[:-1], out=new[1:])
            rows = np.flatnonzero(new)
            number = np.cumsum(new, dtype=np.int32) - 1
            starts = number[first_rows]
        else:  # every sorted row is its own deepest node
            rows = np.arange(n)
            starts = first_rows
        child_start.append(np.append(starts, len(rows)).astype(np.int32))
        code = prefix[rows] % radices[d]
        if d < levels:
            tokens.append((code + offsets[d]).astype(np.int32))
            ranges.append((int(offsets[d]), int(offsets[d + 1])))
        else:
            tokens.append(np.where(code == 0, STAY, code - 1 + offsets[levels]).astype(np.int32))
            ranges.append((int(offsets[levels]), int(offsets[levels]) + n_suffix))
        first_rows = rows
    return PrefixTable(
        tokens=tokens,
        child_start=child_start,
        items=order.astype(np.int32),
        max_children=[int(np.diff(s).max()) for s in child_start],
        level_ranges=ranges,
    )
