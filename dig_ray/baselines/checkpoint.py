"""One checkpoint file in a directory or URI: written aside and renamed, read without unpickling code."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from dig_ray.artifacts.folders import read_bytes, write_bytes


def write(work: str, name: str, signature: str, state: dict[str, Any]) -> None:
    """Replace ``work/name`` by ``state`` (tensors, numbers, strings and containers of them).

    A kill leaves the old file or the new one. ``signature`` says which settings it belongs to.
    """
    import torch

    buffer = io.BytesIO()
    torch.save({"signature": signature, "state": state}, buffer)
    write_bytes(work, name, buffer.getbuffer())


def read(work: str, name: str, signature: str, log: Callable[[str], None]) -> dict[str, Any] | None:
    """The state in ``work/name``, or None where there is none, it belongs to other settings, or it is not whole, which ``log`` says."""
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
        why = "is empty" if not data else f"is truncated or damaged ({type(error).__name__})"
        log(f"the checkpoint {path} {why}; training begins again from step 0")
        return None
    if found != signature:
        log(f"{path} belongs to other settings; training starts anew")
        return None
    return state
