"""Parquet tables of artifacts that several rooms write or read: a stage's tables, item vectors, merged interests.

What is read here was written here. Vectors from outside are read by ``dig_ray.embedding.vectors``, which trusts nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dig_ray.base import Stage

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_PER_GROUP = 16_384


def write_table(stage: Stage, name: str, table: pa.Table) -> None:
    """``table`` as ``NAME.parquet`` of a stage's artifact."""
    import pyarrow.parquet as pq

    pq.write_table(table, stage.out / f"{name}.parquet", compression="zstd")


def merged_schema() -> pa.Schema:
    """``merged.parquet``: each subject's distinct interests, strongest first; for one miner, in its order."""
    import pyarrow as pa

    interest = pa.struct(
        [
            ("text", pa.string()),
            ("confidence", pa.float64()),
            ("support", pa.int32()),
            ("miners", pa.list_(pa.string())),
        ]
    )
    return pa.schema(
        [("subject", pa.string()), ("subject_id", pa.string()), ("interests", pa.list_(interest))]
    )


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


def read_vectors(path: str | Path, item_ids: Sequence[str]) -> np.ndarray:
    """What ``write_vectors`` wrote, in the order of ``item_ids``, each of which has a vector: float32 ``(N, D)``."""
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["item_id", "vector"])
    row_of = {item: row for row, item in enumerate(table["item_id"].to_pylist())}
    vectors = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return vectors.reshape(table.num_rows, -1)[[row_of[item] for item in item_ids]]
