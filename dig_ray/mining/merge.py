"""Several miners' interests of one subject as one list (MLIM's ensemble; how the answers are merged is our choice).

Each distinct interest stands there once. Two texts are the same interest when their folded forms are equal or when the cosine of their
embeddings reaches a threshold. Its support is the number of miners that gave it; its confidence is the mean over *all* miners, with 0 for
those that did not give it, so that agreement counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dig_ray.mining.answers import fold

Mined = Sequence[tuple[str, float]]
"""One miner's answer: texts with confidences, strongest first; empty where it failed or gave none."""


@dataclass(frozen=True)
class Interest:
    """One interest after the merge.

    Attributes:
        text: as the miner put it that was most confident (the first of equals).
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
        vectors: texts -> unit rows (n, d); None merges by folded form alone.

    Groups grow around the most confident text not yet in one, so that a chain of near-likes does not join what is unlike.
    """
    entries = [(text, conf, miner) for miner, answer in enumerate(answers) for text, conf in answer]
    if not entries:
        return []
    forms = [fold(text) for text, _, _ in entries]
    distinct = list(dict.fromkeys(forms))
    place = {form: number for number, form in enumerate(distinct)}
    like = np.eye(len(distinct), dtype=bool)
    if vectors is not None and threshold <= 1 and len(distinct) > 1:
        rows = np.asarray(vectors(distinct), np.float64)
        like |= rows @ rows.T >= threshold
    best = np.zeros(len(distinct))
    for form, (_, conf, _) in zip(forms, entries, strict=True):
        best[place[form]] = max(best[place[form]], conf)
    group = np.full(len(distinct), -1)
    for centre in np.argsort(-best, kind="stable").tolist():
        if group[centre] < 0:
            group[(group < 0) & like[centre]] = centre
    merged = []
    for centre in dict.fromkeys(group.tolist()):
        members = [e for e, form in zip(entries, forms, strict=True) if group[place[form]] == centre]
        by_miner: dict[int, float] = {}
        for _, conf, miner in members:
            by_miner[miner] = max(by_miner.get(miner, 0.0), conf)
        text = max(members, key=lambda e: e[1])[0]
        confidence = sum(by_miner.values()) / len(answers)
        merged.append(Interest(text, confidence, len(by_miner), tuple(sorted(by_miner))))
    if len(answers) == 1:
        return merged  # the order a single miner gave is part of its answer
    return sorted(merged, key=lambda i: (-i.confidence, -i.support))
