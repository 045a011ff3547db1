"""What multi-interest models are trained on: windows of training histories with the clusters of their events, in batches of one length.

An event's cluster is a number within its user, from the artifact that allocated the user's items; an event without one takes no part in the
alignment. Everything here is numpy and follows from (seed, epoch) alone, so that all workers cut the same batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dig_ray.catalog.windows import windows

SORTED_TOGETHER = 32
"""Batches whose windows are sorted by length together: enough for little padding, few enough for chance."""


@dataclass(frozen=True)
class Batch:
    """One worker's share of an optimisation step.

    Attributes:
        items: int64 ``(S, L)``, padded by 0.
        lengths: int64 ``(S,)``.
        targets: int64 ``(S, L)``, the event after each, -1 at padding.
        labels: int64 ``(S, L)``, an event's cluster, -1 for none.
        all_targets: targets of the whole step, over all workers.
        all_windows: windows of the whole step, over all workers.
    """

    items: np.ndarray
    lengths: np.ndarray
    targets: np.ndarray
    labels: np.ndarray
    all_targets: int
    all_windows: int


@dataclass(frozen=True)
class Examples:
    """Windows of all training histories.

    Attributes:
        events: int32 ``(E,)``, the item of each training event, user after user, oldest first.
        labels: int32 ``(E,)``, each event's cluster within its user, -1 for none.
        starts, ends: int64 ``(W,)``; window w is ``events[starts[w]:ends[w]]``.
    """

    events: np.ndarray
    labels: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    @property
    def targets(self) -> int:
        """Events to be predicted in an epoch."""
        return int((self.ends - self.starts - 1).sum())

    @property
    def clusters(self) -> int:
        """Clusters of a user at most."""
        return int(self.labels.max(initial=-1)) + 1

    def batches(
        self, batch_targets: int, seed: int, epoch: int, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """A worker's shares of an epoch's steps, each window once.

        Args:
            batch_targets: targets of a step, about, over all workers.
            seed, epoch: numbers that the order of windows and steps follows from.
            rank: number of this worker, from 0 on.
            world: number of workers; each takes every ``world``-th window of a step.
        """
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(len(self.starts))
        sizes = self.ends - self.starts - 1
        group = np.cumsum(sizes[order]) // (batch_targets * SORTED_TOGETHER)
        order = order[np.lexsort((sizes[order], group))]
        cuts = np.flatnonzero(np.diff(np.cumsum(sizes[order]) // batch_targets)) + 1
        steps = np.split(order, cuts)
        for number in rng.permutation(len(steps)).tolist():
            step = steps[number]
            yield self.batch(step[rank::world], int(sizes[step].sum()), len(step))

    def batch(self, chosen: np.ndarray, all_targets: int, all_windows: int) -> Batch:
        """Some windows, padded to the longest of them.

        Args:
            chosen: int ``(S,)``, numbers of windows.
            all_targets, all_windows: the same as in :class:`Batch`.
        """
        lengths = self.ends[chosen] - self.starts[chosen] - 1
        place = np.arange(int(lengths.max(initial=1)))
        real = place < lengths[:, None]
        at = np.where(real, self.starts[chosen][:, None] + place, 0)
        return Batch(
            items=np.where(real, self.events[at], 0).astype(np.int64),
            lengths=lengths,
            targets=np.where(real, self.events[at + real], -1).astype(np.int64),
            labels=np.where(real, self.labels[at], -1).astype(np.int64),
            all_targets=all_targets,
            all_windows=all_windows,
        )


def make_examples(
    offsets: np.ndarray, events: np.ndarray, max_length: int, labels: np.ndarray | None = None
) -> Examples:
    """Windows of training histories, each event but the first of a user a target once.

    Args:
        offsets: int64 ``(U + 1,)``, where each user's events begin and end, as ``Dataset.train_sequences`` gives it.
        events: int32 ``(E,)``, the item of each event.
        max_length: events of a history that are read before a target.
        labels: int ``(E,)``, each event's cluster within its user, -1 for none; no event has one when None.
    """
    starts, ends = windows(np.asarray(offsets), max_length)
    none = np.full(len(events), -1, np.int32)
    return Examples(events, none if labels is None else labels.astype(np.int32), starts, ends)


def pad_sets(sets: Sequence[Sequence[int]], fill: int) -> np.ndarray:
    """Lists of numbers as the rows of one int64 ``(len(sets), longest)``, padded by ``fill``."""
    out = np.full((len(sets), max((len(one) for one in sets), default=0)), fill, np.int64)
    for row, one in enumerate(sets):
        out[row, : len(one)] = one
    return out


@dataclass(frozen=True)
class Crowd:
    """Synthesized users: item indices and the crowd interest of each, int64 ``(B, M)``, padded by 0 and -1."""

    items: np.ndarray
    labels: np.ndarray

    def steps(self, count: int, seed: int, epoch: int) -> Iterator[np.ndarray]:
        """Numbers of rows to be contrasted, int64 ``(count,)`` a step, without end; all of them come once before any comes again.

        Args:
            count: rows of a step, over all workers; all rows where there are fewer.
            seed, epoch: numbers that the order follows from.
        """
        rng = np.random.default_rng([seed, epoch, 1])
        count = min(count, len(self.items))
        order = rng.permutation(len(self.items))
        while True:
            if len(order) < count:
                order = np.concatenate([order, rng.permutation(len(self.items))])
            yield order[:count]
            order = order[count:]
