"""Part files: finished work that a killed stage leaves behind and its next run picks up.

A part is a Parquet table under a name that says what it was computed from. On a local disk it is written aside, synced and renamed; an
object store publishes an upload whole by itself. A part that does not read back is treated as absent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dig_ray.artifacts.folders import read_bytes, write_bytes

if TYPE_CHECKING:
    import pyarrow as pa


def write_part(folder: str, name: str, table: pa.Table) -> None:
    """Publish ``table`` as ``folder/name`` (a local directory or a URI), whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="none")
    write_bytes(folder, name, sink.getvalue())


def read_part(folder: str, name: str, rows: int) -> pa.Table | None:
    """The table of a part, or None when it is missing, unreadable or not of ``rows`` rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    raw = read_bytes(folder, name)
    if raw is None:
        return None
    try:
        table = pq.read_table(pa.BufferReader(raw))
    except (OSError, pa.ArrowInvalid):
        return None
    return table if table.num_rows == rows else None
