"""Where artifacts live: one directory per stage and fingerprint, a manifest, and an all-or-nothing publish.

An artifact's name is the hash of everything that decides its content: stage, config, the fingerprints of its
inputs, the code, the seed, and the sha256 of files from outside. So a finished stage is found again and never
made twice, two runs that share a stage share its artifact, and no name comes from a clock.

    ROOT/<stage>/<fingerprint>/...files..., manifest.json      published: complete, listed, checksummed
    ROOT/.staging/<stage>-<fingerprint>-<n>/                   being written; renamed into place at the end
    ROOT/.work/<stage>-<fingerprint>/                          a stage's own resumable parts; survives a kill
    ROOT/.kept/                                                what outlives artifacts: answers that were paid for
    ROOT/.locks/                                               one builder per artifact at a time

The root is a local directory, or any URI that pyarrow or fsspec can open (``s3://``, ``gs://``, ``memory://``).
Behind a URI a local store serves as cache: artifacts are made and verified there. Their files are uploaded below
ROOT/<stage>/<fingerprint>/<first 16 digits of the manifest's checksum>/, a place of this upload's own, and the manifest
last: one object, which is there or not. So a reader never sees files of two uploads mixed, not even where a lock failed
and two runs published at once: one of the two is what is found. A reader trusts only a directory with a valid manifest,
and only the files listed in it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dig_ray.artifacts.folders import explain_behind
from dig_ray.artifacts.manifest import Recipe, hash_json, make_manifest, parse_manifest
from dig_ray.artifacts.remote import Remote, RemoteLock, open_remote
from dig_ray.artifacts.store_files import (
    HeldError,
    LocalLock,
    free_staging_dir,
    fsync_tree,
    is_out_of_space,
    safe_relative,
    sha256_file,
    write_json,
)
from dig_ray.artifacts.store_rights import REFUSED, explain_refusal, make_shared, owner, refusal
from dig_ray.base import Stage
from dig_ray.errors import UserError

MANIFEST = "manifest.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_FINGERPRINT = re.compile(r"[0-9a-f]{16}")
NO_SPACE = "no space left while"
"""How the sentence begins that says so."""
HOLD_POLL_S = 0.5
FETCHES, FETCH_PAUSE_S = 3, 0.5
"""Times an artifact is fetched: it may be replaced meanwhile, and a transfer may be damaged."""


@dataclass(frozen=True)
class Artifact:
    """A published, verified artifact.

    Attributes:
        path: local directory that holds its files.
        location: where it lives in the store, for people (a path, or a URI).
    """

    stage: str
    fingerprint: str
    path: Path
    location: str
    manifest: Mapping[str, Any]

    @property
    def stats(self) -> Mapping[str, Any]:
        """The figures that the stage left."""
        return self.manifest["stats"]


class Store:
    """Artifacts under one root.

    Args:
        root: local directory, ``file://`` URI, or any URI that pyarrow or fsspec can open.
        cache: local directory for the artifacts of a remote root; by default one below ``~/.cache/dig_ray``.

    Raises:
        UserError: the root cannot be made or written to.
    """

    def __init__(self, root: str | Path, cache: str | Path | None = None) -> None:
        self.root = str(root)
        self.remote: Remote | None = open_remote(self.root)
        if self.remote is None:
            self.local = Path(self.root.removeprefix("file://")).expanduser().absolute()
        else:
            name = hashlib.sha256(self.root.encode()).hexdigest()[:16]
            default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dig_ray" / name
            self.local = Path(cache) if cache else default
        self._prepare()

    # --- names ---------------------------------------------------------------------------------------

    def directory(self, stage: str, fingerprint: str) -> Path:
        """Local directory of an artifact, published or not; names that could leave the root are refused."""
        if not _NAME.fullmatch(stage) or not _FINGERPRINT.fullmatch(fingerprint):
            raise UserError(f"{stage!r}/{fingerprint!r} does not name an artifact of {self.root}")
        return self.local / stage / fingerprint

    def location(self, stage: str, fingerprint: str) -> str:
        """The same for people: a path, or a URI."""
        path = self.directory(stage, fingerprint)
        return str(path) if self.remote is None else f"{self.root.rstrip('/')}/{stage}/{fingerprint}"

    def work(self, stage: str, fingerprint: str) -> str:
        """Where a stage keeps what must survive a kill: a local directory, or a URI of a remote store."""
        name = f".work/{self.directory(stage, fingerprint).parent.name}-{fingerprint}"
        return str(self.local / name) if self.remote is None else f"{self.root.rstrip('/')}/{name}"

    @property
    def kept(self) -> str:
        """Where stages keep what outlives their artifacts: a local directory, or a URI of a remote store."""
        return str(self.local / ".kept") if self.remote is None else f"{self.root.rstrip('/')}/.kept"

    @contextmanager
    def hold(self, name: str, log: Callable[[str], None] = print) -> Iterator[None]:
        """Hold a lock of this store by name; waits while another run has it, and says so."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a lock")
        with self._locked(name, f"{name} in {self.root}", True, log):
            yield

    @contextmanager
    def _locked(
        self, name: str, what: str, wait: bool, log: Callable[[str], None]
    ) -> Iterator[RemoteLock | None]:
        """Hold a lock; where another run has it, wait for it, or raise ``HeldError``. Gives the remote one, if any."""
        waiting = False
        while True:
            with ExitStack() as locks:
                try:
                    locks.enter_context(LocalLock(self.local / ".locks" / f"{name}.lock", what))
                    remote = RemoteLock(self.remote, name, what) if self.remote is not None else None
                    if remote is not None:
                        locks.enter_context(remote)
                except HeldError as held:
                    if not wait:
                        raise
                    if not waiting:
                        log(f"waiting: {held.by} works on {what}")
                    waiting = True
                else:
                    yield remote
                    return
            time.sleep(HOLD_POLL_S)

    # --- reading -------------------------------------------------------------------------------------

    def find(self, stage: str, fingerprint: str) -> Artifact | None:
        """A published artifact, checked against its manifest, or None.

        Sizes are checked every time. Checksums are taken once, and again for a file whose size, time or
        inode has changed since.

        Raises:
            UserError: it is there but was edited, truncated, lost a file, or may not be read by us.
        """
        path = self.directory(stage, fingerprint)
        if self.remote is not None:
            self._fetch(stage, fingerprint)
        try:
            if not (path / MANIFEST).is_file():
                return None
            if self.remote is None:
                return self._verify(stage, fingerprint)
        except PermissionError as error:
            raise UserError(explain_refusal(error, self.local) or refusal(path, self.local)) from None
        try:
            return self._verify(stage, fingerprint)
        except UserError:  # the cache was damaged, which the store can mend
            remove_tree(path)
            self._fetch(stage, fingerprint)
            return self._verify(stage, fingerprint)

    def has(self, stage: str, fingerprint: str) -> bool:
        """Whether an artifact seems to be published, without looking at its files; ``find`` is who knows."""
        if os.path.isfile(self.directory(stage, fingerprint) / MANIFEST):
            return True
        return self.remote is not None and self.remote.read(f"{stage}/{fingerprint}/{MANIFEST}") is not None

    def listed_files(self, stage: str, fingerprint: str) -> Mapping[str, Any] | None:
        """The files a local manifest lists, unverified; None if there is no readable one."""
        try:
            return json.loads((self.directory(stage, fingerprint) / MANIFEST).read_bytes())["files"]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _fetch(self, stage: str, fingerprint: str) -> None:
        """Bring a remote artifact into the cache, unless the same manifest is there already.

        Raises:
            UserError: the store does not answer, or lacks a file or holds another than the manifest lists.
        """
        assert self.remote is not None
        path, name = self.directory(stage, fingerprint), f"{stage}/{fingerprint}"
        cached = _read(path / MANIFEST)
        there = self.remote.read(f"{name}/{MANIFEST}")
        if there == cached:
            return
        with self._locked_cache(stage, fingerprint):
            if there is None:  # deleted there, so it is to be made again
                if _read(path / MANIFEST) == cached:
                    remove_tree(path)
                return
            aside = free_staging_dir(self.local / ".staging", f"fetch-{stage}-{fingerprint}")
            try:
                for _ in range(FETCHES):
                    there = self.remote.read(f"{name}/{MANIFEST}")
                    if there is None or there == _read(path / MANIFEST):
                        return
                    wrong = self._download(name, there, aside)
                    if not wrong:
                        (aside / MANIFEST).write_bytes(there)
                        remove_tree(path)
                        self._move_in(aside, path)
                        return
                    time.sleep(FETCH_PAUSE_S)
            except OSError as error:
                if is_out_of_space(error):
                    raise _no_space(f"fetching {stage} to {self.local}", "free space there") from None
                raise UserError(f"{self.root}/{name} cannot be fetched to {self.local}: {error}") from None
            finally:
                remove_tree(aside)
        raise UserError(f"{wrong}; delete {self.root}/{name} to have it rebuilt, or force the stage {stage}")

    def _download(self, name: str, raw: bytes, aside: Path) -> str:
        """Fetch the files that a manifest lists; what is wrong with them in the store, or ""."""
        assert self.remote is not None
        manifest = parse_manifest(raw, f"{self.root}/{name}/{MANIFEST}")
        folder = f"{name}/{_upload_name(manifest)}"
        try:
            self.remote.download_all(folder, manifest["files"], aside)
        except FileNotFoundError as error:
            lost = next((n for n in manifest["files"] if n in str(error)), "a file")
            return f"{self.root}/{folder}/{lost} is missing"
        for file, listed in manifest["files"].items():
            if sha256_file(aside / file) != listed["sha256"]:
                return f"{self.root}/{folder}/{file} was changed after it was published"
        return ""

    @contextmanager
    def _locked_cache(self, stage: str, fingerprint: str) -> Iterator[None]:
        """Be the only process of this machine that puts this artifact into the cache."""
        lock = LocalLock(self._lock_path(f"fetch-{stage}", fingerprint), f"{stage} {fingerprint}")
        while not lock.try_acquire():
            time.sleep(HOLD_POLL_S)
        try:
            yield
        finally:
            lock.release()

    def _verify(self, stage: str, fingerprint: str) -> Artifact:
        path = self.directory(stage, fingerprint)
        where = self.location(stage, fingerprint)
        cure = f"delete {where} to have it rebuilt, or force the stage {stage}"
        manifest = parse_manifest((path / MANIFEST).read_bytes(), f"{where}/{MANIFEST}", cure)
        recipe = manifest["recipe"]
        named = manifest["fingerprint"] if manifest.get("redacted") else hash_json(recipe)[:16]
        if named != fingerprint or recipe.get("stage") != stage:
            raise UserError(
                f"{where}/{MANIFEST} describes another artifact than {stage}/{fingerprint}; {cure}"
            )
        verdict_path = self.local / ".verified" / f"{stage}-{fingerprint}.json"
        try:
            known = json.loads(verdict_path.read_text())
        except (OSError, ValueError):
            known = {}
        verdict: dict[str, Any] = {}
        for name, listed in manifest["files"].items():
            file = path / safe_relative(name)
            try:
                stat = file.lstat()
            except OSError:
                raise UserError(f"{where}/{name} is missing; {cure}") from None
            if file.is_symlink() or not file.is_file():
                raise UserError(f"{where}/{name} is not a plain file; {cure}")
            if stat.st_size != listed["bytes"]:
                raise UserError(
                    f"{where}/{name} has {stat.st_size} bytes where {listed['bytes']} were published; {cure}"
                )
            mark = [listed["sha256"], stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
            if known.get(name) != mark and sha256_file(file) != listed["sha256"]:
                raise UserError(f"{where}/{name} was changed after it was published; {cure}")
            verdict[name] = mark
        if verdict != known:
            with suppress(OSError):  # a verdict only saves time
                make_shared(verdict_path.parent, self.local)
                write_json(verdict_path, verdict)
        return Artifact(stage, fingerprint, path, where, manifest)

    # --- building ------------------------------------------------------------------------------------

    def build(
        self,
        recipe: Recipe,
        run: Callable[[Stage], None],
        force: bool = False,
        log: Callable[[str], None] = print,
        before: Callable[[], None] | None = None,
        wait: bool = False,
        report: Callable[[Mapping[str, float]], None] | None = None,
    ) -> tuple[Artifact, bool]:
        """The artifact of a recipe: found if it is published, else made by ``run`` and published.

        Args:
            recipe: what to make.
            run: writes the outputs to ``stage.out``.
            force: make it again although it is there; the old one stays until the new one is complete.
            log: prints one line.
            before: called just before ``run``, if it is needed at all.
            wait: while another run makes the same artifact, instead of refusing.
            report: gets a training run's figures while it runs.

        Returns:
            the artifact, and whether it was made now.

        Raises:
            UserError: what ``run`` raises, another run is building the same artifact, or no space is left.
        """
        stage, fingerprint = recipe.stage, recipe.fingerprint
        if not force:
            found = self.find(stage, fingerprint)
            if found is not None:
                return found, False
        self._may_publish(stage)
        name = f"{stage}-{fingerprint}"
        with self._locked(name, f"{stage} {fingerprint} in {self.root}", wait, log) as lock:
            if not force and (found := self.find(stage, fingerprint)) is not None:
                return found, False  # another run finished it meanwhile
            self._collect(stage, fingerprint)
            out = free_staging_dir(self.local / ".staging", f"{stage}-{fingerprint}")
            work = self.work(stage, fingerprint)
            handle = Stage(
                stage, fingerprint, recipe.seed, out, work, {}, log, self.kept, partial(self.hold, log=log)
            )
            if report is not None:
                handle.report = report
            try:
                if self.remote is None:
                    make_shared(Path(work), self.local)
                if before is not None:
                    before()
                started = time.perf_counter()
                run(handle)
                self._publish(recipe, handle, time.perf_counter() - started, lock)
            except BaseException as error:
                remove_tree(out)
                if isinstance(error, Exception) and is_out_of_space(error):
                    raise _no_space(f"writing {stage} to {self.root}", "free space there") from error
                plain = isinstance(error, UserError) or not isinstance(error, Exception)
                sentence = None if plain else self._explained(error)
                if sentence is not None:
                    raise UserError(sentence) from error
                raise
            if self.remote is None:
                remove_tree(Path(work))
            else:
                self.remote.remove(f".work/{stage}-{fingerprint}")
        return self._verify(stage, fingerprint), True

    def _may_publish(self, stage: str) -> None:
        """Refuse a stage whose directory is closed to us before it has worked for hours."""
        folder = self.local / stage
        if folder.exists() and not os.access(folder, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
            raise UserError(refusal(folder, self.local))

    def _explained(self, error: BaseException) -> str | None:
        """What the disk or the object store of this store said behind an error, in one sentence; None where it said nothing."""
        return explain_behind(error, self.root) or explain_refusal(error, self.local)

    def _publish(self, recipe: Recipe, handle: Stage, seconds: float, lock: RemoteLock | None) -> None:
        """Data files first, then the manifest, then one rename (or, remote, the manifest's upload)."""
        out, stage, fingerprint = handle.out, handle.name, handle.fingerprint
        files = {}
        for path in sorted(out.rglob("*")):
            if path.is_symlink():
                raise UserError(
                    f"stage {stage} wrote a symbolic link, {path.name}; artifacts hold plain files"
                )
            if path.is_file():
                name = path.relative_to(out).as_posix()
                safe_relative(name)
                files[name] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        files.pop(MANIFEST, None)
        if not files:
            raise UserError(f"stage {stage} wrote no file, so there is nothing to publish")
        manifest = make_manifest(recipe, handle.stats, files, seconds)
        fsync_tree(out)
        write_json(out / MANIFEST, manifest)
        target = self.directory(stage, fingerprint)
        if self.remote is None:
            self._move_in(out, target)
            return
        assert lock is not None
        name, upload = f"{stage}/{fingerprint}", manifest["checksum"][:16]
        self.remote.upload_all(out, files, f"{name}/{upload}")
        lock.check()
        self.remote.upload(out / MANIFEST, f"{name}/{MANIFEST}")
        with self._locked_cache(stage, fingerprint):
            self._move_in(out, target)
        for other in self.remote.list(name):  # replaced by this one, or left by the dead
            if other not in (upload, MANIFEST):
                self.remote.remove(f"{name}/{other}")

    def _move_in(self, aside: Path, target: Path) -> None:
        """Rename a complete directory into place; a directory already there steps aside first."""
        make_shared(target.parent, self.local)
        old = None
        if target.exists():
            old = self.local / ".staging" / f"{target.parent.name}-{target.name}-old"
            remove_tree(old)
            target.rename(old)
        aside.rename(target)
        fsync_tree(target.parent, files=False)
        if old is not None:
            remove_tree(old)

    # --- housekeeping --------------------------------------------------------------------------------

    def _lock_path(self, stage: str, fingerprint: str) -> Path:
        return self.local / ".locks" / f"{stage}-{fingerprint}.lock"

    def _prepare(self) -> None:
        """Make the root, try to write to it, and collect what dead processes left in staging."""
        try:
            for name in (".staging", ".locks", ".work"):
                make_shared(self.local / name, self.local)
                if not os.access(self.local / name, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
                    raise UserError(refusal(self.local / name, self.local))
            probe = self.local / ".staging" / f"probe-{os.getpid()}"
            probe.write_text("writable")
            probe.unlink()
        except OSError as error:
            if is_out_of_space(error):
                raise _no_space(f"writing to store {self.local}", "free space there") from None
            there = next(path for path in (self.local, *self.local.parents) if path.exists())
            whose = f", {there} belongs to {owner(there)}" if error.errno in REFUSED else ""
            raise UserError(
                f"store {self.local} cannot be written to ({error.strerror}{whose}); set store= to one that can"
            ) from None
        if self.remote is not None:
            self.remote.probe()
        for path in sorted((self.local / ".staging").iterdir()):
            match = re.fullmatch(r"(.+)-([0-9a-f]{16})-(\d+|old)", path.name)
            if not match:
                continue
            lock = LocalLock(self._lock_path(match[1], match[2]), path.name)
            if lock.try_acquire():
                try:
                    self._collect(match[1], match[2])
                finally:
                    lock.release()

    def _collect(self, stage: str, fingerprint: str) -> None:
        """Remove what a dead builder left in staging. The caller holds the artifact's lock, so it is dead."""
        target = self.directory(stage, fingerprint)
        for path in (self.local / ".staging").glob(f"{stage}-{fingerprint}-*"):
            if path.name.endswith("-old") and not target.exists() and (path / MANIFEST).is_file():
                make_shared(target.parent, self.local)
                path.rename(target)  # died between the two renames of a forced rebuild
            else:
                remove_tree(path)


def _upload_name(manifest: Mapping[str, Any]) -> str:
    """The folder of the files that a parsed manifest lists, beside it in a remote store."""
    return hash_json(manifest)[:16]


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def remove_tree(path: Path) -> None:
    """Remove a directory tree or a file; nothing there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _no_space(doing: str, cure: str) -> UserError:
    return UserError(f"{NO_SPACE} {doing}; {cure} and run again, what was published before is intact")
