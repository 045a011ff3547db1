"""What was paid to endpoints: written down when it is paid, whatever becomes of the answer, and counted against the spend limit."""

from __future__ import annotations

import math
import uuid
from collections import Counter
from functools import cache
from typing import TYPE_CHECKING, Any

from dig_ray.artifacts.manifest import hash_json
from dig_ray.mining.answer_log import Journal, read_rows

if TYPE_CHECKING:
    import pyarrow as pa


@cache
def payments_schema() -> pa.Schema:
    """One row a payment; ``key`` is no more than its name."""
    import pyarrow as pa

    return pa.schema([("key", pa.string()), ("dollars", pa.float64())])


def endpoint_name(base_url: str) -> str:
    """An endpoint's name in the store: whoever asks the same address spends from the same purse."""
    return hash_json(base_url.rstrip("/"))[:16]


MOST_OF_ONE_CALL = 1e6
"""US dollars above which an entry is no payment for one call, whatever wrote it."""


def payment(dollars: float | None) -> float | None:
    """A payment as it may be: None where it is not a number, negative or absurd. Nothing that an endpoint says gives money back."""
    if dollars is None or not math.isfinite(dollars) or not 0 <= dollars <= MOST_OF_ONE_CALL:
        return None
    return dollars


def total_paid(folder: str, notes: Counter[str] | None = None) -> float:
    """US dollars in a folder of payments.

    Args:
        folder: local directory or URI.
        notes: gets ``payments_ignored``: entries that are no payments, and lines that cannot be read.
    """
    notes = Counter() if notes is None else notes
    lost: Counter[str] = Counter()
    found = [
        payment(dollars)
        for table in read_rows(folder, payments_schema(), lost)
        for dollars in table["dollars"].to_pylist()
    ]
    ignored = found.count(None) + lost.total()
    if ignored:
        notes["payments_ignored"] += ignored
    return sum(dollars for dollars in found if dollars is not None)


class Purse:
    """What one process knows of the money spent at its endpoint, and where it writes down what it spends.

    Args:
        limit: US dollars that may be spent; None for any.
        before: US dollars that were spent before this run.
        folder: where payments are written down; "" writes none down.
        board: the actor that adds up what this run's processes spend, or None where there is only this one.
        endpoint: the endpoint's name in the store, from ``endpoint_name``.
    """

    def __init__(
        self,
        limit: float | None,
        before: float = 0.0,
        folder: str = "",
        board: Any = None,
        endpoint: str = "",
    ) -> None:
        self.limit, self.spent = limit, before
        self._before, self._board, self._endpoint = before, board, endpoint
        self._journal = Journal(folder, payments_schema()) if folder else None

    @property
    def empty(self) -> bool:
        """Whether nothing more may be spent."""
        return self.limit is not None and self.spent >= self.limit

    async def pay(self, dollars: float) -> None:
        """Write a payment down, and learn what the others have spent meanwhile; 0 only learns, and so does what is no payment."""
        dollars = min(dollars, MOST_OF_ONE_CALL) if dollars > 0 else 0.0
        self.spent += dollars
        if dollars and self._journal is not None:
            self._journal.append({"key": uuid.uuid4().hex, "dollars": dollars})
        if self.limit is not None and self._board is not None:
            together = await self._board.pay.remote(self._endpoint, dollars)
            self.spent = max(self.spent, self._before + together)

    def close(self) -> None:
        """Whatever was paid is in the store when this returns."""
        if self._journal is not None:
            self._journal.close()
