"""The embeddings table: ``item_id``, ``vector`` as a fixed-size list of float32, and what makes one unusable.

Vectors brought along (from any model, in any tool) pass the same checks as ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dig_ray.errors import UserError

ROWS_PER_GROUP = 16_384


def write_vectors(
    path: str | Path,
    item_ids: Sequence[str] | np.ndarray,
    vectors: np.ndarray,
    known: np.ndarray | None = None,
) -> None:
    """Write (N,) ids, float32 (N, D) vectors and, if given, bool (N,) which rows are more than a stand-in, as an embeddings Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    ids = pa.array([str(item) for item in item_ids], pa.string())
    columns = {"item_id": ids, "vector": column} | ({} if known is None else {"known": pa.array(known)})
    # a writer keeps a whole row group, and a dictionary of distinct numbers pays for nothing: 0.7 kB a row instead of 2.9 at 384 dimensions
    pq.write_table(pa.table(columns), path, row_group_size=ROWS_PER_GROUP, use_dictionary=["item_id"])


def known_vectors(path: str | Path, item_ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Vectors brought along that need not cover the catalogue: float32 (N, D), zeros where there is none, and bool (N,) which are there.

    Raises:
        UserError: as ``load_vectors``, or no item of the catalogue has one.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        ids = (
            set(table["item_id"].cast(pa.string()).to_pylist()) if "item_id" in table.column_names else set()
        )
    except (FileNotFoundError, pa.ArrowInvalid, OSError):
        load_vectors(path, [])  # has the sentence
        raise
    if "known" in table.column_names:
        table = table.filter(table["known"])
        ids = set(table["item_id"].cast(pa.string()).to_pylist())
    known = np.array([item in ids for item in item_ids])
    if ids and not known.any():
        raise UserError(
            f"{path}: none of its {len(ids):,} item_ids is in the catalogue, whose first is {item_ids[0]!r}"
        )
    vectors = load_vectors(path, [item for item in item_ids if item in ids])
    out = np.zeros((len(item_ids), vectors.shape[1]), np.float32)
    out[known] = vectors
    return out, known


def load_vectors(
    path: str | Path, item_ids: Sequence[str] | np.ndarray, column: str = "vector", allow_zero: bool = True
) -> np.ndarray:
    """Read an embeddings Parquet in the order of ``item_ids``: float32 (N, D). Rows of other items are left out.

    Raises:
        UserError: file or column missing, unreadable or truncated; ids missing, or twice; vectors missing, of unequal
            length, or with NaN or infinity (or all zero, unless ``allow_zero``).
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    what = str(path)
    try:
        names = pq.read_schema(path).names
        for name in ("item_id", column):
            if name not in names:
                raise UserError(f"{what}: no column {name!r}; it has {', '.join(names)}")
        table = pq.read_table(path, columns=["item_id", column])
    except FileNotFoundError:
        raise UserError(f"{what}: no such file; correct the path of the vectors") from None
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0][:120]
        raise UserError(f"{what}: not a readable Parquet file ({reason}); write it again") from None

    ids = table.column("item_id").cast(pa.string())
    if ids.null_count:
        raise UserError(f"{what}: {ids.null_count} rows have no item_id")
    position: dict[str, int] = {}
    for row, item in enumerate(ids.to_pylist()):
        if item in position:
            raise UserError(
                f"{what}: item_id {item!r} appears more than once (rows {position[item]} and {row})"
            )
        position[item] = row
    wanted = [str(item) for item in item_ids]
    missing = [item for item in wanted if item not in position]
    if missing:
        raise UserError(
            f"{what}: no vector for {len(missing)} of {len(wanted)} catalogue items, the first is {missing[0]!r}; "
            f"embed all items or drop them from the catalogue"
        )
    values = table.column(column).combine_chunks()
    kind = values.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise UserError(f"{what}: column {column!r} is {kind}, expected a list of numbers per item")
    values = values.take(pa.array([position[item] for item in wanted], pa.int64()))
    if values.null_count:
        item = wanted[int(np.flatnonzero(np.asarray(pc.is_null(values)))[0])]
        raise UserError(f"{what}: item {item!r} has no vector (null)")
    lengths = np.asarray(pc.list_value_length(values))
    if len(set(lengths.tolist())) != 1 or lengths[0] == 0:
        odd = int(np.flatnonzero(lengths != np.bincount(lengths).argmax())[0]) if lengths.max() else 0
        raise UserError(
            f"{what}: vectors differ in length, {lengths.min()} to {lengths.max()} (item {wanted[odd]!r} has {lengths[odd]}); "
            f"all need the same number of dimensions"
        )
    flat = values.flatten()
    if not (pa.types.is_floating(flat.type) or pa.types.is_integer(flat.type)):
        raise UserError(f"{what}: column {column!r} holds {flat.type}, expected numbers")
    with np.errstate(over="ignore"):
        vectors = flat.to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(wanted), -1)
    check_finite(vectors, wanted, what)
    if not allow_zero:
        zero = np.flatnonzero(~vectors.any(axis=1))
        if len(zero):
            raise UserError(
                f"{what}: {len(zero)} vectors are all zero, the first is item {wanted[int(zero[0])]!r}"
            )
    return vectors


def check_finite(
    vectors: np.ndarray, item_ids: Sequence[str] | np.ndarray, what: str, hint: str = "mend it"
) -> None:
    """UserError naming the first item whose vector has NaN or infinity."""
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise UserError(
            f"{what}: the vectors of {len(bad)} items hold NaN or infinity, the first is item {str(item_ids[int(bad[0])])!r}; {hint}"
        )
