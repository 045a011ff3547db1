"""Waiting for engines, with a line about each now and then that says something new."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from dig_ray.mining.engines.meter import Totals, progress_line

SECONDS_BETWEEN_LINES = 10.0
LOST_CALLS = 3
"""Calls to the board that may be lost one after another."""


def _ask_board(call: Any) -> Any:
    """What the board has counted or was told; None where calls to it are lost again and again."""
    import ray
    from ray.exceptions import ActorUnavailableError

    for _ in range(LOST_CALLS + 1):
        try:
            return ray.get(call.remote())
        except ActorUnavailableError:
            time.sleep(0.1)
    return None


def watch(pending: dict[Any, tuple[Any, int, Totals]], board: Any, say: Callable[[str], None]) -> list[str]:
    """Wait for all engines, with a line for each now and then; the sentences of those that stopped early, in the miners' order.

    Args:
        pending: an engine's task -> (``miner.Asked``, rows that it is asked about, sums before it began); emptied. ``asked_now`` is kept up
            to date.
        board: the ``MiningBoard`` actor that they report to.
        say: prints a line.
    """
    import ray

    begun = time.monotonic()
    miners = [asked.miner.name for asked, _, _ in pending.values()]
    stopped: dict[str, str] = {}
    crashed: BaseException | None = None
    totals: dict[str, Totals] = {}
    last = dict.fromkeys(
        miners, (0, begun)
    )  # rows of a miner's latest line, and when they were that many first
    told = 0
    while pending:
        ready, _ = ray.wait(list(pending), num_returns=1, timeout=SECONDS_BETWEEN_LINES)
        totals = _ask_board(board.read) or totals
        learnt = _ask_board(board.said) or []
        for line in learnt[told:]:
            say(line)
        told = max(told, len(learnt))
        now = time.monotonic()
        for task, (asked, todo, before) in list(pending.items()):
            name = asked.miner.name
            new = totals.get(name, Totals())
            asked.asked_now = before.plus(new)
            rows, since = last[name]
            if new.rows != rows:
                rows, since = last[name] = new.rows, now
            if task in ready or not ready:
                say(progress_line(name, todo, new, now - begun, 0.0 if task in ready else now - since))
        for task in ready:
            asked, _, _ = pending.pop(task)
            try:
                sentence = ray.get(task)
            except Exception as error:  # the others go on: what they are asked is paid for
                crashed = crashed or error
                continue
            if sentence:
                stopped[asked.miner.name] = sentence
    if crashed is not None:
        raise crashed
    return [stopped[name] for name in miners if name in stopped]
