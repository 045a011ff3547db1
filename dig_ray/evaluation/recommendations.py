"""Ranked lists on disk: one row per case, item ids as strings, so that any recommender's file can be evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dig_ray.errors import UserError
from dig_ray.numerics import ranking

if TYPE_CHECKING:
    from dig_ray.catalog.dataset import Cases, Dataset


EXCLUDES_SEEN = {"seen": False, "unseen": True}
"""How a file of lists is called by whether items of the history were left out of them."""


def write_recommendations(
    path: str | Path, dataset: Dataset, cases: Cases, recs: np.ndarray, scores: np.ndarray | None = None
) -> None:
    """Write lists as Parquet: user_id, item_ids, scores, target_id, and target_rank, which counts from 0 and is -1 outside the list.

    Args:
        path: the file.
        dataset: whose ids are written.
        cases: one for each list.
        recs: int ``(C, k)`` item indices, best first, padded -1.
        scores: float ``(C, k)``, of the same places; without them there is no such column.

    Raises:
        UserError: rows that do not fit the cases, items twice or outside the catalogue.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    recs = np.asarray(recs)
    ranking.check_recs(recs, len(cases.target), dataset.n_items)
    kept = recs != ranking.PAD
    offsets = pa.array(np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int32))
    ids = pa.array(np.asarray(dataset.item_ids).astype(object), pa.string())
    users = pa.array(np.asarray(dataset.user_ids).astype(object), pa.string())
    columns = {
        "user_id": users.take(pa.array(cases.user)),
        "item_ids": pa.ListArray.from_arrays(offsets, ids.take(pa.array(recs[kept]))),
        "target_id": ids.take(pa.array(cases.target)),
        "target_rank": pa.array(ranking.rank_of_target(recs, cases.target).astype(np.int32)),
    }
    if scores is not None:
        flat = pa.array(np.asarray(scores, np.float32)[kept])
        columns["scores"] = pa.ListArray.from_arrays(offsets, flat)
    pq.write_table(pa.table(columns), path, compression="zstd")


def read_recommendations(path: str | Path, dataset: Dataset, cases: Cases) -> np.ndarray:
    """Lists of a file in the order of ``cases``, int32 ``(C, longest)`` padded -1.

    Rows may come in any order; each user's rows must be in the order of that user's cases.

    Raises:
        UserError: missing file or column, unknown user or item, or a row too many or too few.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=["user_id", "item_ids"])
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; run the stage that writes it first") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(
            f"{path} is not a readable recommendations file: {str(error).splitlines()[0]}"
        ) from error
    if set(table.column_names) != {"user_id", "item_ids"}:
        raise UserError(f"{path} needs the columns user_id and item_ids (list of item ids), best first")
    if table.num_rows != len(cases.target):
        raise UserError(
            f"{path} has {table.num_rows} rows but there are {len(cases.target)} cases; one row each"
        )
    lists = table.column("item_ids").combine_chunks()
    if lists.null_count or table.column("user_id").null_count:
        raise UserError(f"{path} has an empty user_id or item_ids cell; write an empty list instead")
    numbers = {}
    for column, wanted, known in (
        ("item_ids", pc.list_flatten(lists), dataset.item_ids),
        ("user_id", table.column("user_id").combine_chunks(), dataset.user_ids),
    ):
        place = pc.index_in(
            pc.cast(wanted, pa.string()), pa.array(np.asarray(known).astype(object), pa.string())
        )
        if place.null_count:
            unknown = wanted.filter(pc.is_null(place))[0]
            raise UserError(f"{path}: {column} holds {unknown.as_py()!r}, which the catalogue does not know")
        numbers[column] = place.to_numpy(zero_copy_only=False)
    length = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
    recs = np.full((len(length), max(1, int(length.max(initial=0)))), ranking.PAD, np.int32)
    row = np.repeat(np.arange(len(length)), length)
    recs[row, np.arange(len(row)) - np.repeat(np.cumsum(length) - length, length)] = numbers["item_ids"]
    ours, theirs = (np.argsort(u, kind="stable") for u in (np.asarray(cases.user), numbers["user_id"]))
    if not np.array_equal(np.asarray(cases.user)[ours], numbers["user_id"][theirs]):
        raise UserError(f"{path} does not hold the same users as the split that is evaluated")
    out = np.empty_like(recs)
    out[ours] = recs[theirs]
    return out
