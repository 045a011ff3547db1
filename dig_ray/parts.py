"""Part files: finished work that a killed stage leaves behind and its next run picks up.

A part is a Parquet table under a name that says what it was computed from. On a local disk it is written aside, synced and renamed; an
object store publishes an upload whole by itself. A part that does not read back is treated as absent.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


def write_part(folder: str, name: str, table: pa.Table) -> None:
    """Publish ``table`` as ``folder/name`` (a local directory or a URI), whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="none")
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


def read_part(folder: str, name: str, rows: int) -> pa.Table | None:
    """The table of a part, or None when it is missing, unreadable or not of ``rows`` rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if "://" in folder:
            from pyarrow.fs import FileSystem

            system, base = FileSystem.from_uri(folder)
            table = pq.read_table(f"{base}/{name}", filesystem=system)
        else:
            table = pq.read_table(Path(folder) / name)
    except (OSError, pa.ArrowInvalid):
        return None
    return table if table.num_rows == rows else None
