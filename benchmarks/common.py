"""What benches share: how they end, in a table of figures against their targets, one line of JSON and an exit code; and what a process
and all below it take."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import psutil

Target = tuple[str, float]
"""Direction, ``">="`` or ``"<="``, and limit."""


def family_cpu_seconds() -> float:
    """CPU seconds that this process and all below it have taken, those of children that ended and were waited for among them."""
    total = 0.0
    for process in _family():
        with suppress(OSError, psutil.Error):
            total += sum(process.cpu_times()[:4])
    return total


def family_memory() -> int:
    """Bytes that this process and all below it hold: their proportional set sizes, so that shared pages count once."""
    total = 0
    for process in _family():
        with suppress(OSError, psutil.Error):
            total += process.memory_full_info().pss
    return total


def _family() -> list[psutil.Process]:
    me = psutil.Process()
    return [me, *me.children(recursive=True)]


def conclude(bench: str, figures: Mapping[str, Any], targets: Mapping[str, Target]) -> int:
    """Print every figure, those with a target beside it, then all as one line of JSON.

    A target without its figure is missed: what was not measured was not met.

    Args:
        bench: the bench's name.
        figures: name -> number, text, list, or a mapping of numbers that is printed in one row.
        targets: figure -> what it must reach.

    Returns:
        0 when every target is met, else 1.
    """
    width = max(map(len, [*figures, *targets]))
    missed = [name for name in targets if name not in figures]
    print(f"\n{'figure':<{width}} {'value':>12}   target")
    for name, value in figures.items():
        if isinstance(value, Mapping):
            print(f"{name:<{width}} " + "  ".join(f"{key} {number:g}" for key, number in value.items()))
            continue
        verdict = ""
        if name in targets:
            sign, limit = targets[name]
            met = bool(value >= limit if sign == ">=" else value <= limit)
            verdict = f"   {sign} {limit:g}  {'ok' if met else 'MISSED'}"
            if not met:
                missed.append(name)
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        print(f"{name:<{width}} {shown:>12}{verdict}")
    for name in targets:
        if name not in figures:
            print(f"{name:<{width}} {'not measured':>12}   {targets[name][0]} {targets[name][1]:g}  MISSED")
    wanted = {name: f"{sign} {limit:g}" for name, (sign, limit) in targets.items()}
    print(
        json.dumps(
            {"bench": bench, "figures": dict(figures), "targets": wanted, "missed": missed, "ok": not missed}
        )
    )
    return 1 if missed else 0
