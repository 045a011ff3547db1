"""Whether files of tensors and settings are whole: what a kill, a full disk or a broken transfer leaves is told before it is read."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path, PurePosixPath
from typing import BinaryIO

LONGEST_HEADER = 100_000_000
"""Bytes that a safetensors header may have, as the format's own reader has it."""
READ = frozenset({".json", ".safetensors", ".pt", ".pth"})
"""Suffixes of files that ``damage`` looks into."""


def damage(file: BinaryIO, name: str, size: int) -> str | None:
    """What is wrong with an open file, as the rest of a sentence that begins with its name; None where nothing is found.

    JSON is parsed; of safetensors the header is read and the length compared with what it promises; of torch's own files (zip archives)
    the list of contents at the end. Nothing is unpickled, and tensors are not read. Other suffixes are only refused when empty.

    Args:
        file: opened for reading, seekable.
        name: whose suffix says what it is.
        size: how many bytes it has.
    """
    if not size:
        return "is empty"
    suffix = PurePosixPath(name).suffix
    if suffix == ".json":
        try:
            json.loads(file.read())
        except ValueError:
            return "is no valid JSON, so it was cut off or overwritten"
    elif suffix == ".safetensors":
        return _tensors_missing(file, size)
    elif suffix in (".pt", ".pth"):
        try:
            with zipfile.ZipFile(file) as archive:
                archive.infolist()
        except (zipfile.BadZipFile, OSError, ValueError):
            return "is cut off"
    return None


def damage_at(path: Path) -> str | None:
    """``damage`` of a file on this disk; the sentence's rest also where there is none."""
    try:
        with path.open("rb") as file:
            return damage(file, path.name, path.stat().st_size)
    except FileNotFoundError:
        return "is missing"


def _tensors_missing(file: BinaryIO, size: int) -> str | None:
    """What a safetensors file lacks: its first 8 bytes give the header's length, the header where each tensor ends."""
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or not 2 <= length <= min(size - 8, LONGEST_HEADER):
        return f"is no safetensors file of {size:,} bytes, or was cut off"
    try:
        header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        promised = 8 + length + max(ends, default=0)
    except (ValueError, AttributeError, KeyError, IndexError, TypeError):
        return "has a safetensors header that cannot be read"
    if promised != size:
        return f"has {size:,} bytes where its header promises {promised:,}, so it was cut off"
    return None
