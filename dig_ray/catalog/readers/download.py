"""Fetch a named release: resumed where it broke off, and never silently another file than last time.

Transfer, retries and Range requests are huggingface_hub's. The publishers give no checksums, so the first download's
sha256 is written beside the file (``NAME.sha256``, as ``sha256sum`` writes it) and checked ever after; a config may pin it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from dig_ray.catalog.config import CatalogConfig
from dig_ray.catalog.readers.files import GZIP
from dig_ray.errors import UserError
from dig_ray.guards.redaction import hide

BASES = {
    "amazon14": "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles",
    "amazon18": "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2",
    "amazon23": "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/raw",
}


def release_urls(source: str, name: str, core: bool = True, base_url: str | None = None) -> tuple[str, str]:
    """Where the reviews and the metadata of a release lie."""
    base = (base_url or BASES[source]).rstrip("/")
    if source == "amazon14":
        return f"{base}/reviews_{name}{'_5' if core else ''}.json.gz", f"{base}/meta_{name}.json.gz"
    if source == "amazon18":
        reviews = f"categoryFilesSmall/{name}_5.json.gz" if core else f"categoryFiles/{name}.json.gz"
        return f"{base}/{reviews}", f"{base}/metaFiles2/meta_{name}.json.gz"
    return f"{base}/review_categories/{name}.jsonl.gz", f"{base}/meta_categories/meta_{name}.jsonl.gz"


def fetch_release(config: CatalogConfig, log: Callable[[str], None] = print) -> tuple[Path, Path]:
    """The reviews and the metadata file of ``config.download``, fetched unless they are there.

    Raises:
        UserError: see :func:`fetch`.
    """
    assert config.download is not None
    wanted = config.download
    directory = Path(wanted.directory) / config.source
    urls = release_urls(config.source, wanted.name, wanted.core, wanted.base_url)
    paths = [directory / url.rpartition("/")[2] for url in urls]
    for name in wanted.sha256:
        if name not in {path.name for path in paths}:
            raise UserError(
                f"catalog.download.sha256 pins {name!r}, which is no file of this release; its files are "
                f"{' and '.join(path.name for path in paths)}"
            )
    for url, path in zip(urls, paths, strict=True):
        fetch(url, path, wanted.sha256.get(path.name), log)
    return paths[0], paths[1]


def fetch(url: str, target: Path, sha256: str | None = None, log: Callable[[str], None] = print) -> Path:
    """Download to ``target`` and check it; a file that is there is only checked.

    What a broken download left (``NAME.part``) is continued if the server still has the same file.

    Args:
        url: http or https.
        target: the file to be.
        sha256: pinned checksum; without one, that of the first download.
        log: prints one line of progress.

    Raises:
        UserError: no connection, the server refuses or sends something else, the checksum is another one, or the folder cannot be
            written.
    """
    from filelock import FileLock

    shown = hide(url)
    sidecar = target.with_name(target.name + ".sha256")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(str(target) + ".lock"):
            if target.exists():
                _check(target, sidecar, sha256)
                return target
            part = target.with_name(target.name + ".part")
            _transfer(url, part, log)
            digest = _sha256(part)
            wrong = (
                f"the download has sha256 {digest}, but catalog.download.sha256 pins {(sha256 or '').lower()}"
            )
            if sha256 and digest != sha256.lower():
                _forget(part)
                raise UserError(f"{shown}: {wrong}; correct the pin or the url")
            _refuse_a_page(part, target, shown)
            sidecar.write_text(f"{digest}  {target.name}\n", encoding="utf-8")
            os.replace(part, target)
            _state(part).unlink(missing_ok=True)
            size = target.stat().st_size / 1e6
            log(f"catalog: fetched {target.name}, {size:,.1f} MB, sha256 {digest[:12]}")
    except OSError as error:
        raise UserError(
            f"{target}: cannot be written or read ({error.strerror or error}); correct catalog.download.directory or its rights"
        ) from None
    return target


def _check(target: Path, sidecar: Path, sha256: str | None) -> None:
    """A file that is there is the one that was pinned or first fetched; without any record this is the first time."""
    digest = _sha256(target)
    known = sidecar.read_text(encoding="utf-8", errors="replace").split()[:1] if sidecar.exists() else []
    expected = sha256.lower() if sha256 else known[0] if known else None
    if expected is None:
        sidecar.write_text(f"{digest}  {target.name}\n", encoding="utf-8")
    elif digest != expected:
        where = "catalog.download.sha256" if sha256 else str(sidecar)
        raise UserError(
            f"{target}: has sha256 {digest}, but {where} says {expected}; delete the file to fetch it again"
        )


def _refuse_a_page(part: Path, target: Path, shown: str) -> None:
    """A page that says "not found" with status 200 is no release: it must not be kept as one.

    Raises:
        UserError: the name says gzip and the bytes are something else.
    """
    with part.open("rb") as file:
        head = file.read(64)
    if target.suffix == ".gz" and not head.startswith(GZIP):
        _forget(part)
        text = head.decode("utf-8", "replace").split("\n")[0]
        raise UserError(f"{shown}: the server sent {text!r}... and no gzip file; correct the name or the url")


def _forget(part: Path) -> None:
    part.unlink()
    _state(part).unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _state(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _transfer(url: str, part: Path, log: Callable[[str], None]) -> None:
    """Complete ``part``, from where it ends if it belongs to the file that the server has now."""
    import httpx2
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import get_session

    headers = {"Accept-Encoding": "identity"}  # a byte range of the file, not of a compressed transfer
    try:
        head = get_session().head(url, headers=headers, follow_redirects=True, timeout=30)
        head.raise_for_status()
        length = head.headers.get("content-length", "")
        size = int(length) if length.isascii() and length.isdigit() and len(length) < 19 else None
        now = {
            "url": url,
            "size": size,
            "version": head.headers.get("etag") or head.headers.get("last-modified"),
        }
        start = part.stat().st_size if part.exists() else 0
        if start and (
            _read_state(part) != now or now["version"] is None or (size is not None and start > size)
        ):
            log(f"catalog: {part.name} belongs to another version of the file, starting over")
            part.unlink()
            start = 0
        _state(part).write_text(json.dumps(now), encoding="utf-8")
        if start:
            log(
                f"catalog: resuming {part.name} at {start / 1e6:,.1f} MB"
                + (f" of {size / 1e6:,.1f} MB" if size else "")
            )
        with part.open("ab") as file:
            http_get(url, file, resume_size=start, headers=headers, expected_size=size)
    except (httpx2.HTTPError, OSError) as error:
        reason = hide(str(error) or type(error).__name__).split("\n")[0][:200]
        raise UserError(
            f"{hide(url)}: the download did not complete ({reason}); run again to resume it, or fetch it by hand"
        ) from None


def _read_state(part: Path) -> object:
    try:
        return json.loads(_state(part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
