"""Folders on a disk or behind a URI: one way to open them, and to read and write small files in them.

An object store stumbles: it asks to be left alone, resets connections, is down for some seconds. What is done here is
tried again for ``PATIENCE_S``, and what is no stumble becomes a sentence that says what to set. Addresses and keys of a
store come from the environment alone (``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID`` ...), as Ray Train and Tune read them
there too.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from dig_ray.errors import UserError, causes
from dig_ray.guards.redaction import hide

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

T = TypeVar("T")
PATIENCE_S = 60.0
"""Seconds for which a store that stumbles is asked again."""
OBJECT_STORES = ("s3", "gs", "gcs")
"""Schemes without directories, whose objects appear whole when their upload ends."""
_STUMBLE = re.compile(
    r"AWS Error (NETWORK_CONNECTION|SLOW_DOWN|THROTTLING|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|REQUEST_TIMEOUT\w*|CLIENT_\w+)|"
    r"HTTP status (408|429|5\d\d)|curlCode|"
    r"google::cloud::Status\((UNAVAILABLE|DEADLINE_EXCEEDED|INTERNAL|RESOURCE_EXHAUSTED|ABORTED)|"
    r"Connection (reset|refused|aborted)|timed out",
    re.IGNORECASE,
)
_NO_BUCKET = re.compile(r"NO_SUCH_BUCKET|Bucket '.*' not found|bucket does not exist", re.IGNORECASE)
_REFUSED = re.compile(
    r"AWS Error (ACCESS_DENIED|INVALID_ACCESS_KEY_ID|INVALID_CLIENT_TOKEN_ID|SIGNATURE_DOES_NOT_MATCH|UNRECOGNIZED_CLIENT|"
    r"MISSING_AUTHENTICATION_TOKEN|EXPIRED_TOKEN|INVALID_SIGNATURE|NOT_SIGNED_IN)|HTTP status 40[13]|PERMISSION_DENIED|UNAUTHENTICATED",
    re.IGNORECASE,
)
_CODE = re.compile(r"AWS Error (\w+)|google::cloud::Status\((\w+)|(HTTP status \d+)")
_SET = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE), and AWS_ENDPOINT_URL where the store is not Amazon's",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
}
_SET["gcs"] = _SET["gs"]


def is_uri(folder: str) -> bool:
    """Whether a folder is not on a disk of this machine."""
    return "://" in folder and not folder.startswith("file://")


def is_object_store(folder: str) -> bool:
    """Whether a folder is in S3 or Google Cloud Storage, or in what speaks like them."""
    return folder.partition("://")[0] in OBJECT_STORES


def open_folder(folder: str) -> tuple[FileSystem, str]:
    """The file system of a folder (local directory or URI), and the folder's path in it.

    Raises:
        UserError: nobody knows the scheme, its package is not installed, there is no such bucket, or the URI holds more than an address.
    """
    from pyarrow.fs import LocalFileSystem

    if not is_uri(folder):
        return LocalFileSystem(), str(Path(folder.removeprefix("file://")).expanduser().absolute())
    if not is_object_store(folder):
        return _open(folder)
    parts = urlsplit(folder)
    if parts.query or parts.fragment or parts.password or (parts.username and parts.username != "anonymous"):
        bare = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        raise UserError(
            f"store {bare}: an address is a bucket and a path and nothing else; set {_SET[parts.scheme]} in the environment"
        )
    system, bucket = _object_store(parts.scheme, parts.netloc, *map(os.environ.get, _ENDPOINTS))
    return system, f"{bucket}/{parts.path.strip('/')}".rstrip("/")


_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "CLOUD_STORAGE_EMULATOR_ENDPOINT")


@cache
def _object_store(scheme: str, bucket: str, *endpoints: str | None) -> tuple[FileSystem, str]:
    """A bucket's file system, opened once a process: on Amazon's that asks where the bucket is."""
    # without it every object, however small, is uploaded in three requests
    query = "?allow_delayed_open=true" if scheme == "s3" else f"?retry_limit_seconds={PATIENCE_S:.0f}"
    # an emulator knows nobody, and asking Google for a token first takes minutes where there is none
    user = "anonymous@" if scheme != "s3" and endpoints[-1] and "@" not in bucket else ""
    return _open(f"{scheme}://{user}{bucket}{query}", f"{scheme}://{bucket}")


def _open(uri: str, shown: str = "") -> tuple[FileSystem, str]:
    from pyarrow import ArrowInvalid
    from pyarrow.fs import FileSystem, FSSpecHandler, PyFileSystem

    shown, address = hide(shown or uri, secrets=()), shown or uri
    try:
        system, path = FileSystem.from_uri(uri)
        return system, path.rstrip("/")
    except ArrowInvalid:
        pass  # not one of pyarrow's own; fsspec knows more
    except OSError as error:
        raise UserError(
            explain(error, shown) or f"store {shown} cannot be opened: {hide(str(error), secrets=())}"
        ) from None
    try:
        import fsspec

        other, path = fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise UserError(
            f"store {shown} cannot be opened: {hide(str(error), secrets=())}; give a local directory or a known URI"
        ) from None
    return PyFileSystem(FSSpecHandler(other)), path.rstrip("/")


def explain(error: BaseException, where: str) -> str | None:
    """What an object store's error means, in one sentence; None for any other error."""
    text = str(error)
    if not isinstance(error, OSError) or isinstance(error, FileNotFoundError):
        return None
    names = _SET.get(where.partition("://")[0].rpartition(" ")[2], "what its package reads")
    code = next((c for m in [_CODE.search(text)] if m for c in m.groups() if c), type(error).__name__)
    if _NO_BUCKET.search(text):
        return no_bucket(where)
    if _REFUSED.search(text):
        return f"{where} refuses what this run asks ({code}); set {names}, with the right to read, write, list and delete"
    if is_stumble(error):
        return f"{where} does not answer ({code}); see that it is up, check {names}, then run the same command again"
    return None


def no_bucket(where: str) -> str:
    """The sentence for a bucket that is not there."""
    return f"{where}: there is no such bucket; create it, or set store= to another place"


def explain_behind(error: BaseException, where: str) -> str | None:
    """What an object store said behind an error, also behind Ray's, in one sentence; None where it said nothing."""
    said = (explain(one, where) for one in causes(error) if is_object_store(where) and _CODE.search(str(one)))
    return next((sentence for sentence in said if sentence), None)


def is_stumble(error: BaseException) -> bool:
    """Whether an error of a store may be gone when it is asked again."""
    if isinstance(error, FileNotFoundError) or not isinstance(error, OSError):
        return False
    return isinstance(error, (ConnectionError, TimeoutError)) or bool(_STUMBLE.search(str(error)))


def patiently(action: Callable[[], T], where: str, seconds: float | None = None) -> T:
    """Do something with a store, again while it stumbles.

    Args:
        action: what may be done twice.
        where: the folder, for people.
        seconds: how long to be patient; ``PATIENCE_S`` by default.

    Raises:
        UserError: it stumbles for too long, refuses, or has no such bucket.
    """
    until = time.monotonic() + (PATIENCE_S if seconds is None else seconds)
    wait = 0.25
    while True:
        try:
            return action()
        except OSError as error:
            if not is_stumble(error) or time.monotonic() > until:
                sentence = explain(error, where)
                if sentence is None:
                    raise
                raise UserError(sentence) from None
        time.sleep(wait * random.uniform(0.5, 1.0))
        wait = min(2 * wait, 8.0)


# --- small files -------------------------------------------------------------------------------------------


def write_bytes(folder: str, name: str, content: Any) -> None:
    """Write ``folder/name`` whole or not at all: on a disk aside, synced and renamed; an object store does so by itself.

    Args:
        folder: local directory or URI; made where it is missing.
        name: the file's name.
        content: bytes or a buffer of bytes.
    """
    system, base = open_folder(folder)
    if is_uri(folder):
        patiently(lambda: put(system, f"{base}/{name}", content, is_object_store(folder)), folder)
        return
    target = Path(base) / name
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with open(aside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, target)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def put(system: FileSystem, path: str, content: Any, flat: bool) -> None:
    """Write a file at once; ``flat`` where there are no directories to make."""
    if not flat:
        system.create_dir(path.rpartition("/")[0], recursive=True)
    with system.open_output_stream(path) as stream:
        stream.write(content)


def read_bytes(folder: str, name: str) -> bytes | None:
    """Content of a small file of a folder (local directory or URI); None when there is none."""
    system, base = open_folder(folder)
    path = f"{base}/{name}"

    def read() -> bytes | None:
        # pyarrow asks an object store for an object's size and then for that many bytes: one that is replaced in between by a longer
        # one comes cut
        while True:
            try:
                with system.open_input_stream(path) as stream:
                    tag, content = stream.metadata(), bytes(stream.read())
                if not is_object_store(folder):
                    return content
                with system.open_input_stream(path) as stream:
                    if stream.metadata() == tag:
                        return content
            except FileNotFoundError:
                return None

    return patiently(read, folder)


def remove_file(folder: str, name: str) -> None:
    """Remove a file of a folder (local directory or URI); nothing there is fine."""
    system, base = open_folder(folder)

    def remove() -> None:
        try:
            system.delete_file(f"{base}/{name}")
        except FileNotFoundError:
            return

    patiently(remove, folder)


def list_files(folder: str, recursive: bool = False) -> Mapping[str, Any]:
    """Path below the folder -> pyarrow's ``FileInfo`` of all that is in a folder, directories too; {} where it is missing."""
    from pyarrow.fs import FileInfo, FileSelector, FileType

    system, base = open_folder(folder)
    deep = recursive or folder.startswith(
        ("gs://", "gcs://")
    )  # where a prefix alone is listed as no directory
    selector = FileSelector(base, recursive=deep, allow_not_found=True)
    found = {}
    for info in patiently(lambda: system.get_file_info(selector), folder):
        name = info.path[len(base) :].lstrip("/")
        first, below, _ = name.partition("/")
        if below and not recursive:
            name, info = first, FileInfo(f"{base}/{first}", FileType.Directory)
        found[name] = info
    return found
