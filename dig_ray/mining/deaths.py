"""What a process was doing when it died, so that a row which kills its process is found and set aside.

Before rows are asked, their keys are marked; after they are answered the mark goes. Marks that are there when a process of the same run
starts were left by one that died: those rows are asked alone, and a row that dies alone is the one.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


class Marks:
    """The marks of one run in one folder (local directory or URI)."""

    def __init__(self, folder: str) -> None:
        from pyarrow.fs import FileSystem

        self.folder = folder if "://" in folder else str(Path(folder).resolve())
        self._system, self._base = FileSystem.from_uri(self.folder)

    def begin(self, keys: Iterable[str], alone: bool = False) -> str:
        """Mark rows as being asked by this process; what to give to ``end``.

        Args:
            keys: of the rows.
            alone: whether nothing else is asked meanwhile, so that a death is theirs.
        """
        self._system.create_dir(self._base, recursive=True)
        path = f"{self._base}/{uuid.uuid4().hex}.json"
        with self._system.open_output_stream(f"{path}.tmp") as stream:
            stream.write(json.dumps({"alone": alone, "keys": sorted(keys)}).encode())
        self._system.move(f"{path}.tmp", path)
        return path

    def end(self, mark: str) -> None:
        """The rows of this mark are done."""
        with suppress(FileNotFoundError):
            self._system.delete_file(mark)

    def left(self) -> tuple[set[str], set[str]]:
        """(rows that were in flight in some death, rows that died alone).

        Marks of living processes look the same: only what is said about rows that the caller has just been given counts.
        """
        from pyarrow.fs import FileSelector

        together: set[str] = set()
        alone: set[str] = set()
        for file in self._system.get_file_info(FileSelector(self._base, allow_not_found=True)):
            if not file.base_name.endswith(".json"):
                continue
            try:
                with self._system.open_input_stream(file.path) as stream:
                    mark = json.loads(stream.read())
            except (OSError, ValueError):
                continue
            (alone if mark["alone"] else together).update(mark["keys"])
        return together - alone, alone

    def clear(self) -> None:
        """Forget all marks; for a driver before it starts a run."""
        from pyarrow.fs import FileType

        if self._system.get_file_info(self._base).type == FileType.Directory:
            self._system.delete_dir(self._base)
