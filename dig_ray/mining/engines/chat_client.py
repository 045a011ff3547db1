"""Asking an OpenAI-compatible endpoint: many requests in flight, patient with a busy server, strict with its answers.

The first row is sent alone, so that what the endpoint takes is learnt before many are sent (``response_format``), and few are sent until
one was answered. 429, 408, 5xx, cut connections and timeouts are tried again with full jitter, not before ``Retry-After``, and 429s slow
all requests of the process once they are frequent; a used-up quota is none of them. 401, 403 and 404 end the run at once before any answer
came, and so does any failure that enough rows meet alike (``endings``). An answer that is not what was asked for is asked for once more
with another seed. What comes back is read by ``completion``, what does not by ``endpoint_failures``; both bound what they read. Redirects
are not followed, so that a key goes nowhere else, and neither key nor headers are part of any message or any answer that is kept.
docs/ENDPOINTS.md has the whole of it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from dig_ray.errors import UserError
from dig_ray.guards.redaction import hide
from dig_ray.mining.answers import MOST
from dig_ray.mining.engines.completion import Completion
from dig_ray.mining.engines.completion import read_completion as _completion  # noqa: F401 - its name here of old
from dig_ray.mining.engines.contract import Request, Result, SpendLimit, judge_answer, reason_word
from dig_ray.mining.engines.endings import PATIENCE, Endings
from dig_ray.mining.engines.endpoint_failures import Hopeless, NoAnswer, Refused, Retry, server_words
from dig_ray.mining.engines.pace import Pace
from dig_ray.mining.engines.response_format import AnswerShape
from dig_ray.mining.engines.wire import Wire
from dig_ray.mining.keys import read_key
from dig_ray.mining.spend import Purse

if TYPE_CHECKING:
    import aiohttp

    from dig_ray.mining.engines.openai import OpenAIConfig

FIRST_WAIT, THROTTLED_WAIT, LONGEST_WAIT = 0.5, 2.0, 60.0
FEW = 20
"""Rows in work at once until one was answered."""
FIRST_ROW, FIRST_ANSWER = 10.0, 60.0
"""Seconds that the others wait for the first row to end, and most of them for the first answer."""
SHORTEST_KEY = 8
"""Characters below which a key is a placeholder, such as those that local servers take, and may stand in an answer by chance."""


def _nobody(word: str) -> None:
    """Nobody listens."""


class ChatClient:
    """Asks one endpoint.

    Args:
        config: its settings.
        share: part of ``max_in_flight`` and ``requests_per_minute`` that is this process's, 1 over the number of processes.
        most: entries that an answer's schema allows.
        secret: the key, where this process's environment has none.
        purse: the endpoint's money; by default one that knows of this process only.
        say: gets a line where something about the endpoint was learnt.
        trouble: gets the word of every failure that is tried again.
        known: whether the endpoint has answered such rows well in an earlier run.
    """

    def __init__(
        self,
        config: OpenAIConfig,
        share: float = 1.0,
        most: int = MOST,
        secret: str | None = None,
        purse: Purse | None = None,
        say: Callable[[str], None] = _nobody,
        trouble: Callable[[str], None] = _nobody,
        known: bool = False,
    ) -> None:
        self.config, self.most, self._secret = config, most, secret
        self.in_flight = max(1, round(config.max_in_flight * share))
        rate = config.requests_per_minute
        self.pace = Pace(self.in_flight, rate * share if rate else None)
        self.purse = purse or Purse(config.spend_limit)
        self.shape = AnswerShape(config.response_format, say)
        self._trouble, self._known = trouble, known
        self._random = random.Random()  # noqa: S311 - jitter is no secret
        self._key: str | None = None

    def ask_all(self, requests: Iterable[Request], done: Callable[[Result], None]) -> None:
        """Ask everything; ``done`` gets each result, those that fail alike only once it is clear that the run goes on.

        Raises:
            UserError: the key is not set or refused, the address or model is unknown, or enough rows have failed alike; their rows get no
                result then.
            SpendLimit: the limit was reached; requests that had begun are finished and given to ``done`` first.
        """
        self._key = read_key(self.config.name, self.config.api_key_env, self._secret)
        self._wire = Wire(self.config, self.most, self._key, self.shape)
        asyncio.run(self._ask_all(requests, done))

    async def _ask_all(self, requests: Iterable[Request], done: Callable[[Result], None]) -> None:
        todo = iter(requests)
        self._stop: BaseException | None = None
        self._ended = self.pace.over = asyncio.Event()
        patience = min(PATIENCE, 2 * self.config.deadline)
        self._endings = Endings(self.config.hopeless_rows, self.in_flight, patience, self._known)
        self._paid = Result("")  # sums over all that was sent
        first, answered = asyncio.Event(), asyncio.Event()

        await self.purse.pay(0.0)
        async with self._wire.session(self.in_flight) as session:

            async def worker(number: int) -> None:
                if number:
                    await _wait(first, FIRST_ROW)
                if number >= FEW:
                    await _wait(answered, FIRST_ANSWER)
                for request in todo:  # one iterator for all: whoever is free takes the next
                    if self._stop is not None:
                        break
                    try:
                        result = await self._ask(session, request)
                    except BaseException as error:
                        self._end(error)
                        break
                    self._keep(result, done)
                    first.set()
                    if self._endings.answered:
                        answered.set()
                first.set()
                answered.set()

            # rows that wait for another try give their place in flight to others, so there are more rows than places
            try:
                await asyncio.gather(*(worker(number) for number in range(2 * self.in_flight)))
                if self._stop is None:
                    self._endings.at_the_end()
                    self._look_for_an_end()
            finally:
                for result in self._endings.rest():
                    done(result)
        if self._stop is not None:
            raise self._stop

    def _keep(self, result: Result, done: Callable[[Result], None]) -> None:
        for one in self._endings.seen(result):
            done(one)
        self._look_for_an_end()

    def _look_for_an_end(self) -> None:
        if self._endings.reason and self._stop is None:
            self._end(UserError(self._endings.sentence(self.config.name, self._paid_so_far())))

    def _end(self, why: BaseException) -> None:
        """Send nothing more, and wait for nothing but what is in flight."""
        self._stop = self._stop or why
        self.pace.let_go()

    def _paid_so_far(self) -> str:
        paid, about = self._paid, "about " if self._paid.estimated else ""
        if not paid.tokens_in:
            return "nothing was paid"
        who = " by one of its processes" if self.config.actors > 1 else ""
        dollars = f"paid so far{who}: {about}${paid.cost:,.2f} for" if paid.cost else f"used so far{who}:"
        return f"{dollars} {about}{paid.tokens_in:,} tokens in and {paid.tokens_out:,} out"

    async def _ask(self, session: aiohttp.ClientSession, request: Request) -> Result:
        """One row: at most two answers, each with its retries, within the row's deadline."""
        begun = time.monotonic()
        result = Result(request.key)
        try:
            async with asyncio.timeout(None) as deadline:  # set when the row is first sent
                for attempt in range(2):
                    try:
                        answer = await self._send(session, request, attempt, result, deadline)
                    except Refused as refusal:
                        result.reason = str(refusal)
                        break
                    if not self._judge(request, result, answer):
                        break
        except TimeoutError:
            last = f", at last {result.reason}" if result.reason else ""
            result.reason = f"deadline: no answer within {self.config.deadline:g} s{last}"
        result.seconds = time.monotonic() - begun
        return result

    def _judge(self, request: Request, result: Result, answer: Completion) -> bool:
        """Judge an answer; whether another one is worth its price."""
        result.raw = answer.text
        read, result.reason = judge_answer(request.kind, answer.text, self.most, request.system)
        if self._repeats_the_key(
            answer.text, "" if read is None else " ".join((*read.texts, *read.reasoning.values()))
        ):
            result.raw = hide(answer.text, self._key) if self._key and self._key in answer.text else ""
            result.reason = "secret: the answer repeats the endpoint's key"
            return False
        if read is not None:
            result.status = "ok"
            return False
        if answer.end.finish == "length":
            lost = (
                "while the model still thought"
                if result.reason.startswith("thinking") or answer.end.why.startswith("thinking")
                else ""
            )
            result.reason = f"cut_off: the answer ends at max_tokens={self.config.sampling.max_tokens}{lost and ', ' + lost}"
        elif answer.end.why:
            result.reason = answer.end.why
        return not result.reason.startswith(("refusal", "content_filter", "thinking"))

    def _repeats_the_key(self, *texts: str) -> bool:
        key = self._key
        if key is None or len(key) < SHORTEST_KEY:
            return False
        return any(key in text or ("\\" in text and key in text.replace("\\/", "/")) for text in texts)

    async def _send(
        self,
        session: aiohttp.ClientSession,
        request: Request,
        attempt: int,
        result: Result,
        deadline: asyncio.Timeout,
    ) -> Completion:
        """One answer, through as many tries as it takes; what it cost is paid and counted.

        A 429 is no try: it costs the row's time only.
        """
        tries = waits = same = 0
        before = ""
        while True:
            way = self.shape.at
            body = self._wire.body(request, attempt)
            try:
                async with self.pace.place():
                    self._check_limit()
                    if deadline.when() is None:
                        deadline.reschedule(asyncio.get_running_loop().time() + self.config.deadline)
                    result.calls += 1
                    # paid before the place is free: whoever takes it knows what is left, so no more than what is in flight goes over the
                    # limit
                    answer = await self._wire.post(session, body, request, partial(self._pay, result))
                self.pace.answered()
                self._endings.alive()
                self.shape.took(way)
                return answer
            except Hopeless as error:
                if self._endings.answered:  # it has answered others: this row alone is meant
                    raise Refused(str(error)) from None
                raise UserError(self._nobody_is_answered(error)) from None
            except NoAnswer as error:
                retry = error if isinstance(error, Retry) else None
                tries += retry is not None and not retry.throttled
                same = same + 1 if str(error) == before else 1
                before = result.reason = str(error)
                if self.shape.another(way, error, same, tries >= self.config.max_tries):
                    tries = same = 0
                    continue
                if retry is None:
                    raise
                self._trouble(reason_word(str(error)))
                if tries >= self.config.max_tries:
                    raise Refused(f"{error} ({tries} tries)") from None
                waits += 1
                await self._wait_for_another_try(retry, waits, request)

    async def _wait_for_another_try(self, retry: Retry, waits: int, request: Request) -> None:
        # a throttled row waits a little: the common pause and the smaller window do the rest
        ceiling = min(
            THROTTLED_WAIT if retry.throttled else LONGEST_WAIT, FIRST_WAIT * 2 ** min(waits - 1, 10)
        )
        wait = (
            self._random.uniform(0, ceiling)
            if retry.after is None
            else retry.after + self._random.uniform(0, 0.1 * ceiling)
        )
        if retry.busy:
            self.pace.told_to_wait(min(wait, LONGEST_WAIT))
        if retry.throttled:
            self._endings.throttled(request.key, str(retry), retry.after)
            self._look_for_an_end()
        await _wait(self._ended, wait)

    def _nobody_is_answered(self, error: Hopeless) -> str:
        _, _, said = str(error).partition(": ")
        return (
            f"miner {self.config.name}: {self._wire.url} answers {error.status}, {said}; check base_url, model and "
            f"{self.config.api_key_env or 'api_key_env'}, then run the same command to go on; {self._paid_so_far()}"
        )

    def _check_limit(self) -> None:
        """Send nothing more once a row has stopped the run or the money is spent."""
        if self._stop is not None:
            raise self._stop
        if self.purse.empty:
            raise SpendLimit

    async def _pay(self, result: Result, tokens_in: int, tokens_out: int, estimated: bool) -> None:
        cost = self.config.price.of(tokens_in, tokens_out)
        for sums in (result, self._paid):
            sums.tokens_in += tokens_in
            sums.tokens_out += tokens_out
            sums.cost += cost
            sums.estimated += estimated
        await self.purse.pay(cost)

    def _why(self, content: bytes | None) -> str:
        """What a refusal says about itself, short, and never the key."""
        said = server_words(
            content, self._key or read_key(self.config.name, self.config.api_key_env, self._secret)
        )
        return f" ({said})" if said else ""


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
