"""Which users to merge: neighbours in behaviour, cliques of them, and the few cliques that cover most users.

That user cliques become synthesized users and that a max covering problem chooses them is LDMI's; the graph, the cliques and the greedy
solution are our choice. Greedy covers at least 1 - 1/e of what the best choice of so many sets would (Nemhauser, Wolsey and Fisher 1978).
Nothing here knows Ray or torch.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dig_ray.errors import UserError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

ROWS_AT_ONCE = 8_192
MOST_THREADS = 8
"""Each holds the likenesses of so many rows."""
FINE = 1 << 28
"""Steps of a likeness that are told apart; with 13 bits for the row, 23 are left for the other user."""
MOST_USERS = 1 << 23


@dataclass(frozen=True)
class Cover:
    """Sets that were chosen.

    Attributes:
        chosen: int64 ``(B,)`` sets, in the order in which they were taken.
        gains: int64 ``(B,)`` elements that each was the first to cover.
    """

    chosen: np.ndarray
    gains: np.ndarray

    @property
    def covered(self) -> int:
        return int(self.gains.sum())


def neighbours(
    offsets: np.ndarray,
    items: np.ndarray,
    n_items: int,
    count: int,
    users_per_item: int,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """The users whose items are most like each user's: int32 ``(U, count)``, best first, padded -1.

    Likeness is the cosine of users' item sets, each item weighted by its inverse document frequency, ``log(U / users that have it)``. Equal
    ones are taken by the lower index.

    Args:
        offsets: int64 ``(U + 1,)``; user ``u`` has ``items[offsets[u]:offsets[u + 1]]``.
        items: int ``(E,)`` item index; one that is there twice counts once.
        n_items: items in the catalogue, N.
        count: neighbours that each user gets.
        users_per_item: the likeness of two users over an item that more users have is left out, except to so many of them, drawn by chance:
            what everybody has says little, and costs most.
        progress: called with (users done, users).

    Raises:
        UserError: more users than this graph is made for.
    """
    from scipy.sparse import csr_matrix

    n_users = len(offsets) - 1
    if n_users > MOST_USERS:
        raise UserError(
            f"the graph of users takes up to {MOST_USERS:,}, and this catalogue has {n_users:,}; take a part of them"
        )
    weighted = _weighted(offsets, items, n_items)
    by_item = weighted.T.tocsr()
    having = np.diff(by_item.indptr)
    drawn = np.ones(by_item.nnz, bool)
    common = np.flatnonzero(np.repeat(having > users_per_item, having))  # places of items that too many have
    if len(common):
        item = np.repeat(np.arange(n_items), having)[common]
        shuffled = np.lexsort((np.random.default_rng(0).random(len(common)), item))
        within = np.arange(len(common)) - np.searchsorted(item, item)  # items stand in order, shuffled or not
        drawn[common[shuffled[within >= users_per_item]]] = False
    by_item = csr_matrix(
        (
            by_item.data[drawn],
            by_item.indices[drawn],
            np.concatenate([[0], np.cumsum(np.minimum(having, users_per_item))]),
        ),
        shape=by_item.shape,
    )
    found = np.full((n_users, count), -1, np.int32)
    starts = range(0, n_users, ROWS_AT_ONCE)

    def fill(low: int) -> int:
        high = min(low + ROWS_AT_ONCE, n_users)
        _best((weighted[low:high] @ by_item).tocsr(), low, found[low:high])
        return high

    with ThreadPoolExecutor(
        min(MOST_THREADS, os.cpu_count() or 1)
    ) as threads:  # the products let go of the interpreter's lock
        for high in threads.map(fill, starts):
            if progress is not None:
                progress(high, n_users)
    return found


def _weighted(offsets: np.ndarray, items: np.ndarray, n_items: int) -> csr_matrix:
    """Users' items as rows of unit length, float32 ``(U, N)``."""
    from scipy.sparse import csr_matrix

    n_users = len(offsets) - 1
    matrix = csr_matrix(
        (np.ones(len(items), np.float32), np.array(items, np.int32), offsets), shape=(n_users, n_items)
    )  # of a copy: the rows are sorted in place
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    having = np.bincount(matrix.indices, minlength=n_items)
    rarity = np.log(max(n_users, 2) / np.maximum(having, 1)).astype(np.float32) + np.float32(1e-3)
    matrix.data = rarity[matrix.indices]
    owner = np.repeat(np.arange(n_users), np.diff(matrix.indptr))
    length = np.sqrt(np.bincount(owner, matrix.data.astype(np.float64) ** 2, minlength=n_users))
    matrix.data /= np.maximum(length, 1e-12)[owner].astype(np.float32)
    return matrix


def _best(likeness: csr_matrix, low: int, out: np.ndarray) -> None:
    """Fill ``out`` with the best columns of each row, the row's own user ``low + row`` left out.

    Row, likeness and column are packed into one 64-bit key, so that a plain sort does it; likenesses that differ by less than 2^-28 are
    equal.
    """
    bits = max(1, (likeness.shape[1] - 1).bit_length())
    owner = np.repeat(np.arange(len(out), dtype=np.uint64), np.diff(likeness.indptr))
    lack = np.clip((1.0 - likeness.data.astype(np.float64)) * FINE, 0, FINE - 1).astype(np.uint64)
    keys = (owner << np.uint64(bits + FINE.bit_length() - 1)) | (lack << np.uint64(bits))
    keys |= likeness.indices.astype(np.uint64)
    keys = np.sort(keys[likeness.indices != owner.astype(np.int64) + low])
    owner = (keys >> np.uint64(bits + FINE.bit_length() - 1)).astype(np.int64)
    place = np.arange(len(keys)) - np.searchsorted(owner, np.arange(len(out)))[owner]
    top = place < out.shape[1]
    out[owner[top], place[top]] = (keys[top] & np.uint64((1 << bits) - 1)).astype(np.int32)


def cliques(found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A set for every user: the user and its neighbours, a star of the graph rather than a clique in the strict sense.

    Args:
        found: int ``(U, k)`` as ``neighbours`` gives it, padded -1.

    Returns:
        offsets int64 ``(U + 1,)`` and members int32; set ``u`` is ``members[offsets[u]:offsets[u + 1]]``, user ``u`` first.
    """
    own = np.arange(len(found), dtype=np.int32)[:, None]
    both = np.concatenate([own, found.astype(np.int32)], axis=1)
    real = both >= 0
    return np.concatenate([[0], np.cumsum(real.sum(axis=1))]).astype(np.int64), both[real]


def cover(offsets: np.ndarray, elements: np.ndarray, n_elements: int, budget: int) -> Cover:
    """Choose sets that together cover as many elements as a greedy choice does.

    A set's gain only shrinks as others are taken, so an old count is a bound and most sets are never counted again (lazy greedy, Minoux
    1978): the same choice as counting all of them every time. Of equal gains the lower set is taken. Ends early when all that can be is
    covered.

    Args:
        offsets: int64 ``(S + 1,)``; set ``s`` has ``elements[offsets[s]:offsets[s + 1]]``, each at most once.
        elements: int ``(E,)`` in ``[0, n_elements)``.
        n_elements: number of elements that are to be covered.
        budget: number of sets that are taken at most.
    """
    n_sets = len(offsets) - 1
    sizes = np.diff(offsets)
    most = int(sizes.max(initial=0))
    # one integer a set: what it lacks of the largest gain, then its number
    heap = ((most - sizes) * np.int64(n_sets) + np.arange(n_sets)).tolist()
    heapq.heapify(heap)
    bounds = offsets.tolist()
    covered = np.zeros(n_elements, bool)
    chosen: list[int] = []
    gains: list[int] = []
    while heap and len(chosen) < budget:
        lack, number = divmod(heap[0], n_sets)
        members = elements[bounds[number] : bounds[number + 1]]
        new = members[~covered[members]]
        gain = len(new)
        if not gain:
            heapq.heappop(heap)
        elif gain == most - lack:
            heapq.heappop(heap)
            covered[new] = True
            chosen.append(number)
            gains.append(gain)
        else:
            heapq.heapreplace(heap, (most - gain) * n_sets + number)
    return Cover(np.asarray(chosen, np.int64), np.asarray(gains, np.int64))


def choose_randomly(
    offsets: np.ndarray, elements: np.ndarray, n_elements: int, budget: int, seed: int
) -> Cover:
    """``budget`` sets by chance, with what they cover; arguments as in ``cover``."""
    count = min(budget, len(offsets) - 1)
    chosen = np.random.default_rng(seed).permutation(len(offsets) - 1)[:count].astype(np.int64)
    covered = np.zeros(n_elements, bool)
    gains = []
    for number in chosen.tolist():
        members = elements[offsets[number] : offsets[number + 1]]
        gains.append(int((~covered[members]).sum()))
        covered[members] = True
    return Cover(chosen, np.asarray(gains, np.int64))


def merge_users(members: np.ndarray, offsets: np.ndarray, items: np.ndarray, max_items: int) -> np.ndarray:
    """The items of a synthesized user: those most of its members have, then those that come first in their histories; int32, distinct.

    Args:
        members: int ``(M,)``, the users that are merged.
        offsets, items: the items of all users, as in ``neighbours``.
        max_items: items that are kept at most.
    """
    held = [np.unique(items[offsets[user] : offsets[user + 1]]) for user in members]
    together = np.concatenate([items[offsets[user] : offsets[user + 1]] for user in members])
    found, first = np.unique(together, return_index=True)
    count = np.bincount(np.searchsorted(found, np.concatenate(held)), minlength=len(found))
    return found[np.lexsort((first, -count))][:max_items].astype(np.int32)
