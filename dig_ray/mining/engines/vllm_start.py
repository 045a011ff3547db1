"""Starting vLLM's engine: memory that fits the machine, and the reason where it does not start.

The engine is a process of its own. When it ends before it is ready, vLLM raises "see root cause above", and the cause stands in what that
process printed. So everything that is printed meanwhile is heard and passed on.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dig_ray.guards.redaction import hide

if TYPE_CHECKING:
    from dig_ray.mining.engines.vllm import VllmConfig

GIB = 1024**3
SHARE = 4
"""An engine on a CPU keeps one part in so many of the free memory for keys and values."""
MOST_GIB = 32
"""And no more: what is kept is written to once, and no batch here reads more."""
LEAST = GIB // 4
TAIL = 400
"""Pieces of output that are kept while an engine starts."""
_CAUSE = re.compile(r"(?:^|\s)((?:[\w.]+\.)?[A-Z]\w*(?:Error|Exception|Interrupt|Exit): .+)$")
_NO_CAUSE = (
    "See root cause above",
    "Engine core initialization failed",
    "EngineDeadError",
    "Worker failed with error",
)


class EngineStartError(RuntimeError):
    """vLLM's engine did not start; the text is its root cause."""


def free_memory() -> int:
    """Bytes that this machine, or the container this process is in, still has."""
    import psutil

    free = int(psutil.virtual_memory().available)
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        return free if limit == "max" else min(free, max(0, int(limit) - used))
    except (OSError, ValueError):
        return free


def memory_on_cpu(miner: VllmConfig, free: int) -> dict[str, Any]:
    """What tells vLLM how much memory an engine on a CPU may keep for keys and values; {} where the environment says it.

    Args:
        miner: its settings; what stands in ``engine_kwargs`` goes before, and is the caller's to put over this.
        free: bytes of memory that the machine has left.
    """
    if miner.kv_cache_gib is not None:
        return {"kv_cache_memory_bytes": int(miner.kv_cache_gib * GIB)}
    said = {"gpu_memory_utilization", "kv_cache_memory_bytes"} & set(miner.engine_kwargs)
    if said or os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
        return {}
    part = free // SHARE // miner.replicas
    return {"kv_cache_memory_bytes": max(LEAST, min(part, MOST_GIB * GIB))}


@contextmanager
def heard() -> Iterator[Callable[[], str]]:
    """Hear what this process and those it starts print meanwhile, and pass it on; gives what reads the end of it.

    A process that was started meanwhile goes on printing through here.
    """
    pieces: deque[bytes] = deque(maxlen=TAIL)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = {number: os.dup(number) for number in (1, 2)}
    ears = [_listen(number, copy, pieces) for number, copy in kept.items()]
    try:
        yield lambda: _text(ears, pieces)
    finally:
        for number, copy in kept.items():
            os.dup2(copy, number)


def _text(ears: list[threading.Thread], pieces: deque[bytes]) -> str:
    for ear in ears:  # what was printed last may still be on its way
        ear.join(timeout=0.5)
    return b"".join(pieces).decode("utf-8", errors="replace")


def _listen(number: int, copy: int, pieces: deque[bytes]) -> threading.Thread:
    read, write = os.pipe()
    os.dup2(write, number)
    os.close(write)

    def pass_on() -> None:
        while piece := os.read(read, 65_536):
            pieces.append(piece)
            os.write(copy, piece)
        os.close(read)

    thread = threading.Thread(target=pass_on, daemon=True)
    thread.start()
    return thread


def root_cause(printed: str, error: BaseException) -> str:
    """The line that says why: the first error that was printed last, before those that only point at it; else the exception's own."""
    found = []
    for line in hide(printed).splitlines():
        match = _CAUSE.search(line.strip())
        if match and not any(word in match.group(1) for word in _NO_CAUSE):
            found.append(match.group(1))
    if found:
        return found[-1][:400]
    said = [line for line in hide(str(error)).splitlines() if line.strip()]
    return f"{type(error).__name__}: {said[-1][:400]}" if said else type(error).__name__
