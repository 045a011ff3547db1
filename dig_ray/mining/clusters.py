"""A user's items allocated to a free number of semantic clusters, by an LLM: what it is shown, what is made of its answer, and the table.

That an LLM allocates items to as many clusters as it finds is LDMI's (arXiv 2507.10917); the prompt, the shape of the answer and the
rules of repair are our choice. Every item ends in exactly one cluster.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dig_ray.mining.answers import Answer
from dig_ray.mining.evidence import CUT_MARK, Evidence, clean, count_tokens, cut_tokens, to_json

if TYPE_CHECKING:
    import pyarrow as pa

LEAST_TOKENS = 6
"""Of an item's title, however many items there are."""
REPAIRS = ("missing", "invented", "repeated")


@dataclass
class Clusters:
    """One subject's items in clusters.

    Attributes:
        names: one name for each cluster.
        labels: for each item, in the order in which they were shown, the number of its cluster, counted from 0.
        repaired: rule of ``REPAIRS`` -> how many items or clusters it was needed for.
    """

    names: list[str]
    labels: list[int]
    repaired: Counter[str] = field(default_factory=Counter)


def cluster_evidence(
    subject: str,
    subjects: Mapping[str, Sequence[str]],
    titles: Mapping[str, str | None],
    budget: int,
    interests: Mapping[str, Sequence[str]] | None = None,
) -> list[Evidence]:
    """Numbered items of every subject. All of them are shown: where the budget is short, each title is cut to its part of it.

    Args:
        subject: what they are, ``user`` or ``crowd``.
        subjects: id -> distinct item ids.
        titles: item id -> title.
        budget: tokens of all text of a subject.
        interests: item id -> its mined interests, shown where the budget allows.
    """
    interests = interests or {}
    out = []
    for name, items in subjects.items():
        share = max(LEAST_TOKENS, budget // max(1, len(items)))
        entries: list[dict[str, Any]] = []
        short = False
        for number, item in enumerate(items, 1):
            title, cut = cut_tokens(clean(titles.get(item) or ""), share)
            left = share - count_tokens(title.removesuffix(CUT_MARK))
            entry: dict[str, Any] = {"n": number, "title": title}
            kept: list[str] = []
            for text in interests.get(item, ()):
                left -= count_tokens(text)
                if left < 0:
                    break
                kept.append(text)
            if kept:
                entry["interests"] = kept
            short |= cut
            entries.append(entry)
        empty = not any(entry["title"] or "interests" in entry for entry in entries)
        out.append(Evidence(subject, name, to_json({"items": entries}), ("items",) if short else (), empty))
    return out


def repair(answer: Answer, items: Sequence[str], titles: Mapping[str, str | None]) -> Clusters:
    """An answer as an allocation in which every item is in exactly one cluster.

    A number that was not shown is left out (``invented``). An item that is named again stays where it was named first (``repeated``). An
    item that is not named at all becomes a cluster of its own under its title (``missing``): nothing says with what it would belong. A
    cluster that is left without items is none.

    Args:
        answer: a valid answer of kind ``clusters``.
        items: distinct item ids, in the order in which they were shown.
        titles: item id -> title.
    """
    labels = [-1] * len(items)
    repaired: Counter[str] = Counter()
    names: list[str] = []
    for name, numbers in zip(answer.texts, answer.members, strict=True):
        taken = False
        for number in numbers:
            if not 1 <= number <= len(items):
                repaired["invented"] += 1
            elif labels[number - 1] >= 0:
                repaired["repeated"] += 1
            else:
                labels[number - 1] = len(names)
                taken = True
        if taken:
            names.append(name)
    for place, label in enumerate(labels):
        if label < 0:
            repaired["missing"] += 1
            labels[place] = len(names)
            names.append(clean(titles.get(items[place]) or "") or items[place])
    return Clusters(names, labels, repaired)


def clusters_schema() -> pa.Schema:
    """``clusters.parquet``: a row for each subject, whose items are in exactly one cluster each."""
    import pyarrow as pa

    text = pa.string()
    return pa.schema(
        [
            ("subject", text),  # user or crowd
            ("subject_id", text),
            ("clusters", pa.list_(pa.struct([("name", text), ("item_ids", pa.list_(text))]))),
            ("model", text),
            ("status", text),  # ok, failed, or skipped where there was nothing to go by
            ("error", text),
            *((name, pa.int32()) for name in REPAIRS),
        ]
    )


def clusters_table(
    subject: str,
    subjects: Mapping[str, Sequence[str]],
    found: Sequence[Clusters | None],
    model: str,
    states: Sequence[tuple[str, str]],
) -> pa.Table:
    """Rows of ``clusters_schema``, one per subject.

    Args:
        subject: ``user`` or ``crowd``.
        subjects: id -> distinct item ids.
        found: clusters of each; None where there are none.
        model: name of the model that allocated.
        states: (status, error) of each subject's answer.
    """
    import pyarrow as pa

    rows = []
    for (name, items), one, (status, error) in zip(subjects.items(), found, states, strict=True):
        members: list[list[str]] = [[] for _ in one.names] if one else []
        for item, label in zip(items, one.labels, strict=True) if one else ():
            members[label].append(item)
        rows.append(
            {
                "subject": subject,
                "subject_id": name,
                "clusters": [
                    {"name": called, "item_ids": ids}
                    for called, ids in zip(one.names if one else (), members, strict=True)
                ],
                "model": model,
                "status": status,
                "error": error,
                **{rule: one.repaired[rule] if one else 0 for rule in REPAIRS},
            }
        )
    return pa.Table.from_pylist(rows, clusters_schema())
