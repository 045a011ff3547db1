"""Part files: finished work that a killed stage leaves behind and its next run picks up.

A part is named by a hash of what it was computed from, so a part that is there and reads back whole is right, whatever
run wrote it. On a local disk: write aside, fsync, rename. An object store publishes an upload whole by itself.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def part_name(fingerprint: str, texts: Sequence[str]) -> str:
    """File name of the part holding the vectors of ``texts`` under the settings that ``fingerprint`` stands for."""
    digest = hashlib.sha256(fingerprint.encode())
    for text in texts:
        raw = text.encode("utf-8", errors="replace")
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return f"part-{digest.hexdigest()[:32]}.parquet"


def write_part(folder: str, name: str, vectors: np.ndarray) -> None:
    """Publish float32 (n, D) vectors as ``folder/name``, whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    column = pa.FixedSizeListArray.from_arrays(
        pa.array(np.ascontiguousarray(vectors).reshape(-1)), vectors.shape[1]
    )
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"vector": column}), sink, compression="none")
    payload = sink.getvalue()
    if "://" in folder:
        from pyarrow.fs import FileSystem

        system, base = FileSystem.from_uri(folder)
        system.create_dir(base, recursive=True)
        with system.open_output_stream(f"{base}/{name}") as stream:
            stream.write(payload)
        return
    target = Path(folder) / name
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{name}.{os.getpid()}.tmp")
    try:
        with open(aside, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, target)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def read_part(folder: str, name: str, rows: int) -> np.ndarray | None:
    """The (rows, D) vectors of a part, or None when it is missing, truncated or not what it should be."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if "://" in folder:
            from pyarrow.fs import FileSystem

            system, base = FileSystem.from_uri(folder)
            table = pq.read_table(f"{base}/{name}", filesystem=system)
        else:
            table = pq.read_table(Path(folder) / name)
        column = table.column("vector").combine_chunks()
        vectors = column.flatten().to_numpy(zero_copy_only=False)
        if (
            len(column) != rows
            or not pa.types.is_float32(column.type.value_type)
            or len(vectors) % max(rows, 1)
        ):
            return None
        return np.array(vectors.reshape(rows, -1))
    except (OSError, pa.ArrowInvalid, KeyError):
        return None
