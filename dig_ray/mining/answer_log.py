"""Answers that were paid for, kept for ever: a folder of files, one row an answer, found again by what was asked.

A key is the hash of everything that decides an answer: prompt, model, sampling, evidence, picture. So a changed product is asked about
again and nothing else is, whatever run asks. Whoever gets an answer writes it down at once: on a file system as a line of a journal, so
that a killed process loses no answer it had; in an object store as whole parts, within ``FLUSH_SECONDS``.
Rows are plain data and never paths.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dig_ray.artifacts.folders import list_files, read_bytes, remove_file, write_bytes
from dig_ray.artifacts.parts import write_part
from dig_ray.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

COMPACT_FROM = 64
"""Files from which a reader writes them together."""
COMPACT_AGE = 600.0
"""Seconds since a file's last change before it may be removed: until then a writer may live that nobody knows of."""
FLUSH_SECONDS, FLUSH_ROWS = 2.0, 256
MOST = {"tokens_in": 10**12, "tokens_out": 10**12, "calls": 10**6, "cost": 1e9, "seconds": 1e9}
"""Of one row, whatever wrote it."""
UNREACHED = (
    *("status_", "timeout", "connection", "deadline", "half_body", "error_body", "engine"),
    *("quota", "throttled", "stream", "html"),
)
"""Reasons that say nothing about the answer: such a row is worth asking again."""


@cache
def schema() -> pa.Schema:
    """Columns of the log. ``status`` is ``ok`` or ``failed``; ``reason`` is empty when ok; ``raw`` is what the model wrote."""
    import pyarrow as pa

    return pa.schema(
        [
            ("key", pa.string()),
            ("status", pa.string()),
            ("reason", pa.string()),
            ("raw", pa.string()),
            ("tokens_in", pa.int64()),
            ("tokens_out", pa.int64()),
            ("calls", pa.int32()),
            ("cost", pa.float64()),
            ("seconds", pa.float64()),
            (
                "estimated",
                pa.int32(),
            ),  # responses whose tokens are our estimate; null in rows of earlier versions
        ]
    )


_encode = json.JSONEncoder(ensure_ascii=False).encode


class AnswerKeys:
    """Keys of what one model is asked with one prompt: ``keys(evidence, image)`` is 32 hex digits of all that decides an answer.

    Args:
        prompt_hash: hash of the instructions; for recorded answers, of their table.
        model: model name, sampling settings and whatever else changes what it writes; JSON-able.
    """

    def __init__(self, prompt_hash: str, model: Mapping[str, Any]) -> None:
        self._shared = hashlib.sha256()
        for part in (prompt_hash, json.dumps(model, sort_keys=True)):
            self._add(self._shared, part)

    def __call__(self, evidence: str, image: bytes | None = None) -> str:
        digest = self._shared.copy()
        self._add(digest, evidence)
        if image is not None:
            digest.update(hashlib.sha256(image).digest())
        return digest.hexdigest()[:32]

    @staticmethod
    def _add(digest: Any, part: str) -> None:
        raw = part.encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8, "big") + raw)


class AnswerLog:
    """The answers of one folder (local directory or URI). Many processes may write at once."""

    def __init__(self, folder: str) -> None:
        self.folder = folder if "://" in folder else str(Path(folder).resolve())

    def writer(self) -> Journal:
        """A journal of this process's own; close it, or use it in a ``with`` block."""
        return Journal(self.folder, schema())

    def check_writable(self) -> None:
        """Write and delete a small file, before anything is paid for.

        Raises:
            UserError: that cannot be done.
        """
        probe = f"probe-{uuid.uuid4().hex}"
        try:
            write_bytes(self.folder, probe, b"writable")
            remove_file(self.folder, probe)
        except OSError as error:
            raise UserError(
                f"{self.folder}: answers cannot be kept there ({str(error)[:120]}); make it writable, or set store= to a place that is"
            ) from None

    def read(self, compact: bool = False, notes: Counter[str] | None = None) -> pa.Table:
        """All answers, one row a key; of several an ok one wins, then a bad answer, then one that was never reached.

        Args:
            compact: write many old files together; for the one who holds the folder's lock.
            notes: gets ``lines_unreadable`` and ``files_unreadable``, and ``numbers_impossible`` for rows whose tokens or cost were none.

        A part that cannot be read, or a line that is not whole, is left out: its answers are asked for again.
        """
        import pyarrow as pa

        notes = Counter() if notes is None else notes
        found = _read_files(self.folder, schema(), notes)
        rows = schema().empty_table()
        if found:
            rows = _one_per_key(_bounded(_whole(pa.concat_tables(found.values()), notes), notes))
        old = [name for name, made in found if time.time() - made > COMPACT_AGE]
        if compact and len(old) >= COMPACT_FROM:
            write_part(self.folder, f"answers-{uuid.uuid4().hex}.parquet", rows)
            for name in old:
                remove_file(self.folder, name)
        return rows


def read_rows(folder: str, columns: pa.Schema, notes: Counter[str]) -> list[pa.Table]:
    """What journals of these columns have written to a folder (local directory or URI); [] where there is none.

    ``notes`` gets ``lines_unreadable`` and ``files_unreadable``.
    """
    return list(_read_files(folder, columns, notes).values())


def _read_files(folder: str, columns: pa.Schema, notes: Counter[str]) -> dict[tuple[str, float], pa.Table]:
    """Every file that can be read, as (name, time of its last change), with its rows."""
    for attempt in range(5):
        lost: Counter[str] = Counter()
        try:
            tables = {file: _read_file(folder, file[0], columns, lost) for file in _files(folder)}
            notes.update(lost)
            break
        except FileNotFoundError:  # somebody wrote files together meanwhile: what they held is in a new one
            if attempt == 4:
                raise
    return {file: table for file, table in tables.items() if table is not None}


def _files(folder: str) -> list[tuple[str, float]]:
    return sorted(
        (name, info.mtime.timestamp() if info.mtime is not None else 0.0)
        for name, info in list_files(folder).items()
        if info.is_file and not name.startswith(".") and name.endswith((".parquet", ".jsonl"))
    )


class Journal:
    """Where one process writes rows down as they come. Threads may share it.

    Args:
        folder: local directory or URI.
        columns: schema of the rows; the first column is never null.
    """

    def __init__(self, folder: str, columns: pa.Schema) -> None:
        self.folder, self._columns = folder, columns
        self._lock = threading.Lock()
        self._rows: list[Mapping[str, Any]] = []
        self._file: io.FileIO | None = None
        self._flushed = time.monotonic()
        self._timer: threading.Timer | None = None

    def append(self, row: Mapping[str, Any]) -> None:
        """Keep one row."""
        with self._lock:
            if "://" in self.folder:
                self._rows.append(row)
                if len(self._rows) >= FLUSH_ROWS:
                    self._flush()
                elif self._timer is None:  # what is written down late is lost to a kill, and paid for again
                    self._timer = threading.Timer(FLUSH_SECONDS, self.flush)
                    self._timer.daemon = True
                    self._timer.start()
                return
            if self._file is None:
                Path(self.folder).mkdir(parents=True, exist_ok=True)
                name = Path(self.folder) / f"answers-{uuid.uuid4().hex}.jsonl"
                self._file = open(name, "ab", buffering=0)  # noqa: SIM115 - closed in close()
            # one call of write: a killed process leaves whole lines, and the kernel keeps them
            line = (_encode(dict(row)) + "\n").encode("utf-8", "replace")
            if self._file.write(line) != len(line):
                raise OSError(28, "No space left on device")
            if time.monotonic() - self._flushed > FLUSH_SECONDS:
                self._flush()

    def flush(self) -> None:
        """Whatever was appended is in the store when this returns."""
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._file is not None:
            os.fsync(self._file.fileno())
        elif self._rows:
            import pyarrow as pa

            table = pa.Table.from_pylist([dict(row) for row in self._rows], schema=self._columns)
            write_part(self.folder, f"answers-{uuid.uuid4().hex}.parquet", table)
            self._rows = []
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Flush and let go of the file."""
        with self._lock:
            self._flush()
            if self._file is not None:
                self._file.close()
                self._file = None

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _read_file(folder: str, name: str, columns: pa.Schema, notes: Counter[str]) -> pa.Table | None:
    """The rows of a file, None where they cannot be read.

    Raises:
        FileNotFoundError: it has gone.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    raw = read_bytes(folder, name)
    if raw is None:
        raise FileNotFoundError(f"{folder}/{name}")
    if name.endswith(".jsonl"):
        return _read_lines(raw[: raw.rfind(b"\n") + 1], columns, notes)
    try:
        return pq.read_table(pa.BufferReader(raw), schema=columns)
    except (OSError, ValueError, TypeError, pa.ArrowException):
        notes["files_unreadable"] += 1
        return None


def _read_lines(raw: bytes, columns: pa.Schema, notes: Counter[str]) -> pa.Table:
    import pyarrow as pa
    import pyarrow.json as pj

    if not raw:
        return columns.empty_table()
    options = pj.ParseOptions(explicit_schema=columns, unexpected_field_behavior="ignore")
    try:
        table = pj.read_json(
            io.BytesIO(raw), parse_options=options, read_options=pj.ReadOptions(block_size=1 << 24)
        )
        if table[0].null_count == 0:
            return table
    except pa.ArrowException:
        pass
    rows = []
    for line in raw.split(b"\n"):
        try:
            row = json.loads(line) if line else None
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict) and isinstance(row.get(columns[0].name), str):
            rows.append(row)
        elif line:
            notes["lines_unreadable"] += 1
    return pa.concat_tables([columns.empty_table(), *_tables(rows, columns, notes)])


def _tables(rows: list[dict[str, Any]], columns: pa.Schema, notes: Counter[str]) -> Iterator[pa.Table]:
    """Rows as tables. One that no table takes, such as a count beyond 64 bits, is found by halving and costs itself."""
    import pyarrow as pa

    if not rows:
        return
    try:
        yield pa.Table.from_pylist(rows, schema=columns)
    except (ArithmeticError, ValueError, TypeError, AttributeError, pa.ArrowException):
        if len(rows) == 1:
            notes["lines_unreadable"] += 1
            return
        half = len(rows) // 2
        yield from _tables(rows[:half], columns, notes)
        yield from _tables(rows[half:], columns, notes)


def _whole(table: pa.Table, notes: Counter[str]) -> pa.Table:
    """Rows that say what they must: a key, a status that there is, a reason and what the model wrote."""
    import pyarrow as pa
    import pyarrow.compute as pc

    there = pc.is_in(table["status"], pa.array(["ok", "failed"]))
    for name in ("key", "reason", "raw"):
        there = pc.and_(there, pc.is_valid(table[name]))
    whole = table.filter(there)
    if whole.num_rows < table.num_rows:
        notes["lines_unreadable"] += table.num_rows - whole.num_rows
    return whole


def _bounded(table: pa.Table, notes: Counter[str]) -> pa.Table:
    """Counts and dollars as they can be: what is missing, negative, infinite or absurd is 0, and the answer beside it still good."""
    import pyarrow as pa
    import pyarrow.compute as pc

    odd = None
    for name, most in MOST.items():
        column = table[name]
        good = pc.fill_null(pc.and_(pc.greater_equal(column, 0), pc.less_equal(column, most)), False)
        if pc.all(good).as_py() is False:
            odd = pc.invert(good) if odd is None else pc.or_(odd, pc.invert(good))
            zero = pa.scalar(0, column.type)
            table = table.set_column(table.column_names.index(name), name, pc.if_else(good, column, zero))
    if odd is not None:
        notes["numbers_impossible"] += pc.sum(odd).as_py()
    return table


def _one_per_key(table: pa.Table) -> pa.Table:
    import numpy as np
    import pyarrow.compute as pc

    failed = pc.equal(table["status"], "failed").to_numpy(zero_copy_only=False).astype(np.int8)
    unreached = pc.match_substring_regex(table["reason"], f"^({'|'.join(UNREACHED)})")
    order = np.argsort(failed + (failed & unreached.to_numpy(zero_copy_only=False)), kind="stable")
    table = table.take(order)
    codes = table["key"].combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    _, first = np.unique(codes, return_index=True)
    return table.take(np.sort(first))


def write_rows(folder: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Keep many answers at once, as one part."""
    import pyarrow as pa

    if rows:
        table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema())
        write_part(folder, f"answers-{uuid.uuid4().hex}.parquet", table)
