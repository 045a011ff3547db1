"""The remote side of the store: artifacts' files behind a URI, and locks there.

An object store has neither renames nor ``flock``. So what is published is one small object, the manifest, uploaded last; and a lock is
a ticket per contender. Whoever wants it writes a ticket of its own and then lists all of them: of two that ask at once, one at
least sees the other, so that two never hold it, in any store whose listings show what was written before. A ticket is refreshed
while it is held, and counts as left behind when its process is gone, or when it is two minutes older than one written now by the
store's clock.
"""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from dig_ray.artifacts.folders import (
    explain,
    is_object_store,
    is_uri,
    list_files,
    no_bucket,
    open_folder,
    patiently,
    put,
    read_bytes,
    remove_file,
    write_bytes,
)
from dig_ray.artifacts.store_files import boot_id, born, held_error, lock_owner, parse_owner, safe_relative
from dig_ray.errors import UserError

LOCK_REFRESH_S = 20.0
LOCK_EXPIRES_S = 120.0
ASKING_S = 5.0
TRANSFERS = 8


class Remote:
    """A root behind a URI; names are relative to the root."""

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self.fs, self.prefix = open_folder(self.uri)
        self._flat = is_object_store(self.uri)

    def _path(self, name: str) -> str:
        return f"{self.prefix}/{safe_relative(name)}"

    def read(self, name: str) -> bytes | None:
        """Content of a small object, None if it is not there."""
        return read_bytes(self.uri, str(safe_relative(name)))

    def write(self, name: str, data: bytes) -> None:
        """Write a small object whole."""
        write_bytes(self.uri, str(safe_relative(name)), data)

    def upload(self, source: Path, name: str) -> None:
        """Upload a file; what stops half way may leave a shorter object, so nothing may refer to it before this returns."""

        def upload() -> None:
            if not self._flat:
                self.fs.create_dir(self._path(name).rpartition("/")[0], recursive=True)
            with source.open("rb") as file, self.fs.open_output_stream(self._path(name)) as stream:
                shutil.copyfileobj(file, stream, 1 << 22)

        patiently(upload, f"{self.uri}/{name}")

    def download(self, name: str, target: Path) -> None:
        """Download an object.

        Raises:
            FileNotFoundError: it is not there.
        """
        target.parent.mkdir(parents=True, exist_ok=True)

        def download() -> None:
            with self.fs.open_input_stream(self._path(name)) as stream, target.open("wb") as file:
                shutil.copyfileobj(stream, file, 1 << 22)

        patiently(download, f"{self.uri}/{name}")

    def upload_all(self, root: Path, names: Iterable[str], folder: str) -> None:
        """Upload ``root/name`` as ``folder/name``, several at once."""
        with ThreadPoolExecutor(TRANSFERS) as pool:
            list(pool.map(lambda name: self.upload(root / name, f"{folder}/{name}"), names))

    def download_all(self, folder: str, names: Iterable[str], root: Path) -> None:
        """Download ``folder/name`` to ``root/name``, several at once.

        Raises:
            FileNotFoundError: one is not there.
        """
        with ThreadPoolExecutor(TRANSFERS) as pool:
            list(pool.map(lambda name: self.download(f"{folder}/{name}", root / safe_relative(name)), names))

    def list(self, name: str) -> Mapping[str, Any]:
        """What is directly below a prefix: name -> pyarrow's ``FileInfo``."""
        return list_files(f"{self.uri}/{safe_relative(name)}")

    def remove(self, name: str) -> None:
        """Remove an object or all below a prefix; nothing there is fine."""
        from pyarrow.fs import FileType

        path = self._path(name)

        def remove() -> None:
            kind = self.fs.get_file_info(path).type
            with suppress(FileNotFoundError):
                if kind == FileType.File:
                    self.fs.delete_file(path)
                elif kind == FileType.Directory:
                    self.fs.delete_dir(path)

        patiently(remove, f"{self.uri}/{name}")

    def probe(self) -> None:
        """Write and remove a small object, without patience: this is when a wrong address shows.

        Raises:
            UserError: that fails.
        """
        path = self._path(f".locks/probe-{uuid.uuid4().hex}")
        try:
            put(self.fs, path, b"writable", self._flat)
            self.fs.delete_file(path)
        except Exception as error:
            sentence = explain(error, f"store {self.uri}")
            if self._flat and isinstance(error, FileNotFoundError):  # what Google says without a bucket
                sentence = no_bucket(f"store {self.uri}")
            raise UserError(
                sentence
                or f"store {self.uri} cannot be written to ({error}); check the address and the rights"
            ) from None


def open_remote(root: str) -> Remote | None:
    """The remote behind a URI; None for a local path or ``file://``.

    Raises:
        UserError: nobody knows the scheme, its package is not installed, or the URI holds more than an address.
    """
    return Remote(root) if is_uri(root) else None


class RemoteLock:
    """A lock beside the artifacts, of tickets ``NAME~TOKEN.json`` in one folder; refreshed by a thread while it is held.

    Args:
        remote: the store.
        name: the lock's name in ``.locks``.
        what: it is for, for people.
    """

    folder = ".locks"

    def __init__(self, remote: Remote, name: str, what: str) -> None:
        self.remote, self.name, self.what = remote, name, what
        self._token = uuid.uuid4().hex
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._held = False

    def _write(self) -> None:
        state = lock_owner() | {"held": self._held}
        self.remote.write(self._ticket(self._token), json.dumps(state).encode())

    def _ticket(self, token: str) -> str:
        return f"{self.folder}/{self.name}~{token}.json"

    def __enter__(self) -> RemoteLock:
        self._write()
        until = time.monotonic() + ASKING_S
        try:
            while others := self._others():
                first = min(others, key=lambda token: (not others[token].get("held"), token))
                if others[first].get("held") or first < self._token or time.monotonic() > until:
                    raise held_error(self.what, others[first])
                time.sleep(0.1)  # all of them only ask, and give way to the smallest token, which is ours
            self._held = True
            self._write()
        except BaseException:
            self._remove()
            raise
        self._thread = threading.Thread(target=self._refresh, daemon=True, name="dig-ray-lock")
        self._thread.start()
        return self

    def _others(self) -> dict[str, dict[str, Any]]:
        """Token -> owner of all other tickets that are not left behind; those that are go."""
        found = {
            name.rpartition("~")[2].removesuffix(".json"): info
            for name, info in self.remote.list(self.folder).items()
            if name.startswith(f"{self.name}~")
        }
        own = found.pop(self._token, None)
        if own is None:  # taken for left behind
            raise held_error(self.what, {})
        others = {}
        for token, info in found.items():
            raw = self.remote.read(self._ticket(token))
            if raw is None:
                continue
            owner = parse_owner(raw)
            by_store = bool(info.mtime_ns and own.mtime_ns)
            age = (own.mtime_ns - info.mtime_ns) / 1e9 if by_store else time.time() - owner.get("at", 0.0)
            if _is_gone(owner) or age > LOCK_EXPIRES_S:
                self.remote.remove(self._ticket(token))
            else:
                others[token] = owner
        return others

    def check(self) -> None:
        """Make sure that the lock is still held: a process that stood still for minutes may have lost it.

        Raises:
            UserError: another run took it over.
        """
        if self.remote.read(self._ticket(self._token)) is None:
            raise UserError(
                f"{self.what}: this run stood still for so long that another one took over; run the same command again"
            )

    def _refresh(self) -> None:
        while not self._stop.wait(LOCK_REFRESH_S):
            with suppress(OSError, UserError):  # one missed refresh is not the end; six are
                self.check()
                self._write()

    def _remove(self) -> None:
        with suppress(OSError, UserError):  # what is left behind expires
            remove_file(self.remote.uri, self._ticket(self._token))

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._remove()


def _is_gone(owner: dict[str, Any]) -> bool:
    """Whether a ticket's process ran on this machine and runs no more."""
    here = owner.get("host") == socket.gethostname() and owner.get("boot") == boot_id()
    if not here or not isinstance(owner.get("pid"), int):
        return False
    return born(owner["pid"]) is None or born(owner["pid"]) != owner.get("born")
