"""The tree of Semantic IDs, small enough to travel inside the page; the browser unfolds what is asked for."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from dig_ray.semantic_ids.sid_catalog import SidCatalog

MAX_ITEMS = 30_000  # about 3 MB of titles; a catalogue above this shows its most used items
WORDS = 3
LEAST_ITEMS = 3  # below this the titles themselves are the better label
_WORD = re.compile(r"[^\W\d_]{3,}")


def tree(sids: SidCatalog, titles: list[str], counts: np.ndarray, most: int = MAX_ITEMS) -> dict[str, Any]:
    """Items sorted by Semantic ID, and words that say what is special about a prefix.

    Args:
        sids: the Semantic IDs.
        titles: (N,) what an item is called.
        counts: int (N,) training events.
        most: items that go into the page; of more, those with the most training events.

    Returns:
        JSON-able: ``levels``, ``total``, ``items`` [[code, ..., suffix or -1, title, events]], and ``words``
        {"code.code": "word, word"} for inner prefixes.
    """
    n = len(sids)
    chosen = np.arange(n)
    if n > most:
        chosen = np.sort(np.argsort(-counts, kind="stable")[:most])
    keys = [sids.suffix[chosen]] + [sids.codes[chosen, level] for level in reversed(range(sids.levels))]
    chosen = chosen[np.lexsort(keys)]
    table = np.column_stack([sids.codes, sids.suffix])
    return {
        "levels": sids.levels,
        "total": n,
        "items": [[*table[i].tolist(), titles[i], int(counts[i])] for i in chosen.tolist()],
        "words": prefix_words(sids.codes, titles),
    }


def prefix_words(codes: np.ndarray, titles: list[str]) -> dict[str, str]:
    """For every prefix shorter than the whole and with 3 items or more: up to 3 words typical of its titles.

    A word's weight is ``n ln((n / size) / (all / N))`` over titles that hold it, at least two of them (our choice).
    """
    bags = [set(_WORD.findall(title.lower())) for title in titles]
    everywhere = Counter(word for bag in bags for word in bag)
    total = max(len(titles), 1)
    result = {}
    for length in range(1, codes.shape[1]):
        members: dict[tuple[int, ...], list[int]] = {}
        for i, prefix in enumerate(map(tuple, codes[:, :length].tolist())):
            members.setdefault(prefix, []).append(i)
        for prefix, rows in members.items():
            if len(rows) < LEAST_ITEMS:
                continue
            inside = Counter(word for i in rows for word in bags[i])
            weighed = sorted(
                (-n * math.log((n / len(rows)) / (everywhere[word] / total)), word)
                for word, n in inside.items()
                if n > 1
            )
            words = [word for weight, word in weighed[:WORDS] if weight < 0]
            if words:
                result[".".join(map(str, prefix))] = ", ".join(words)
    return result
