"""What each interest of a test case found on its own, beside the events that are strongest in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dig_ray.catalog.dataset import TRAIN
from dig_ray.evaluation.case_histories import histories
from dig_ray.multi_interest.infer import interests_of
from dig_ray.multi_interest.model import MultiInterestModel
from dig_ray.multi_interest.retrieval import FaissIndex, top_items, users_at_once
from dig_ray.multi_interest.users import cluster_names
from dig_ray.numerics import ranking

if TYPE_CHECKING:
    import pyarrow as pa

    from dig_ray.catalog.dataset import Cases, Dataset
    from dig_ray.multi_interest.cluster_labels import Found

FOUND = 10
"""Items that are written for each interest."""
CASES_AT_ONCE = 256


def write_retrieved(
    path: Path,
    model: MultiInterestModel,
    dataset: Dataset,
    cases: Cases,
    clusters: Found | None = None,
    labels: np.ndarray | None = None,
) -> None:
    """Write a row for each case and interest, a case's strongest interest first.

    Columns: ``case`` (its number), ``user_id``, ``interest``, ``share`` (of the events that are read, those strongest in it),
    ``item_ids`` (of these, oldest first), ``clusters`` (names, those of most events first), ``found_ids`` and ``scores`` (what it finds
    alone, best first, seen items left out).

    Args:
        path: the Parquet file that is written.
        model: a trained model, which is put in evaluation mode.
        dataset: catalogue and split, with E training events.
        cases: the cases whose histories are read.
        clusters: user id -> clusters; None where users were not clustered.
        labels: int32 ``(E,)`` as ``label_events`` gives them, each training event's cluster or -1; None as ``clusters``.

    Raises:
        UserError: faiss is wanted and not installed.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    text, real = pa.list_(pa.string()), pa.list_(pa.float32())
    schema = pa.schema(
        [
            ("case", pa.int32()),
            ("user_id", pa.string()),
            ("interest", pa.int32()),
            ("share", pa.float64()),
            ("item_ids", text),
            ("clusters", text),
            ("found_ids", text),
            ("scores", real),
        ]
    )
    with pq.ParquetWriter(path, schema, compression="zstd") as file:
        for rows in _rows(model, dataset, cases, clusters, labels):
            file.write_table(pa.Table.from_pylist(rows, schema))


def _rows(
    model: MultiInterestModel,
    dataset: Dataset,
    cases: Cases,
    clusters: Found | None,
    labels: np.ndarray | None,
) -> Iterator[list[dict[str, Any]]]:
    model.eval()
    events, ids, count = dataset.events, dataset.item_ids, model.config.interests
    label_of = np.full(len(events), -1, np.int32)
    if labels is not None:
        label_of[dataset.split == TRAIN] = labels
    with torch.inference_mode():
        keys = model.keys().float().cpu().numpy()
        index = FaissIndex(keys) if model.config.search == "faiss" else None
        at_once = min(CASES_AT_ONCE, users_at_once(count, len(keys)))
        for low in range(0, len(cases.target), at_once):
            high = min(low + at_once, len(cases.target))
            end = np.asarray(cases.end[low:high], np.int64)
            start = np.maximum(np.asarray(cases.start[low:high], np.int64), end - model.config.max_length)
            vectors, weights = interests_of(model, events, start, end)
            strongest = weights.argmax(1).cpu().numpy()
            queries = model.queries(vectors).float().cpu().numpy().reshape((high - low) * count, 1, -1)
            row, item, _ = histories(events, cases, low, high)
            own = (row[:, None] * count + np.arange(count)).ravel()
            seen = np.stack([own, np.repeat(item, count)], axis=1)
            items, scores = (
                top_items(queries, keys, FOUND, seen)
                if index is None
                else index.top_items(queries, FOUND, seen)
            )
            out: list[dict[str, Any]] = []
            for number in range(high - low):
                place = np.arange(start[number], end[number])
                of = strongest[number, : len(place)]
                sizes = np.bincount(of, minlength=count)
                user = str(dataset.user_ids[cases.user[low + number]])
                for interest in np.argsort(-sizes, kind="stable").tolist():
                    mine = place[of == interest]
                    at = number * count + interest
                    some = items[at] != ranking.PAD
                    out.append(
                        {
                            "case": low + number,
                            "user_id": user,
                            "interest": interest,
                            "share": sizes[interest] / max(1, len(place)),
                            "item_ids": ids[list(dict.fromkeys(events[mine].tolist()))].tolist(),
                            "clusters": cluster_names(label_of[mine], (clusters or {}).get(user) or ()),
                            "found_ids": ids[items[at][some]].tolist(),
                            "scores": scores[at][some].tolist(),
                        }
                    )
            yield out


def read_retrieved(path: Path, cases: Sequence[int]) -> Mapping[int, list[dict[str, Any]]]:
    """Rows of some cases: number of the case -> its interests, strongest first.

    Args:
        path: a file that ``write_retrieved`` wrote.
        cases: numbers of cases; one that the file lacks has no interests.

    Raises:
        UserError: the file cannot be read.
    """
    import pyarrow.parquet as pq

    from dig_ray.errors import UserError

    try:
        table: pa.Table = pq.read_table(path, filters=[("case", "in", list(cases))] if len(cases) else None)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: not readable as Parquet ({error}); run the multi_interest stage again"
        ) from None
    found: dict[int, list[dict[str, Any]]] = {int(case): [] for case in cases}
    for row in table.to_pylist():
        found.setdefault(row["case"], []).append(row)
    return found
