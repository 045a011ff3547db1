"""Asking an OpenAI-compatible endpoint: many requests in flight, patient with a busy server, strict with its answers.

The status is looked at before a body is believed. 429, 408, 5xx, cut connections and timeouts are tried again with full jitter, not before
``Retry-After``, and 429s slow all requests of the process once they are frequent; 401, 403 and 404 end the run, since every other row would
meet the same; other 4xx fail the row. An answer that is not what was asked for is asked for once more with another seed. Redirects are not
followed, so that a key goes nowhere else, and neither key nor headers are part of any message.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from dig_ray.errors import UserError
from dig_ray.mining.answers import MOST, json_schema
from dig_ray.mining.config import OpenAIConfig
from dig_ray.mining.engines.contract import Request, Result, SpendLimit, judge_answer, reason_word
from dig_ray.mining.engines.pace import Pace
from dig_ray.mining.prompts import chat_messages
from dig_ray.mining.spend import Purse
from dig_ray.retry_after import retry_after_seconds

if TYPE_CHECKING:
    import aiohttp

LONGEST_BODY = 1 << 20  # bytes read of one response
AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 529}
HOPELESS = {401, 403, 404}
FIRST_WAIT, THROTTLED_WAIT, LONGEST_WAIT = 0.5, 2.0, 60.0
HOPELESS_ROWS = 20
"""Rows that may end in one and the same refusal before any was answered."""


class _Retry(Exception):
    def __init__(
        self, reason: str, after: float | None = None, busy: bool = False, throttled: bool = False
    ) -> None:
        super().__init__(reason)
        self.after, self.busy, self.throttled = after, busy, throttled


class _Refused(Exception):
    """The endpoint will not answer this row."""


class ChatClient:
    """Asks one endpoint.

    Args:
        config: its settings.
        share: part of ``max_in_flight`` and ``requests_per_minute`` that is this process's, 1 over the number of processes.
        most: entries that an answer's schema allows.
        secret: the key, where this process's environment has none.
        purse: the endpoint's money; by default one that knows of this process only.
    """

    def __init__(
        self,
        config: OpenAIConfig,
        share: float = 1.0,
        most: int = MOST,
        secret: str | None = None,
        purse: Purse | None = None,
    ) -> None:
        self.config, self.most, self._secret = config, most, secret
        self.in_flight = max(1, round(config.max_in_flight * share))
        rate = config.requests_per_minute
        self.pace = Pace(self.in_flight, rate * share if rate else None)
        self.purse = purse or Purse(config.spend_limit)
        self._random = random.Random()  # noqa: S311 - jitter is no secret

    def ask_all(self, requests: Iterable[Request], done: Callable[[Result], None]) -> None:
        """Ask everything; ``done`` gets each result as it comes.

        Raises:
            UserError: the endpoint refuses the key or does not know the model or the address.
            SpendLimit: the limit was reached; requests that had begun are finished and given to ``done`` first.
        """
        asyncio.run(self._ask_all(requests, done))

    async def _ask_all(self, requests: Iterable[Request], done: Callable[[Result], None]) -> None:
        todo = iter(requests)
        self._stop: BaseException | None = None
        self._answers = False  # whether the endpoint has ever answered a row
        self._unanswered: Counter[str] = Counter()

        await self.purse.pay(0.0)
        async with self._session() as session:

            async def worker() -> None:
                for request in todo:  # one iterator for all: whoever is free takes the next
                    if self._stop is not None:
                        return
                    try:
                        result = await self._ask(session, request)
                    except BaseException as error:
                        self._stop = self._stop or error
                        return
                    done(result)
                    self._look_for_an_end(result)

            # rows that wait for another try give their place in flight to others, so there are more rows than places
            await asyncio.gather(*(worker() for _ in range(2 * self.in_flight)))
        if self._stop is not None:
            raise self._stop

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[aiohttp.ClientSession]:
        import aiohttp

        headers = {"Accept": "application/json"}
        name = self.config.api_key_env
        if name is not None:
            key = os.environ.get(name) or self._secret
            if not key:
                raise UserError(
                    f"miner {self.config.name}: the environment variable {name} is not set; set it to the endpoint's key"
                )
            headers["Authorization"] = f"Bearer {key}"
        connector = aiohttp.TCPConnector(limit=self.in_flight)
        async with aiohttp.ClientSession(
            headers=headers, connector=connector, auto_decompress=True
        ) as session:
            yield session

    async def _ask(self, session: aiohttp.ClientSession, request: Request) -> Result:
        """One row: at most two answers, each with its retries, within the row's deadline."""
        begun = time.monotonic()
        result = Result(request.key)
        try:
            async with asyncio.timeout(None) as deadline:  # set when the row is first sent
                for attempt in range(2):
                    try:
                        raw, finish = await self._send(session, request, attempt, result, deadline)
                    except _Refused as refusal:
                        result.reason = str(refusal)
                        break
                    result.raw = raw
                    answer, result.reason = judge_answer(request.kind, raw, self.most, request.system)
                    if answer is not None:
                        result.status = "ok"
                        break
                    if finish == "length":
                        result.reason = (
                            f"cut_off: the answer ends at max_tokens={self.config.sampling.max_tokens}"
                        )
        except TimeoutError:
            last = f", at last {result.reason}" if result.reason else ""
            result.reason = f"deadline: no answer within {self.config.deadline:g} s{last}"
        result.seconds = time.monotonic() - begun
        return result

    async def _send(
        self,
        session: aiohttp.ClientSession,
        request: Request,
        attempt: int,
        result: Result,
        deadline: asyncio.Timeout,
    ) -> tuple[str, str]:
        """(text, finish reason) of one answer, through as many tries as it takes; what it cost is paid and counted.

        A 429 is no try: it costs the row's time only.
        """
        body = json.dumps(self._body(request, attempt)).encode()
        tries = waits = 0
        while True:
            try:
                async with self.pace.place():
                    self._check_limit()
                    if deadline.when() is None:
                        deadline.reschedule(asyncio.get_running_loop().time() + self.config.deadline)
                    result.calls += 1
                    text, tokens_in, tokens_out, finish = await self._post(session, body)
                    cost = self.config.price.of(tokens_in, tokens_out)
                    result.tokens_in += tokens_in
                    result.tokens_out += tokens_out
                    result.cost += cost
                    # before the place is free: whoever takes it knows what is left, so no more than what is in flight goes over the limit
                    await self.purse.pay(cost)
                self.pace.answered()
                return text, finish
            except _Retry as retry:
                result.reason = str(retry)
                tries += not retry.throttled
                waits += 1
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
                if tries >= self.config.max_tries:
                    raise _Refused(f"{retry} ({tries} tries)") from None
                await asyncio.sleep(wait)

    def _look_for_an_end(self, result: Result) -> None:
        """Stop when the first rows all ended in the same refusal: the others would, too."""
        word = reason_word(result.reason)
        if result.status == "ok" or not word.startswith(("status_4", "connection")):
            self._answers = True
        if self._answers:
            return
        self._unanswered[word] += 1
        if self._unanswered[word] >= HOPELESS_ROWS:
            self._stop = self._stop or UserError(
                f"miner {self.config.name}: the first {HOPELESS_ROWS} rows all ended in {result.reason!r}; check base_url, model, "
                "response_format, max_tokens_field and omit"
            )

    def _check_limit(self) -> None:
        """Send nothing more once a row has stopped the run or the money is spent."""
        if self._stop is not None:
            raise self._stop
        if self.purse.empty:
            raise SpendLimit

    async def _post(self, session: aiohttp.ClientSession, body: bytes) -> tuple[str, int, int, str]:
        import aiohttp

        url = self.config.base_url.rstrip("/") + "/chat/completions"
        timeout = aiohttp.ClientTimeout(total=self.config.timeout)
        try:
            async with session.post(
                url,
                data=body,
                headers={"Content-Type": "application/json"},
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                status, retry_after = response.status, response.headers.get("Retry-After")
                content = await _read(response)
        except TimeoutError:
            raise _Retry(f"timeout: no response within {self.config.timeout:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise _Retry(f"connection: {type(error).__name__}") from None
        if status in HOPELESS:
            hint = {
                401: "the key is refused",
                403: "the key may not do this",
                404: "the address or the model is unknown",
            }[status]
            raise UserError(
                f"miner {self.config.name}: {url} answers {status}, {hint}; check base_url, model and "
                f"{self.config.api_key_env or 'api_key_env'}"
            )
        if status in AGAIN or status >= 500:
            raise _Retry(
                f"status_{status}",
                retry_after_seconds(retry_after),
                busy=status in (429, 503, 529),
                throttled=status == 429,
            )
        if status != 200:
            raise _Refused(f"status_{status}: the endpoint refuses this request{self._why(content)}")
        if content is None:
            raise _Refused(f"too_long: the response has more than {LONGEST_BODY:,} bytes")
        return _completion(content)

    def _why(self, content: bytes | None) -> str:
        """What a refusal says about itself, short, and never the key."""
        try:
            error = json.loads(content or b"")["error"]
            said = " ".join(str(error["message"] if isinstance(error, dict) else error).split())[:160]
        except (ValueError, TypeError, KeyError, RecursionError):
            return ""
        key = os.environ.get(self.config.api_key_env or "") or self._secret
        return f" ({said.replace(key, '***') if key else said})"

    def _body(self, request: Request, attempt: int) -> dict[str, Any]:
        config = self.config
        body = {
            "model": config.model,
            "messages": chat_messages(request.system, request.evidence, request.image),
            **{
                config.max_tokens_field if name == "max_tokens" else name: value
                for name, value in config.sampling.attempt(attempt).items()
                if name not in config.omit
            },
        }
        if config.response_format == "json_schema" and request.kind != "judgement":
            schema = {"name": request.kind, "schema": json_schema(request.kind, self.most), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif config.response_format == "json_object" and request.kind != "judgement":
            body["response_format"] = {"type": "json_object"}
        return body | config.extra_body


async def _read(response: aiohttp.ClientResponse) -> bytes | None:
    """The body, or None when it is longer than we read."""
    chunks, size = [], 0
    async for chunk in response.content.iter_chunked(65_536):
        size += len(chunk)
        if size > LONGEST_BODY:
            response.close()
            return None
        chunks.append(chunk)
    return b"".join(chunks)


def _completion(content: bytes) -> tuple[str, int, int, str]:
    try:
        body = json.loads(content)
        if "error" in body and body["error"]:
            raise _Retry("error_body: status 200 with an error inside")
        choice = body["choices"][0]
        text = choice["message"]["content"]
        usage = body.get("usage") or {}
        tokens = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        raise _Retry("half_body: the response is not a whole chat completion") from None
    if not isinstance(text, str):
        text = ""  # a refusal or a tool call: no answer
    return text, *tokens, str(choice.get("finish_reason"))
