"""The folder of a training run as Ray Train keeps it, mended where a kill or a full disk left files empty or cut off.

Ray Train writes its list of checkpoints in place, so a kill can empty it, and it reads a damaged one with an error, at every further
start. Here a copy of the list is kept beside it, written whole; before a run begins, checkpoints that are not whole are taken off the
list. What is left decides: training goes on from the latest whole checkpoint, or begins anew, and says which.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any

from dig_ray.artifacts.folders import list_files, open_folder, patiently, read_bytes, remove_file, write_bytes
from dig_ray.artifacts.whole_files import READ, damage

SNAPSHOT = "checkpoint_manager_snapshot.json"
"""Ray Train's list of checkpoints."""
COPY = "checkpoint_manager_snapshot.copy.json"
TRAINER_STATE = "checkpoint/trainer_state.json"
NEEDED = (TRAINER_STATE, "state.pt")
"""A checkpoint has the one, of transformers' trainer, or the other, of LDMI."""


def keep_copy(folder: str) -> None:
    """Copy Ray's list of checkpoints aside, whole; called whenever Ray has written it."""
    content = read_bytes(folder, SNAPSHOT)
    if content and _parsed(content) is not None:
        write_bytes(folder, COPY, content)


def mend(folder: str, name: str, log: Callable[[str], None]) -> None:
    """See that a run can go on from what its folder holds; nothing is done where there is nothing.

    Args:
        folder: the run's folder, a local directory or a URI.
        name: the stage's name, for the log.
        log: prints one line.
    """
    content = read_bytes(folder, SNAPSHOT)
    if content is None:
        return
    state = _parsed(content)
    if state is None:
        copy = read_bytes(folder, COPY)
        state = None if copy is None else _parsed(copy)
        log(
            f"{name}: {SNAPSHOT} of {folder}, the list of checkpoints, {'is empty' if not content else 'was cut off'}; "
            + ("its copy stands in" if state is not None else "nothing tells its checkpoints apart")
        )
    reasons: list[str] = []
    if state is not None:
        wrong = {one: _damage(f"{folder}/{one}") for one in _listed(state)}
        reasons = [f"{folder}/{one}/{said}" for one, said in wrong.items() if said]
        state = _without(state, {one for one, said in wrong.items() if said})
    for said in reasons:
        log(f"{name}: the checkpoint file {said}")
    if state is None:
        _empty(folder)
        log(f"{name}: no checkpoint is whole; training begins again from step 0")
        return
    if reasons or state != _parsed(content):
        write_bytes(folder, SNAPSHOT, json.dumps(state).encode())
        latest = state["latest_checkpoint_result"]["checkpoint_dir_name"]
        log(f"{name}: training goes on from {_place(f'{folder}/{latest}')}, the latest that is whole")


def place_of(checkpoint: Any) -> str:
    """Where training stands in a checkpoint of Ray Train, such as ``step 120``."""
    try:
        with checkpoint.filesystem.open_input_stream(f"{checkpoint.path}/{TRAINER_STATE}") as file:
            return f"step {json.loads(file.read())['global_step']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "its last checkpoint"


def _place(folder: str) -> str:
    content = read_bytes(folder, TRAINER_STATE)
    try:
        return f"step {json.loads(content or b'')['global_step']}"
    except (ValueError, KeyError, TypeError):
        return f"the checkpoint {PurePosixPath(folder).name}"


def _parsed(content: bytes) -> dict[str, Any] | None:
    """Ray's list as it stands, where it has what is read here; an empty list of checkpoints is none."""
    try:
        state = json.loads(content)
        names = _listed(state)
        indices = state["checkpoint_report_indices"]
        whole = len(indices) == len(state["checkpoint_results"]) and all(isinstance(n, str) for n in names)
    except (ValueError, KeyError, TypeError):
        return None
    return state if whole and names else None


def _listed(state: Mapping[str, Any]) -> list[str]:
    results = [*state["checkpoint_results"], state["latest_checkpoint_result"]]
    return sorted({one["checkpoint_dir_name"] for one in results if one is not None})


def _without(state: dict[str, Any], gone: set[str]) -> dict[str, Any] | None:
    """The list without some checkpoints, the latest of the others as the latest; None where no other is left."""
    kept = [
        (index, result)
        for index, result in zip(state["checkpoint_report_indices"], state["checkpoint_results"], strict=True)
        if result["checkpoint_dir_name"] not in gone
    ]
    if not kept:
        return None
    latest = state["latest_checkpoint_result"]
    if latest is None or latest["checkpoint_dir_name"] in gone:
        latest = max(kept, key=lambda pair: pair[0])[1]
    return state | {
        "checkpoint_report_indices": [index for index, _ in kept],
        "checkpoint_results": [result for _, result in kept],
        "latest_checkpoint_result": latest,
    }


def _damage(folder: str) -> str | None:
    """The first file of a checkpoint that is missing or not whole, and what is wrong with it."""
    system, base = open_folder(folder)
    files = {name: info for name, info in list_files(folder, recursive=True).items() if info.is_file}
    if not any(name in files for name in NEEDED):
        return f"{NEEDED[0]} is missing"
    for name, info in sorted(files.items()):
        if PurePosixPath(name).suffix not in READ:
            continue

        def look(name: str = name, size: int = info.size) -> str | None:
            with system.open_input_file(f"{base}/{name}") as file:
                return damage(file, name, size)

        if said := patiently(look, folder):
            return f"{name} {said}"
    return None


def _empty(folder: str) -> None:
    """Remove a run's list and its checkpoints, which nothing will read again."""
    system, base = open_folder(folder)
    for name in (SNAPSHOT, COPY):
        remove_file(folder, name)
    for name, info in list_files(folder).items():
        if name.startswith("checkpoint_") and not info.is_file:
            patiently(lambda one=name: system.delete_dir(f"{base}/{one}"), folder)  # type: ignore[misc]
