"""One checkpoint file in a directory or URI: written aside and renamed, read without unpickling code."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dig_ray.errors import UserError


def write(work: str, name: str, signature: str, state: dict[str, Any]) -> None:
    """Replace ``work/name`` by ``state`` (tensors, numbers, strings and containers of them).

    A kill leaves the old file or the new one. ``signature`` says which settings it belongs to.
    """
    import torch

    buffer = io.BytesIO()
    torch.save({"signature": signature, "state": state}, buffer)
    filesystem, root = _open(work)
    filesystem.create_dir(root, recursive=True)
    aside = f"{root}/{name}.partial"
    with filesystem.open_output_stream(aside) as stream:
        stream.write(buffer.getbuffer())
    if "://" not in work:  # a rename is only as durable as the bytes under it
        with open(aside, "rb+") as file:
            os.fsync(file.fileno())
    filesystem.move(aside, f"{root}/{name}")


def read(work: str, name: str, signature: str, log: Callable[[str], None]) -> dict[str, Any] | None:
    """The state in ``work/name``, or None where there is none or it belongs to other settings.

    Raises:
        UserError: the file is truncated or holds something else.
    """
    import pickle

    import torch
    from pyarrow.fs import FileType

    filesystem, root = _open(work)
    path = f"{root}/{name}"
    if filesystem.get_file_info(path).type != FileType.File:
        return None
    with filesystem.open_input_stream(path) as stream:
        data = stream.read()
    try:
        saved = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        found, state = saved["signature"], saved["state"]
    except (RuntimeError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
        raise UserError(
            f"checkpoint {path} is truncated or damaged; delete it to train from the start"
        ) from error
    if found != signature:
        log(f"{path} belongs to other settings; training starts anew")
        return None
    return state


def _open(work: str) -> tuple[Any, str]:
    from pyarrow.fs import FileSystem, LocalFileSystem

    if "://" in work:
        filesystem, root = FileSystem.from_uri(work)
        return filesystem, root.rstrip("/")
    return LocalFileSystem(), str(Path(work).absolute())
