"""The file side of the store: checksums, durable writes, and locks.

Locks are ``flock``: the kernel frees them when their holder dies, however it dies.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import socket
import time
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

from dig_ray.artifacts.store_rights import open_to_sharers, refusal
from dig_ray.errors import UserError

_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_SPACE_TEXT = re.compile(r"No space left on device|Disk quota exceeded|File too large", re.IGNORECASE)


# --- files -----------------------------------------------------------------------------------------------


def sha256_file(path: Path) -> str:
    """sha256 of a file, hex; about 1.5 GB/s."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def safe_relative(name: str) -> PurePosixPath:
    """A relative path that stays below its root.

    Raises:
        ValueError: it is absolute, or holds ``..``, a backslash, a NUL or a percent escape.
    """
    path = PurePosixPath(name)
    bad = not name or path.is_absolute() or "\\" in name or "\0" in name or "%2e" in name.lower()
    if bad or any(part in ("..", ".") for part in name.split("/")):
        raise ValueError(f"{name!r} is no file name inside an artifact")
    return path


def write_json(path: Path, value: Any) -> None:
    """Write JSON aside, sync it to disk, rename it into place: a reader sees the old text or the new one."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("w", encoding="utf-8") as file:
            json.dump(value, file, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    _fsync_dir(path.parent)


def fsync_tree(root: Path, files: bool = True) -> None:
    """Sync the directory ``root`` to disk, and all that is below it unless ``files`` is False."""
    if files:
        for path in root.rglob("*"):
            if path.is_dir():
                _fsync_dir(path)
            else:
                with path.open("rb") as file:
                    os.fsync(file.fileno())
    _fsync_dir(root)


def _fsync_dir(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (
            errno.EINVAL,
            errno.EBADF,
        ):  # some network file systems cannot sync a directory
            raise
    finally:
        os.close(fd)


def free_staging_dir(parent: Path, stem: str) -> Path:
    """Make and return ``parent/stem-N`` with the first free N."""
    for n in range(10_000):
        path = parent / f"{stem}-{n}"
        try:
            path.mkdir(parents=True)
            open_to_sharers(path, parent.parent)
            return path
        except FileExistsError:
            continue
    raise UserError(f"{parent} is full of left-over directories {stem}-*; delete them")


def is_out_of_space(error: BaseException | None) -> bool:
    """Whether a full disk, a used-up quota or a file size limit is behind an error, also a Ray worker's."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, UserError):
            return False
        if isinstance(error, OSError) and error.errno in _SPACE:
            return True
        if _SPACE_TEXT.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


# --- local locks -----------------------------------------------------------------------------------------


class LocalLock:
    """An exclusive ``flock`` on a file, freed when the process ends; waiting is not its business.

    A file that another user made and only lets us read is locked all the same, without our name in it.

    Raises:
        UserError: it may not even be read.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what
        self._fd: int | None = None

    def try_acquire(self) -> bool:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fd, ours = self._open()
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            if error.errno == errno.EBADF:  # a network file system that locks what can be written only
                raise UserError(refusal(self.path, self.path.parent.parent)) from None
            return False
        if ours:
            os.ftruncate(fd, 0)
            os.pwrite(fd, json.dumps(lock_owner()).encode(), 0)
        self._fd = fd
        return True

    def _open(self) -> tuple[int, bool]:
        """The file, and whether it can be written to."""
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except PermissionError:
            try:
                return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC), False
            except OSError:
                raise UserError(refusal(self.path, self.path.parent.parent)) from None
        open_to_sharers(self.path, self.path.parent.parent)
        return fd, True

    def release(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> LocalLock:
        if not self.try_acquire():
            raise held_error(self.what, _living(parse_owner(self.path.read_bytes())))
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()


def _living(said: dict[str, Any]) -> dict[str, Any]:
    """What a lock says of its holder; {} where that process of this machine is gone, so that another one has it who could not say so."""
    here = said.get("host") == socket.gethostname() and said.get("boot") == boot_id()
    gone = here and isinstance(said.get("pid"), int) and born(said["pid"]) != said.get("born")
    return {} if gone else said


def lock_owner() -> dict[str, Any]:
    """What a lock says of the process that has it."""
    return {
        "host": socket.gethostname(),
        "boot": boot_id(),
        "pid": os.getpid(),
        "born": born(os.getpid()),
        "at": time.time(),
    }


def boot_id() -> str | None:
    """What tells this machine's run from those of others that have the same name (Linux)."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def born(pid: int) -> str | None:
    """Start time of a process in clock ticks, to tell it from a later one of the same number (Linux)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def parse_owner(raw: bytes | None) -> dict[str, Any]:
    """What a lock says; {} where it is no such thing."""
    try:
        owner = json.loads(raw or b"{}")
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


class HeldError(UserError):
    """Somebody else has a lock; ``by`` says who."""

    def __init__(self, what: str, by: str) -> None:
        super().__init__(
            f"{what} is being built by {by}; wait until that run is done, or set store= to another place"
        )
        self.by = by


def held_error(what: str, owner: dict[str, Any]) -> HeldError:
    """That somebody else has a lock."""
    return HeldError(
        what, f"process {owner['pid']} on {owner.get('host')}" if owner.get("pid") else "another process"
    )
