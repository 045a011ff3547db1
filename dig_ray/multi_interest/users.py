"""What each user's interests stand for: the events that are strongest in them, and the clusters these belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dig_ray.artifacts.artifact_tables import merged_schema, write_table
from dig_ray.base import Stage

if TYPE_CHECKING:
    from dig_ray.catalog.dataset import Dataset
    from dig_ray.multi_interest.cluster_labels import Found
    from dig_ray.multi_interest.model import MultiInterestModel


def cluster_names(labels: np.ndarray, found: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the clusters of some events of a user are called, those of most events first.

    Args:
        labels: int ``(E,)``, the number of each event's cluster in ``found``, -1 where it has none.
        found: the user's clusters, each with ``name``.
    """
    inside, often = np.unique(labels[labels >= 0], return_counts=True)
    return [str(found[label]["name"]) for label in inside[np.argsort(-often, kind="stable")].tolist()]


def strongest_interests(
    model: MultiInterestModel, dataset: Dataset, hold_out: int = 0
) -> tuple[np.ndarray, float]:
    """Which interest each training event is strongest in, after all training events of its user but the last ``hold_out``.

    Args:
        model: a trained model, which is put in evaluation mode.
        dataset: catalogue and split, with E training events.
        hold_out: latest training events of each user that are left out; one is always kept.

    Returns:
        int32 ``(E,)``, -1 for events before the latest ``max_length`` of these and for the last ``hold_out``; and the mean cosine of two
        different interests that are used by one user.
    """
    import torch

    from dig_ray.multi_interest.infer import interests_of
    from dig_ray.multi_interest.retrieval import USERS_AT_ONCE

    model.eval()
    offsets, events = dataset.train_sequences()
    kept = dataset.kept_without_latest(hold_out, least=1)
    out = np.full(len(events), -1, np.int32)
    cosines: list[float] = []
    for low in range(0, dataset.n_users, USERS_AT_ONCE):
        high = min(low + USERS_AT_ONCE, dataset.n_users)
        end = offsets[low:high] + kept[low:high]
        start = np.maximum(offsets[low:high], end - model.config.max_length)
        with torch.inference_mode():
            vectors, weights = interests_of(model, events, start, end)
        unit = torch.nn.functional.normalize(vectors, dim=-1).cpu().numpy()
        strongest = weights.argmax(1).cpu().numpy()
        for row, (first, last) in enumerate(zip(start.tolist(), end.tolist(), strict=True)):
            out[first:last] = strongest[row, : last - first]
            used = unit[row][np.unique(strongest[row, : last - first])]
            if len(used) > 1:
                cosines.append(float(((used @ used.T).sum() - len(used)) / (len(used) * (len(used) - 1))))
    return out, float(np.mean(cosines)) if cosines else 1.0


def write_interests(
    stage: Stage, dataset: Dataset, strongest: np.ndarray, clusters: Found | None, labels: np.ndarray | None
) -> dict[str, float]:
    """Write ``interests.parquet``, and ``merged.parquet`` in the shape of mined interests, strongest first.

    An interest is called after the cluster most of its events are in; without clusters, after the title of its latest item.

    Args:
        stage: where to write.
        dataset: catalogue and split, with E training events.
        strongest: int32 ``(E,)`` as ``strongest_interests`` gives it, each event's interest; events at -1 are left out.
        clusters: user id -> clusters; None where users were not clustered.
        labels: int32 ``(E,)`` as ``label_events`` gives them, each event's cluster or -1; None as ``clusters``.

    Returns:
        means over users with an event that is not left out: ``clusters`` that such events are in, and interests ``used``.
    """
    import pyarrow as pa

    offsets, events = dataset.train_sequences()
    if labels is None:
        labels = np.full(len(events), -1, np.int32)
    ids = dataset.item_ids.tolist()
    titles = dataset.items["title"].to_pylist() if "title" in dataset.items.column_names else ids
    rows, merged, used, groups = [], [], [], []
    for number, user in enumerate(dataset.user_ids.tolist()):
        place = np.arange(int(offsets[number]), int(offsets[number + 1]))
        place = place[strongest[place] >= 0]
        found = (clusters or {}).get(user) or ()
        called: dict[str, float] = {}
        kept, count = np.unique(strongest[place], return_counts=True)
        for interest, size in sorted(
            zip(kept.tolist(), count.tolist(), strict=True), key=lambda pair: (-pair[1], pair[0])
        ):
            own = place[strongest[place] == interest]
            names = cluster_names(labels[own], found)
            rows.append(
                {
                    "user_id": user,
                    "interest": interest,
                    "share": size / len(place),
                    "item_ids": [ids[event] for event in dict.fromkeys(events[own].tolist())],
                    "clusters": names,
                }
            )
            name = names[0] if names else titles[events[own[-1]]] or ids[events[own[-1]]]
            called[name] = called.get(name, 0.0) + size / len(place)
        merged.append(
            {
                "subject": "user",
                "subject_id": user,
                "interests": [
                    {"text": name, "confidence": min(1.0, share), "support": 1, "miners": [stage.name]}
                    for name, share in sorted(called.items(), key=lambda pair: -pair[1])
                ],
            }
        )
        if len(place):
            used.append(len(kept))
            groups.append(len(np.unique(labels[place][labels[place] >= 0])))
    text = pa.list_(pa.string())
    schema = pa.schema(
        [
            ("user_id", pa.string()),
            ("interest", pa.int32()),
            ("share", pa.float64()),
            ("item_ids", text),
            ("clusters", text),
        ]
    )
    write_table(stage, "interests", pa.Table.from_pylist(rows, schema))
    write_table(stage, "merged", pa.Table.from_pylist(merged, merged_schema()))
    return {
        name: round(float(np.mean(values)) if values else 0.0, 4)
        for name, values in (("clusters", groups), ("used", used))
    }
