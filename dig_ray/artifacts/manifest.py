"""What an artifact is called and what is written beside it: recipes, hashes, manifests.

A manifest says how a table came to be: config, fingerprints of the inputs, code, package versions, seed, wall
time, split, and size and sha256 of every file. A number without its manifest is not a result. It carries a
checksum of its own, so that an edit by hand shows, and never the value of a secret environment variable.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dig_ray import __version__
from dig_ray.artifacts.store_files import safe_relative, sha256_file, write_json
from dig_ray.errors import UserError
from dig_ray.guards.redaction import redact

FORMAT = 1
_PACKAGES = (
    "accelerate",
    "datasets",
    "numpy",
    "open_clip_torch",
    "pandas",
    "peft",
    "pyarrow",
    "ray",
    "scikit-learn",
    "sentence-transformers",
    "torch",
    "transformers",
    "trl",
)


@dataclass(frozen=True)
class Recipe:
    """All that decides an artifact's content; its hash is the artifact's name.

    Attributes:
        stage: stage name.
        config: JSON-able settings of the stage.
        inputs: input name -> fingerprint of that artifact.
        code: hash of the code the stage depends on.
        seed: seed of the stage, 0 where it draws nothing.
        files: purpose and name -> sha256 of files from outside the store.
    """

    stage: str
    config: Mapping[str, Any]
    inputs: Mapping[str, str] = field(default_factory=dict)
    code: str = ""
    seed: int = 0
    files: Mapping[str, str] = field(default_factory=dict)

    def payload(self) -> dict[str, Any]:
        """What is hashed, as it is: settings hold the names of secrets and never their values, so nothing is taken out here."""
        found: dict[str, Any] = plain(
            {
                "format": FORMAT,
                "stage": self.stage,
                "config": dict(self.config),
                "inputs": dict(self.inputs),
                "code": self.code,
                "seed": self.seed,
                "files": dict(self.files),
            }
        )
        return found

    @property
    def fingerprint(self) -> str:
        """16 hex digits."""
        return hash_json(self.payload())[:16]


def canonical_json(value: Any) -> str:
    """One text per value: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def hash_json(value: Any) -> str:
    """sha256 of the canonical JSON, hex."""
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()


def make_manifest(
    recipe: Recipe, stats: Mapping[str, Any], files: Mapping[str, Any], seconds: float
) -> dict[str, Any]:
    """What stands beside an artifact; its own checksum shows an edit by hand."""
    stats = plain(stats)
    body = {
        "stage": recipe.stage,
        "fingerprint": recipe.fingerprint,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
        "split_name": stats.get("split_name"),
        "split_hash": stats.get("split_hash"),
        "stats": stats,
        "versions": package_versions(),
        "files": dict(files),
    }
    kept = recipe.payload()
    shown = kept | {
        "config": redact(kept["config"])
    }  # a setting may hold by chance what an environment variable holds
    body |= {"stats": redact(stats), "recipe": shown, "redacted": shown != kept}
    return body | {"checksum": hash_json(body)}


def parse_manifest(
    raw: bytes, where: str, cure: str = "delete the artifact to have it rebuilt"
) -> dict[str, Any]:
    try:
        manifest = json.loads(raw)
        checksum = manifest.pop("checksum")
        whole = checksum == hash_json(manifest)
        for name in manifest["files"]:
            safe_relative(name)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{where} is damaged; {cure}") from None
    if not whole:
        raise UserError(f"{where} was edited after it was published; {cure}")
    return manifest


def package_versions() -> dict[str, str]:
    """Versions of dig_ray, Python, and the packages that results depend on."""
    versions = {"dig_ray": __version__, "python": ".".join(map(str, sys.version_info[:3]))}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def plain(value: Any) -> Any:
    """JSON-able copy: numpy scalars, arrays, tuples and paths become plain; NaN and infinity become None."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(inner) for inner in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)


def hash_input_files(files: Mapping[str, str | Path], verdicts: Path | None = None) -> dict[str, str]:
    """sha256 of files from outside, remembering hashes of unchanged files in ``verdicts``.

    Args:
        files: what each file is for -> its path. Only the path's last part enters the result, so that a file may move.

    Raises:
        UserError: a file is missing or cannot be read.
    """
    known: dict[str, Any] = {}
    if verdicts is not None and verdicts.is_file():
        try:
            known = json.loads(verdicts.read_text())
        except (OSError, ValueError):
            known = {}
    result, changed = {}, False
    for purpose, path in sorted((purpose, Path(p)) for purpose, p in files.items()):
        try:
            stat = path.stat()
            if not path.is_file() and not path.is_dir():  # reading a pipe would wait for ever
                raise UserError(f"input file {path} is a pipe or device and no file; correct the path")
            mark = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
            key = str(path.resolve())
            entry = known.get(key)
            if not entry or entry[0] != mark:
                known[key] = entry = [mark, sha256_file(path)]
                changed = True
        except OSError as error:
            raise UserError(f"input file {path} cannot be read: {error.strerror}; correct the path") from None
        result[f"{purpose}: {path.name}"] = entry[1]
    if verdicts is not None and changed:
        with suppress(OSError):  # a verdict only saves time
            write_json(verdicts, known)
    return result
