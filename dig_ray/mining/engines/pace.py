"""How fast an endpoint is asked: so many requests at once, an even rate if one is set, and less of both while it says that it is busy."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

SHRINK = 0.7


class Pace:
    """Places in flight. Used from one event loop.

    One 429 among many answers delays its own request only. When a quarter of the latest answers say busy, all wait as long as the endpoint
    asks for, and fewer go at once and further apart; each answer takes a little of that back.

    Args:
        in_flight: places at most.
        per_minute: requests at most; None leaves it to the endpoint's 429s.
    """

    def __init__(self, in_flight: int, per_minute: float | None) -> None:
        self.most, self.window = in_flight, float(in_flight)
        self.gap = 60.0 / per_minute if per_minute else 0.0
        self._learnt = 0.0  # seconds between requests that the endpoint's 429s have taught
        self._taught = 0.0
        self.next = 0.0
        self._active = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._busy: deque[bool] = deque(maxlen=20)
        self.over = asyncio.Event()  # set when nothing more will be sent

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Wait for a place and for the time to send."""
        while self._active >= max(1, int(self.window)) and not self.over.is_set():
            free = asyncio.get_running_loop().create_future()
            self._waiting.append(free)
            try:
                await free
            except asyncio.CancelledError:
                self._wake()
                raise
        self._active += 1
        try:
            now = time.monotonic()
            at = max(now, self.next)
            self.next = at + max(self.gap, self._learnt)
            if at > now:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.over.wait(), at - now)
            yield
        finally:
            self._active -= 1
            self._wake()

    def let_go(self) -> None:
        """Whoever waits need not any more: nothing will be sent."""
        self.over.set()
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)

    def _wake(self) -> None:
        free = max(1, int(self.window)) - self._active
        while free > 0 and self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(None)
                free -= 1

    def answered(self) -> None:
        """A request was not told to wait."""
        self._busy.append(False)
        self.window = min(self.most, self.window + 1 / self.window)
        self._learnt = self._learnt * 0.97 if self._learnt > 0.01 else 0.0
        self._wake()

    def told_to_wait(self, seconds: float) -> None:
        """A request was."""
        self._busy.append(True)
        now = time.monotonic()
        if sum(self._busy) >= max(2, len(self._busy) / 4):
            if now - self._taught > max(0.1, self._learnt):  # once for all that were sent together
                self._taught = now
                self.window = max(1.0, self.window * SHRINK)
                self._learnt = min(5.0, max(0.02, 1.5 * self._learnt))
            self.next = max(self.next, now + seconds)
