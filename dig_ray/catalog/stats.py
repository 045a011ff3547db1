"""Figures that tell two datasets apart: size, density, length, repeats, ties, and how much text there is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.compute as pc

from dig_ray.catalog.dataset import SPLITS, TRAIN, Dataset
from dig_ray.catalog.text import item_text

LONGEST_BAR = 200
"""Training events of a user from which on they are not told apart in the histogram."""


def statistics(dataset: Dataset) -> dict[str, Any]:
    """JSON-able figures.

    Shares are of all events: ``repeats_share`` counts an event whose item the user had before,
    ``consecutive_repeats_share`` one whose item is the user's previous one, ``ties_share`` one that has the same time as
    another event of the same user (their order is only as good as the file's). Lengths are events per user. ``train_lengths[n]`` is
    how many users have n training events, the last bar ``LONGEST_BAR`` or more; ``case_items_max`` the most different items of one user.
    A catalogue without interactions has None for means, medians and shares of them.
    """
    lengths = np.diff(dataset.offsets)
    n = dataset.n_events
    user, item = dataset.users, dataset.events
    counts = np.bincount(item, minlength=dataset.n_items)
    same_user = user[1:] == user[:-1]
    order = np.lexsort((item, user))
    again = (user[order][1:] == user[order][:-1]) & (item[order][1:] == item[order][:-1])
    texts = item_text(dataset.items)
    some = n > 0
    chars = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    stats: dict[str, Any] = {
        "users": dataset.n_users,
        "items": dataset.n_items,
        "interactions": n,
        "density": n / max(dataset.n_users * dataset.n_items, 1),
        "length_mean": float(lengths.mean()) if some else None,
        "length_median": float(np.median(lengths)) if some else None,
        "length_p95": float(np.percentile(lengths, 95)) if some else None,
        "length_max": int(lengths.max(initial=0)),
        "items_without_events": int((counts == 0).sum()),
        "items_without_train_events": int(
            (np.bincount(item[dataset.split == 0], minlength=len(counts)) == 0).sum()
        ),
        "item_events_median": float(np.median(counts)),
        "item_events_max": int(counts.max()),
        "repeats_share": float(again.sum() / n) if some else None,
        "consecutive_repeats_share": float((same_user & (item[1:] == item[:-1])).sum() / n) if some else None,
        "ties_share": None,
        "items_without_text": int((chars == 0).sum()),
        "items_without_title": int(pc.sum(pc.equal(dataset.items.column("title"), "")).as_py() or 0),
        "text_chars_mean": float(chars.mean()),
        "text_chars_max": int(chars.max()),
        "split_name": dataset.split_name,
        "split_hash": dataset.split_hash,
    }
    trains = np.bincount(user[dataset.split == TRAIN], minlength=dataset.n_users)
    histogram = np.bincount(np.minimum(trains, LONGEST_BAR))
    stats["train_lengths"] = histogram.tolist() if some else []
    first = np.ones(n, dtype=bool)
    first[order[1:]] = ~again  # of a user's events of one item
    stats["case_items_max"] = int(np.bincount(user[first], minlength=1).max(initial=0)) if some else 0
    for code, name in enumerate(SPLITS):
        stats[f"{name}_events"] = int((dataset.split == code).sum())
    for name in SPLITS[1:]:
        stats[f"{name}_cases"] = len(dataset.cases(name))
        stats[f"{name}_events_without_history"] = stats[f"{name}_events"] - stats[f"{name}_cases"]
    if dataset.timestamps is not None:
        time = dataset.timestamps
        tie = np.zeros(n, dtype=bool)
        equal = same_user & (time[1:] == time[:-1])
        tie[1:] |= equal
        tie[:-1] |= equal
        stats["ties_share"] = float(tie.mean())
        stats["time_from"] = str(np.datetime64(int(time.min()), "ms"))
        stats["time_to"] = str(np.datetime64(int(time.max()), "ms"))
    return stats
