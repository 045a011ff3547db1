"""Answers that were paid for, kept for ever: a folder of part files, one row an answer, found again by what was asked.

A key is the hash of everything that decides an answer: prompt, model, sampling, evidence, picture. So a changed product is asked about
again and nothing else is, whatever run asks. Parts are written whole or not at all by whoever got the answers, a few at a time; a
process that dies loses what was in flight. Rows are plain data and never paths.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dig_ray.parts import write_part

if TYPE_CHECKING:
    import pyarrow as pa

COMPACT_FROM = 64
"""Parts from which a reader writes them together."""


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
        ]
    )


def answer_key(prompt_hash: str, model: Mapping[str, Any], evidence: str, image: bytes | None = None) -> str:
    """32 hex digits of everything that decides an answer.

    Args:
        prompt_hash: of the instructions.
        model: model name, sampling settings and whatever else changes what it writes; JSON-able.
        evidence: the text it reads.
        image: the picture's bytes.
    """
    digest = hashlib.sha256()
    for part in (prompt_hash, json.dumps(model, sort_keys=True), evidence):
        raw = part.encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8, "big") + raw)
    if image is not None:
        digest.update(hashlib.sha256(image).digest())
    return digest.hexdigest()[:32]


class AnswerLog:
    """The answers of one folder (local directory or URI). Many processes may write at once."""

    def __init__(self, folder: str) -> None:
        self.folder = folder if "://" in folder else str(Path(folder).resolve())

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep some answers; columns as in ``schema``."""
        import pyarrow as pa

        if rows:
            table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema())
            write_part(self.folder, f"answers-{uuid.uuid4().hex}.parquet", table)

    def read(self, compact: bool = False) -> pa.Table:
        """All answers, one row a key; when a key was answered twice an ok one wins, then the first part's.

        Args:
            compact: write many small parts together; for a driver that nothing else writes beside.

        A part that cannot be read is left out: its answers are asked for again.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq
        from pyarrow.fs import FileSelector, FileSystem, FileType

        system, base = FileSystem.from_uri(self.folder)
        found = system.get_file_info(FileSelector(base, allow_not_found=True))
        paths = sorted(
            f.path
            for f in found
            if f.type == FileType.File
            and f.base_name.startswith("answers-")
            and f.base_name.endswith(".parquet")
        )
        tables, good = [], []
        for path in paths:
            try:
                tables.append(pq.read_table(path, filesystem=system, schema=schema()))
                good.append(path)
            except (OSError, pa.ArrowInvalid):
                continue
        table = _one_per_key(pa.concat_tables(tables)) if tables else schema().empty_table()
        if compact and len(good) >= COMPACT_FROM:
            write_part(self.folder, f"answers-{uuid.uuid4().hex}.parquet", table)
            for path in good:
                system.delete_file(path)
        return table


def _one_per_key(table: pa.Table) -> pa.Table:
    import numpy as np
    import pyarrow.compute as pc

    failed = pc.equal(table["status"], "failed").to_numpy(zero_copy_only=False)
    order = np.argsort(failed, kind="stable")
    table = table.take(order)
    _, first = np.unique(table["key"].to_numpy(zero_copy_only=False), return_index=True)
    return table.take(np.sort(first))


class Marks:
    """What a process was doing when it died, so that a row which kills its process is found and set aside.

    Before a row is asked, its key is marked; after it is answered the mark goes. Marks that are there when a process starts were left by
    one that died: those rows are asked alone, and a row that dies alone is the one.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def begin(self, keys: Iterable[str]) -> Path:
        """Mark rows as being asked together by this process."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{uuid.uuid4().hex}.json"
        aside = path.with_suffix(".tmp")
        aside.write_text(json.dumps(sorted(keys)))
        os.replace(aside, path)
        return path

    def end(self, mark: Path) -> None:
        """The rows of this mark are done."""
        mark.unlink(missing_ok=True)

    def left(self) -> tuple[set[str], set[str]]:
        """(rows that were in flight together with others in some death, rows that died alone)."""
        together: set[str] = set()
        alone: set[str] = set()
        for path in self.folder.glob("*.json"):
            try:
                keys = json.loads(path.read_text())
            except (OSError, ValueError):
                continue
            (alone if len(keys) == 1 else together).update(keys)
        return together - alone, alone
