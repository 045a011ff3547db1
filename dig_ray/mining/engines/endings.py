"""When an endpoint has failed enough rows alike that no other will fare better: the run ends before the rest is paid for.

Equal are failures of one word (``status_500``, ``quota``, ``thinking``, ``not_json`` ...), of distinct rows, with no good answer in
between. So a few bad rows among good ones never end a run. Such failures are held back until a good answer comes: if the run ends for
them, their rows count as not asked, and the same command asks them again once the endpoint is mended.
"""

from __future__ import annotations

import time
from collections import defaultdict

from dig_ray.mining.engines.contract import Result, reason_word

AT_ONCE = 3
"""Rows that may meet a used-up quota, and of which all may fail alike where there are no more."""
PATIENCE = 120.0
"""Seconds at most, see ``Endings``."""

_CURES = (
    ("quota", "raise the quota or pay at the endpoint, or name another"),
    (
        "throttled",
        "wait until the endpoint's limit is renewed, or lower requests_per_minute and max_in_flight",
    ),
    (
        "status_429",
        "wait until the endpoint's limit is renewed, or lower requests_per_minute and max_in_flight",
    ),
    ("status_3", "set base_url to the address that answers"),
    ("status_4", "check base_url, model, response_format, max_tokens_field and omit"),
    ("status_5", "look at the server's log, and check model and response_format"),
    ("status_", "check base_url and the server's log"),
    (
        "connection",
        "check base_url, and that the server runs and can be reached from here (address, proxy, certificate)",
    ),
    ("timeout", "raise timeout, or lower max_in_flight"),
    ("deadline", "raise timeout and deadline, or lower max_in_flight"),
    ("stream", "switch streaming off at the server, or send extra_body={stream: false}"),
    ("html", "check base_url: a web page, such as a proxy's login, stands where the endpoint should"),
    ("half_body", "check base_url: what answers there is no chat endpoint"),
    ("error_body", "look at the server's log, and check model"),
    ("too_long", "check base_url: what answers there is no chat endpoint"),
    (
        "thinking",
        "start the server with a parser for reasoning (vLLM: --reasoning-parser), switch thinking off (such as "
        "extra_body={chat_template_kwargs: {enable_thinking: false}}), raise sampling.max_tokens, or name another model",
    ),
    ("refusal", "name another model or prompt"),
    ("content_filter", "relax the endpoint's filter, or name another model or prompt"),
    ("tool_call", "switch tools off at the server"),
    ("cut_off", "raise sampling.max_tokens"),
    ("secret", "check base_url: the endpoint sends the key back, as a debugging proxy does"),
)
_OTHERWISE = "look at what the model writes, and try another model, prompt or response_format"


class Endings:
    """Watches the results of one endpoint.

    Args:
        rows: that may fail alike before any was answered; 0 never ends a run. After a good answer it takes twice as many, or twice the
            places in flight if that is more: what was in flight together fails together.
        in_flight: requests that may be on their way at once.
        patience: seconds without any answer after which a server that only says "too many requests" is no busy one, if it did not ask for
            a longer wait at first.
        known: whether it has answered such rows well in an earlier run.
    """

    def __init__(self, rows: int, in_flight: int, patience: float = PATIENCE, known: bool = False) -> None:
        self.rows, self.in_flight, self._known = rows, in_flight, known
        self.answered = False  # well, in this run
        self.met, self.reason = 0, ""
        self._held: dict[str, list[Result]] = defaultdict(list)
        self._patience = patience
        self._throttled: set[str] = set()
        self._until = 0.0

    def seen(self, result: Result) -> list[Result]:
        """The results that are to be kept now: all that were held, after a good one. ``reason`` is set once enough have failed alike."""
        if result.status == "ok" or not self.rows:
            self.answered = self.answered or result.status == "ok"
            return [*self.rest(), result]
        word = reason_word(result.reason)
        alike = self._held[word]
        alike.append(result)
        if self.reason:  # the run has ended: what was in flight meets the same
            return []
        many, often = self._bound(word), max(self._held.values(), key=len)
        if len(alike) >= many:
            self.met, self.reason = len(alike), result.reason
        elif sum(map(len, self._held.values())) >= 3 * self._bound(""):  # in many ways, and never a good one
            self.met, self.reason = len(often), often[-1].reason
        if self.reason:
            self._held.pop(reason_word(self.reason))
            return self.rest()
        return []

    def rest(self) -> list[Result]:
        """What is still held, which is to be kept when the rows are at their end; nothing is held then."""
        held, self._held = self._held, defaultdict(list)
        return [result for alike in held.values() for result in alike if not self._ended_by(result)]

    def at_the_end(self) -> None:
        """All rows were asked. Where there were few of them, and all failed alike without any good answer ever, that is an end, too."""
        if self.answered or self._known or self.reason or len(self._held) != 1:
            return
        (alike,) = self._held.values()
        if len(alike) >= AT_ONCE:
            self.met, self.reason = len(alike), alike[-1].reason

    def alive(self) -> None:
        """The endpoint has answered something."""
        self._throttled.clear()

    def throttled(self, key: str, reason: str, after: float | None) -> None:
        """A row was told that there are too many requests, and to wait ``after`` seconds."""
        now = time.monotonic()
        if not self._throttled:
            self._until = now + max(self._patience, 1.5 * (after or 0.0))
        self._throttled.add(key)
        if now > self._until and len(self._throttled) > 1 and self.rows and not self.reason:
            self.met, self.reason = len(self._throttled), reason

    def _bound(self, word: str) -> int:
        rows = max(2 * self.rows, 2 * self.in_flight) if self.answered or self._known else self.rows
        return min(AT_ONCE, rows) if word == "quota" else rows

    def _ended_by(self, result: Result) -> bool:
        return bool(self.reason) and reason_word(result.reason) == reason_word(self.reason)

    def sentence(self, miner: str, paid: str) -> str:
        """Why the run ends, what was paid, and how to go on."""
        _, _, cause = self.reason.partition(", at last ")  # of a deadline
        word = reason_word(cause or self.reason)
        cure = next((cure for begin, cure in _CURES if word.startswith(begin)), _OTHERWISE)
        which = "latest" if self.answered else "first"
        return (
            f"miner {miner}: the {which} {self.met} rows all ended in {self.reason[:300]}, so the others would, too; {paid}; {cure}; then "
            "run the same command to go on (what was answered is kept, these rows count as not asked; hopeless_rows=0 asks all the same)"
        )
