"""What a search leaves in its storage, a local folder or a URI, and what of it is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import PurePosixPath
from typing import Any


def kept_files(work: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """TensorBoard's event files and trials' lines as (name, what opens it): ``tensorboard/...`` and ``logs/...``."""
    from pyarrow.fs import FileSelector, FileSystem

    system, base = FileSystem.from_uri(work)
    for entry in system.get_file_info(FileSelector(base, recursive=True, allow_not_found=True)):
        name = PurePosixPath(entry.path).relative_to(PurePosixPath(base)).as_posix()
        opened = partial(system.open_input_stream, entry.path)
        if entry.is_file and entry.base_name.startswith("events.out.tfevents"):
            yield f"tensorboard/{name}", opened
        elif entry.is_file and entry.base_name.endswith(".log") and "-notes/" in name:
            yield f"logs/{name.replace('-notes/', '/')}", opened
