"""One checkpoint file in a directory or URI: written aside and renamed, read without unpickling code."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from dig_ray.errors import UserError
from dig_ray.folders import read_bytes, write_bytes


def write(work: str, name: str, signature: str, state: dict[str, Any]) -> None:
    """Replace ``work/name`` by ``state`` (tensors, numbers, strings and containers of them).

    A kill leaves the old file or the new one. ``signature`` says which settings it belongs to.
    """
    import torch

    buffer = io.BytesIO()
    torch.save({"signature": signature, "state": state}, buffer)
    write_bytes(work, name, buffer.getbuffer())


def read(work: str, name: str, signature: str, log: Callable[[str], None]) -> dict[str, Any] | None:
    """The state in ``work/name``, or None where there is none or it belongs to other settings.

    Raises:
        UserError: the file is truncated or holds something else.
    """
    import pickle

    import torch

    path = f"{work.rstrip('/')}/{name}"
    data = read_bytes(work, name)
    if data is None:
        return None
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
