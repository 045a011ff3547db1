"""Part files: finished work that a killed stage leaves behind and its next run picks up.

A part is named by a hash of what it was computed from, so a part that is there and reads back whole is right, whatever
run wrote it. On a local disk: write aside, fsync, rename. An object store publishes an upload whole by itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from dig_ray.artifacts import parts


def part_name(fingerprint: str, texts: Sequence[str]) -> str:
    """File name of the part holding the vectors of ``texts`` under the settings that ``fingerprint`` stands for."""
    digest = hashlib.sha256(fingerprint.encode())
    for text in texts:
        raw = text.encode("utf-8", errors="replace")
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return f"part-{digest.hexdigest()[:32]}.parquet"


def write_part(folder: str, name: str, vectors: np.ndarray, tokens: np.ndarray | None = None) -> None:
    """Publish a part as ``folder/name``, whole or not at all.

    Args:
        folder: local folder or URI.
        name: what ``part_name`` gives.
        vectors: float32 (n, D).
        tokens: int (n,), how many each text has, where they were counted.
    """
    import pyarrow as pa

    column = pa.FixedSizeListArray.from_arrays(
        pa.array(np.ascontiguousarray(vectors).reshape(-1)), vectors.shape[1]
    )
    columns = {"vector": column} | ({} if tokens is None else {"tokens": pa.array(tokens, pa.int32())})
    parts.write_part(folder, name, pa.table(columns))


def read_part(folder: str, name: str, rows: int) -> tuple[np.ndarray, np.ndarray] | None:
    """The (rows, D) vectors of a part and the (rows,) tokens, 0 where they were not counted; None when it is missing, truncated or not
    what it should be.
    """
    import pyarrow as pa

    table = parts.read_part(folder, name, rows)
    if table is None or "vector" not in table.column_names:
        return None
    column = table.column("vector").combine_chunks()
    if not pa.types.is_fixed_size_list(column.type) or not pa.types.is_float32(column.type.value_type):
        return None
    vectors = column.flatten().to_numpy(zero_copy_only=False)
    if len(vectors) % max(rows, 1):
        return None
    tokens = table["tokens"].to_numpy() if "tokens" in table.column_names else np.zeros(rows, np.int32)
    return np.array(vectors.reshape(rows, -1)), np.array(tokens)
