"""What a search leaves in its storage, a local folder or a URI, and what of it is kept."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from dig_ray.artifacts.folders import explain_behind, is_uri, list_files, open_folder
from dig_ray.artifacts.store import is_out_of_space
from dig_ray.errors import UserError, causes

REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
FULL = 64 * 1024
"""Bytes free below which a place is full: what Tune could not write there it may only miss later, as a broken file."""


@contextmanager
def written_to(where: str) -> Iterator[None]:
    """Say in one sentence that a storage is full, refuses what is written, or is an object store that is down.

    Raises:
        UserError: so it is.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if any(is_out_of_space(one) for one in causes(error)) or _is_full(where):
            raise UserError(
                f"{where}: no space left; free some or set store= to another place, and run the same command again"
            ) from None
        refused = next((o for o in causes(error) if isinstance(o, OSError) and o.errno in REFUSED), None)
        if refused is not None:
            raise UserError(
                f"{refused.filename or where} cannot be written to ({refused.strerror}); set store= to one that can"
            ) from None
        if sentence := explain_behind(error, where):
            raise UserError(sentence) from None
        raise


def _is_full(where: str) -> bool:
    return not is_uri(where) and Path(where).exists() and shutil.disk_usage(where).free < FULL


def kept_files(work: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """TensorBoard's event files, trials' lines and traces as (name, what opens it): ``tensorboard/...`` and ``logs/...``."""
    system, _ = open_folder(work)
    for name, entry in list_files(work, recursive=True).items():
        opened = partial(system.open_input_stream, entry.path)
        if entry.is_file and entry.base_name.startswith("events.out.tfevents"):
            yield f"tensorboard/{name}", opened
        elif entry.is_file and entry.base_name.endswith(".log") and "-notes/" in name:
            yield f"logs/{name.replace('-notes/', '/')}", opened
        elif entry.is_file and entry.base_name == "error.txt":
            yield f"logs/{PurePosixPath(name).parent}.trace", opened
