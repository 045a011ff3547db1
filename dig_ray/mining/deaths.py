"""What a process was doing when it died, so that a row which kills its process is found and set aside.

Before rows are asked, their keys are marked; after they are answered the mark goes. Marks that are there when a process of the same run
starts were left by one that died: those rows are asked alone, and a row that dies alone is the one.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable

from dig_ray.artifacts.folders import list_files, read_bytes, remove_file, write_bytes


class Marks:
    """The marks of one run in one folder (local directory or URI)."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def begin(self, keys: Iterable[str], alone: bool = False) -> str:
        """Mark rows as being asked by this process; what to give to ``end``.

        Args:
            keys: the rows' keys in the answer log.
            alone: whether nothing else is asked meanwhile, so that a death is theirs.
        """
        mark = f"{uuid.uuid4().hex}.json"
        write_bytes(self.folder, mark, json.dumps({"alone": alone, "keys": sorted(keys)}).encode())
        return mark

    def end(self, mark: str) -> None:
        """The rows of this mark are done."""
        remove_file(self.folder, mark)

    def left(self) -> tuple[set[str], set[str]]:
        """(rows that were in flight in some death, rows that died alone).

        Marks of living processes look the same: only what is said about rows that the caller has just been given counts.
        """
        together: set[str] = set()
        alone: set[str] = set()
        for mark in self._marks():
            try:
                said = json.loads(read_bytes(self.folder, mark) or b"")
            except ValueError:
                continue
            (alone if said["alone"] else together).update(said["keys"])
        return together - alone, alone

    def clear(self) -> None:
        """Forget all marks; for a driver before it starts a run."""
        for mark in self._marks():
            remove_file(self.folder, mark)

    def _marks(self) -> list[str]:
        names = list_files(self.folder)
        return [name for name in names if name.endswith(".json") and not name.startswith(".")]
