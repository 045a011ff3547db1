"""Several miners' interests of one subject as one list (MLIM's ensemble; how the answers are merged is our choice).

Each distinct interest stands there once. Two texts are the same interest when their folded forms are equal or when the cosine of their
embeddings reaches a threshold. Its support is the number of miners that gave it; its confidence is the mean over *all* miners, with 0 for
those that did not give it, so that agreement counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import NamedTuple

import numpy as np

from dig_ray.mining.answers import fold

Mined = Sequence[tuple[str, float]]
"""One miner's answer: texts with confidences, strongest first; empty where it failed or gave none."""


class Interest(NamedTuple):
    """One interest after the merge.

    Attributes:
        text: the words of the miner that was most confident (the first of equals).
        confidence: mean over all miners, in [0, 1].
        support: how many miners gave it.
        miners: which, by their place in the list of answers.
    """

    text: str
    confidence: float
    support: int
    miners: tuple[int, ...]


def merge(
    answers: Sequence[Mined], threshold: float = 0.9, vectors: Callable[[list[str]], np.ndarray] | None = None
) -> list[Interest]:
    """Merge one subject's answers, strongest first: by confidence, support, then first appearance. A single answer keeps its order.

    Args:
        answers: one per miner that was asked; its length is what confidences are averaged over.
        threshold: cosine from which two texts are one interest; above 1, only equal folded forms are.
        vectors: n texts -> unit rows (n, d); None merges by folded form alone.

    Groups grow around the most confident text not yet in one, so that a chain of near-likes does not join what is unlike.
    """
    entries = [(text, conf, miner) for miner, answer in enumerate(answers) for text, conf in answer]
    if not entries:
        return []
    by_form: dict[str, list[int]] = {}
    for number, entry in enumerate(entries):
        by_form.setdefault(fold(entry[0]), []).append(number)
    groups = list(by_form.values())
    if vectors is not None and threshold <= 1 and len(groups) > 1:
        best = np.array([max(entries[n][1] for n in group) for group in groups])
        groups = _join_alike(groups, best, np.asarray(vectors(list(by_form)), np.float64), threshold)
    merged = []
    for group in groups:
        if len(group) == 1:
            text, conf, miner = entries[group[0]]
            merged.append(Interest(text, conf / len(answers), 1, (miner,)))
            continue
        members = [entries[n] for n in group]
        by_miner: dict[int, float] = {}
        for _, conf, miner in members:
            by_miner[miner] = max(by_miner.get(miner, 0.0), conf)
        text = max(members, key=itemgetter(1))[0]
        confidence = sum(by_miner.values()) / len(answers)
        merged.append(Interest(text, confidence, len(by_miner), tuple(sorted(by_miner))))
    if len(answers) == 1:
        return merged  # the order a single miner gave is part of its answer
    return sorted(merged, key=lambda i: (-i.confidence, -i.support))


def _join_alike(
    groups: list[list[int]], best: np.ndarray, rows: np.ndarray, threshold: float
) -> list[list[int]]:
    """Groups of one folded form each, joined where their vectors are near to a more confident one's; in order of first appearance."""
    like = np.eye(len(groups), dtype=bool) | (rows @ rows.T >= threshold)
    centre_of = np.full(len(groups), -1)
    for centre in np.argsort(-best, kind="stable").tolist():
        if centre_of[centre] < 0:
            centre_of[(centre_of < 0) & like[centre]] = centre
    joined: dict[int, list[int]] = {}
    for centre, group in zip(centre_of.tolist(), groups, strict=True):
        joined.setdefault(centre, []).extend(group)
    return [sorted(group) for group in joined.values()]
