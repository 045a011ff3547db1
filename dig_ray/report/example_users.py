"""Example users: what they had, what came next, and what the policy proposed. The same ones every time."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from dig_ray.numerics.ranking import PAD, rank_of_target
from dig_ray.numerics.subset import evenly_spaced

if TYPE_CHECKING:
    from dig_ray.catalog.dataset import Dataset
    from dig_ray.semantic_ids.sid_catalog import SidCatalog

USERS = 10
SHOWN = 10  # recommendations and latest events of history
LARGEST_PICTURE = 8_192  # bytes; larger ones would make the page heavy
_PICTURES = ((b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF8", "gif"))


def pick(ranks: np.ndarray, users: int = USERS) -> list[int]:
    """Cases to show, ascending: half with the target in the first ten, half without, each evenly spaced; int."""
    hit = (ranks >= 0) & (ranks < SHOWN)
    hits, misses = np.flatnonzero(hit), np.flatnonzero(~hit)
    n_hits = min(len(hits), max(users // 2, users - len(misses)))
    n_misses = min(len(misses), users - n_hits)
    return sorted(spread(hits, n_hits) + spread(misses, n_misses))


def spread(values: np.ndarray, n: int) -> list[int]:
    """``n`` of the values, evenly spaced."""
    return values[evenly_spaced(len(values), n)].tolist()


def picture(raw: Any) -> str | None:
    """A small raster picture as a data URI, by its first bytes; None for anything else."""
    if not isinstance(raw, bytes) or len(raw) > LARGEST_PICTURE:
        return None
    for start, kind in _PICTURES:
        if raw.startswith(start):
            return f"data:image/{kind};base64,{base64.b64encode(raw).decode()}"
    if raw[:4] == b"RIFF" and raw[8:12] == b"WEBP":
        return f"data:image/webp;base64,{base64.b64encode(raw).decode()}"
    return None


def sid_text(sids: SidCatalog, item: int) -> str:
    """``a_12 b_5 c_7``, with the suffix where the item has one."""
    names = [sids.token_strings[token].strip("<>") for token in sids.tokens_of(item)]
    return " ".join(names)


def examples(
    dataset: Dataset, sids: SidCatalog, titles: list[str], lists: Mapping[str, np.ndarray]
) -> dict[str, Any] | None:
    """Ten test users.

    Args:
        dataset: catalogue and split.
        sids: Semantic IDs.
        titles: (N,) what an item is called.
        lists: rule -> int (C, k) the policy's items, padded -1; the first rule decides who is shown.

    Returns:
        ``users`` for the template, how many of them are ``hits``, and the share of hits among all cases; None without lists.
    """
    if not lists:
        return None
    cases = dataset.cases("test")
    ranks = {rule: rank_of_target(recs, cases.target) for rule, recs in lists.items()}
    first = next(iter(ranks.values()))
    pictures = dataset.items.column("image_bytes") if "image_bytes" in dataset.items.column_names else None

    def show(item: int, hit: bool = False) -> dict[str, Any]:
        return {
            "title": titles[item],
            "sid": sid_text(sids, item),
            "picture": None if pictures is None else picture(pictures[item].as_py()),
            "hit": hit,
        }

    users = []
    for case in pick(first):
        start, end, target = int(cases.start[case]), int(cases.end[case]), int(cases.target[case])
        history = dataset.events[max(start, end - SHOWN) : end].tolist()
        users.append(
            {
                "user": str(dataset.user_ids[cases.user[case]]),
                "history": [show(item) for item in history],
                "earlier": end - start - len(history),
                "had": target in dataset.events[start:end],
                "target": show(target),
                "lists": [
                    {
                        "rule": rule,
                        "rank": int(ranks[rule][case]),
                        "items": [
                            show(item, item == target) for item in recs[case, :SHOWN].tolist() if item != PAD
                        ],
                    }
                    for rule, recs in lists.items()
                ],
            }
        )
    hit = (first >= 0) & (first < SHOWN)
    return {
        "users": users,
        "hits": int(hit[pick(first)].sum()),
        "hit_share": float(hit.mean()) if len(hit) else 0.0,
    }
