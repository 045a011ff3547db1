"""Opening a file from outside: what it really is, whole or line by line, unpacked, and only if it holds still."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from dig_ray.errors import UserError

GZIP = b"\x1f\x8b"
NOT_TABLES = (  # how a file begins, what it then is, and what to do with it
    (GZIP, "packed with gzip twice", "unpack it once"),
    (b"PK\x03\x04", "a zip archive (or an Excel workbook)", "unpack it, or save the sheet as CSV UTF-8"),
    (b"\x28\xb5\x2f\xfd", "packed with zstd", "unpack it with zstd -d, or pack it with gzip"),
    *(
        (b"BZh%d1AY&SY" % level, "packed with bzip2", "unpack it with bunzip2, or pack it with gzip")
        for level in range(1, 10)
    ),
    (b"\xfd7zXZ\x00", "packed with xz", "unpack it with unxz, or pack it with gzip"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook", "save the sheet as CSV UTF-8"),
    (b"PAR1\x15", "a Parquet file", "let its name end in .parquet"),
    (b"ARROW1\0", "an Arrow (Feather) file", "write it as Parquet"),
    (b"SQLite format 3", "an SQLite database", "write the table as Parquet or CSV"),
    (b"\x89HDF", "an HDF5 file", "write the table as Parquet or CSV"),
    (b"\x80\x04\x95", "a Python pickle, which is never opened", "write the table as Parquet or CSV"),
    (b"\x80\x05\x95", "a Python pickle, which is never opened", "write the table as Parquet or CSV"),
    (b"\xff\xfe\x00\x00", "text in UTF-32", "save it as UTF-8"),
    (b"\x00\x00\xfe\xff", "text in UTF-32", "save it as UTF-8"),
    (b"\xff\xfe", "text in UTF-16", "save it as UTF-8 (in Excel: CSV UTF-8)"),
    (b"\xfe\xff", "text in UTF-16", "save it as UTF-8 (in Excel: CSV UTF-8)"),
    (b"version https://git-lfs", "the pointer of Git LFS and not the file", "run git lfs pull"),
)


def existing_file(path: str | Path) -> Path:
    """The path, if a file is there.

    Raises:
        UserError: it is missing, no file, or may not be read.
    """
    path = Path(path)
    try:
        there = path.exists()
    except (
        OSError,
        ValueError,
    ) as error:  # a folder on the way that may not be entered, a name too long or with a NUL
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{str(path)[:200]!r}: cannot be looked at ({reason}); correct the path in the config"
        ) from None
    if not there:
        raise UserError(
            f"{path}: the file does not exist; correct the path in the config (it counts from {Path.cwd()})"
        )
    if not path.is_file():
        what = "a folder" if path.is_dir() else "a pipe or device"
        raise UserError(f"{path}: is no file but {what}; give the path of one table")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path}: may not be read by this user; change the rights of the file")
    return path


@contextmanager
def steady(path: Path) -> Iterator[None]:
    """Whatever is read inside is of one file: it did not grow, shrink or change meanwhile.

    Raises:
        UserError: it did.
    """

    def state() -> tuple[int, int, int] | None:
        try:
            found = os.stat(path)
        except OSError:
            return None
        return found.st_size, found.st_mtime_ns, found.st_ino

    before = state()
    yield
    if state() != before:
        raise UserError(
            f"{path}: the file changed while it was read; wait until it is complete and run again"
        )


def read_bytes(path: Path) -> bytes:
    """All bytes of a text file, unpacked if it is gzip.

    Raises:
        UserError: unreadable, truncated or damaged, or no text at all.
    """
    try:
        with open_binary(path) as file:
            data = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise broken(path, error) from None
    refuse_what_is_no_text(path, data[:4096])
    return data


def as_utf8(data: bytes, notes: Counter[str]) -> bytes:
    """The text in UTF-8, without a byte order mark; what is not is replaced, and ``lines_not_utf8`` counts its lines."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    if data.isascii():
        return data
    whole = pa.LargeStringArray.from_buffers(
        1, pa.array([0, len(data)], pa.int64()).buffers()[1], pa.py_buffer(data)
    )
    try:
        whole.validate(full=True)
        return data
    except pa.ArrowInvalid:
        pass
    lines = data.splitlines(keepends=True)
    for n, line in enumerate(lines):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError:
            notes["lines_not_utf8"] += 1
            lines[n] = line.decode("utf-8", "replace").encode("utf-8")
    return b"".join(lines)


def open_binary(path: Path) -> BinaryIO:
    """Open for reading, through gzip if the first bytes say so (whatever the name)."""
    with path.open("rb") as file:
        packed = file.read(2) == GZIP
    return io.BufferedReader(gzip.open(path, "rb") if packed else path.open("rb", buffering=0), 1 << 20)  # type: ignore[type-var,arg-type]  # noqa: SIM115


def refuse_what_is_no_text(path: Path, head: bytes) -> None:
    """Refuse what the first bytes (a few thousand) show to be no table written as text.

    Raises:
        UserError: an archive, another format, another encoding, or a page of the web.
    """
    for start, what, cure in NOT_TABLES:
        if head.startswith(start):
            raise UserError(f"{path}: is {what}; {cure}")
    if head[257:262] == b"ustar":
        raise UserError(f"{path}: is a tar archive; unpack it and give the table inside")
    bare = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:64].lower()
    if bare.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise UserError(f"{path}: is a page of the web or XML and no table; fetch the file itself again")
    if head.count(b"\0") > len(head) // 4:
        raise UserError(
            f"{path}: is no text in UTF-8 (it is full of NUL bytes, as UTF-16 is); save it as UTF-8"
        )


def broken(path: Path, error: BaseException) -> UserError:
    """The sentence for a file that ends early or cannot be unpacked."""
    what = "truncated" if isinstance(error, EOFError) else "damaged or unreadable"
    return UserError(
        f"{path}: {what} ({str(error)[:200] or type(error).__name__}); fetch or write the file again"
    )


def read_lines(path: Path, notes: Counter[str]) -> Iterator[tuple[int, str]]:
    """Line number (from 1) and text of every line that is not blank, decoded with replacement.

    Args:
        path: plain or gzipped.
        notes: ``lines_not_utf8`` is raised by the lines with bytes that had to be replaced.

    Raises:
        UserError: unreadable, truncated or damaged, or no text.
    """
    number = 0
    try:
        with steady(path), open_binary(path) as file:
            refuse_what_is_no_text(path, file.peek(4096)[:4096])  # type: ignore[attr-defined]
            for raw in file:
                number += 1
                try:
                    line = raw.decode("utf-8")
                except UnicodeDecodeError:
                    notes["lines_not_utf8"] += 1
                    line = raw.decode("utf-8", "replace")
                if number == 1:
                    line = line.removeprefix("\ufeff")
                if line.strip():
                    yield number, line
    except (OSError, EOFError, zlib.error) as error:
        raise broken(path, error) from None
