"""The file side of the store: checksums, durable writes, locks, and remote roots.

Local locks are ``flock``: the kernel frees them when their holder dies, however it dies. An object store has
no such thing, so a remote lock is a small object that names its owner and is refreshed while it is held; it
counts as left behind when the owner's process is gone or has not refreshed it for two minutes.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import threading
import time
import uuid
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

from dig_ray.errors import UserError

_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_SPACE_TEXT = re.compile(r"No space left on device|Disk quota exceeded|File too large", re.IGNORECASE)
LOCK_REFRESH_S = 20.0
LOCK_EXPIRES_S = 120.0


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
    """An exclusive ``flock`` on a file, freed when the process ends; waiting is not its business."""

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what
        self._fd: int | None = None

    def try_acquire(self) -> bool:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            return False
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(_owner()).encode(), 0)
        self._fd = fd
        return True

    def release(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> LocalLock:
        if not self.try_acquire():
            raise _held(self.what, _parse_owner(self.path.read_bytes()))
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()


def _owner() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "born": _born(os.getpid()), "at": time.time()}


def _born(pid: int) -> str | None:
    """Start time of a process in clock ticks, to tell it from a later one of the same number (Linux)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _parse_owner(raw: bytes | None) -> dict[str, Any]:
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


def _held(what: str, owner: dict[str, Any]) -> HeldError:
    return HeldError(
        what, f"process {owner['pid']} on {owner.get('host')}" if owner.get("pid") else "another process"
    )


# --- remote roots ----------------------------------------------------------------------------------------


class Remote:
    """A root behind a URI, through ``pyarrow.fs``; names are relative to the root."""

    def __init__(self, filesystem: Any, prefix: str, uri: str) -> None:
        self.fs, self.prefix, self.uri = filesystem, prefix.rstrip("/"), uri

    def _path(self, name: str) -> str:
        return f"{self.prefix}/{safe_relative(name)}"

    def read(self, name: str) -> bytes | None:
        """Content of a small object, None if it is not there."""
        from pyarrow.fs import FileType

        if self.fs.get_file_info(self._path(name)).type != FileType.File:
            return None
        try:
            with self.fs.open_input_stream(self._path(name)) as stream:
                return stream.read()
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        self.fs.create_dir(self._path(name).rpartition("/")[0], recursive=True)
        with self.fs.open_output_stream(self._path(name)) as stream:
            stream.write(data)

    def upload(self, source: Path, name: str) -> None:
        self.fs.create_dir(self._path(name).rpartition("/")[0], recursive=True)
        with source.open("rb") as file, self.fs.open_output_stream(self._path(name)) as stream:
            shutil.copyfileobj(file, stream, 1 << 22)

    def download(self, name: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with self.fs.open_input_stream(self._path(name)) as stream, target.open("wb") as file:
            shutil.copyfileobj(stream, file, 1 << 22)

    def remove(self, name: str) -> None:
        """Remove an object or all below a prefix; nothing there is fine."""
        from pyarrow.fs import FileType

        kind = self.fs.get_file_info(self._path(name)).type
        if kind == FileType.File:
            self.fs.delete_file(self._path(name))
        elif kind == FileType.Directory:
            self.fs.delete_dir(self._path(name))

    def probe(self) -> None:
        """Write and remove a small object.

        Raises:
            UserError: that fails.
        """
        name = f".locks/probe-{uuid.uuid4().hex}"
        try:
            self.write(name, b"writable")
            self.remove(name)
        except Exception as error:
            raise UserError(
                f"store {self.uri} cannot be written to ({error}); check the address and the rights"
            ) from None


def open_remote(root: str) -> Remote | None:
    """The remote behind a URI; None for a local path or ``file://``.

    Raises:
        UserError: nobody knows the scheme, or its package is not installed.
    """
    if "://" not in root or root.startswith("file://"):
        return None
    from pyarrow import ArrowInvalid
    from pyarrow.fs import FileSystem, FSSpecHandler, PyFileSystem

    try:
        filesystem, prefix = FileSystem.from_uri(root)
        return Remote(filesystem, prefix, root)
    except ArrowInvalid:
        pass  # not one of pyarrow's own; fsspec knows more
    try:
        import fsspec

        filesystem, prefix = fsspec.core.url_to_fs(root)
    except (ImportError, ValueError) as error:
        raise UserError(
            f"store {root} cannot be opened: {error}; give a local directory or a known URI"
        ) from None
    return Remote(PyFileSystem(FSSpecHandler(filesystem)), prefix, root)


class RemoteLock:
    """A lock object beside the artifacts, refreshed by a thread while it is held."""

    def __init__(self, remote: Remote, name: str, what: str) -> None:
        self.remote, self.name, self.what = remote, name, what
        self._token = uuid.uuid4().hex
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def _write(self) -> None:
        self.remote.write(self.name, json.dumps(_owner() | {"token": self._token}).encode())

    def __enter__(self) -> RemoteLock:
        owner = _parse_owner(self.remote.read(self.name))
        if owner and not _is_gone(owner):
            raise _held(self.what, owner)
        self._write()
        time.sleep(0.05)  # two that wrote at once: the later write wins, and both see which
        owner = _parse_owner(self.remote.read(self.name))
        if owner.get("token") != self._token:
            raise _held(self.what, owner)
        self._thread = threading.Thread(target=self._refresh, daemon=True, name="dig-ray-lock")
        self._thread.start()
        return self

    def _refresh(self) -> None:
        while not self._stop.wait(LOCK_REFRESH_S):
            try:
                self._write()
            except OSError:
                continue  # one missed refresh is not the end; six are

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if _parse_owner(self.remote.read(self.name)).get("token") == self._token:
            self.remote.remove(self.name)


def _is_gone(owner: dict[str, Any]) -> bool:
    if owner.get("host") == socket.gethostname() and isinstance(owner.get("pid"), int):
        return _born(owner["pid"]) is None or _born(owner["pid"]) != owner.get("born")
    at = owner.get("at")
    return not isinstance(at, (int, float)) or time.time() - at > LOCK_EXPIRES_S
