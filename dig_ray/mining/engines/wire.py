"""One request on the wire: what is sent, what it cost, and the response as a completion or the reason why there is none."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from dig_ray.mining.engines.completion import Completion, read_completion
from dig_ray.mining.engines.contract import Request
from dig_ray.mining.engines.endpoint_failures import NoAnswer, Refused, Retry, no_answer, server_words
from dig_ray.mining.engines.response_format import AnswerShape
from dig_ray.mining.evidence import count_tokens
from dig_ray.mining.prompts import chat_messages
from dig_ray.mining.tokens import picture_tokens, shared_tokens

if TYPE_CHECKING:
    import aiohttp

    from dig_ray.mining.engines.openai import OpenAIConfig

LONGEST_BODY = 1 << 20  # bytes read of one response

Pay = Callable[[int, int, bool], Awaitable[None]]
"""Pays for tokens read and written; whether they are our estimate."""


class Wire:
    """Requests to one endpoint.

    Args:
        config: its settings.
        most: entries that an answer's schema allows.
        key: the endpoint's key; None where it takes none.
        shape: how it is told the shape of an answer.
    """

    def __init__(self, config: OpenAIConfig, most: int, key: str | None, shape: AnswerShape) -> None:
        self.config, self.most, self.key, self.shape = config, most, key, shape
        self.url = config.base_url.rstrip("/") + "/chat/completions"

    @asynccontextmanager
    async def session(self, in_flight: int) -> AsyncIterator[aiohttp.ClientSession]:
        """Connections, ``in_flight`` at most."""
        import aiohttp

        headers = {"Accept": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        connector = aiohttp.TCPConnector(limit=in_flight)
        async with aiohttp.ClientSession(
            headers=headers, connector=connector, auto_decompress=True
        ) as session:
            yield session

    def body(self, request: Request, attempt: int) -> bytes:
        """What is sent to ask for the ``attempt``-th answer."""
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
        return json.dumps(body | self.shape.field(request.kind, self.most) | config.extra_body).encode()

    async def post(
        self, session: aiohttp.ClientSession, body: bytes, request: Request, pay: Pay
    ) -> Completion:
        """Send once; what it cost is paid before this returns or raises.

        Raises:
            NoAnswer: there is none.
        """
        status, headers, content = await self._exchange(session, body)
        try:
            if status != 200:
                raise no_answer(status, headers, content, self.url, self.config.deadline, self.key)
            if content is None:
                tokens = self._tokens_sent(request), self.config.sampling.max_tokens
                raise Refused(f"too_long: the response has more than {LONGEST_BODY:,} bytes", tokens)
            answer = read_completion(content, lambda: self._tokens_sent(request), self.key)
        except NoAnswer as error:
            if error.tokens is not None:
                await pay(*error.tokens, True)
            raise
        except Exception as error:  # whatever a body can do to a reader costs its own row
            await pay(self._tokens_sent(request), 0, True)
            raise Retry(f"half_body: the response cannot be read ({type(error).__name__})") from None
        await pay(answer.tokens_in, answer.tokens_out, answer.end.estimated)
        return answer

    async def _exchange(self, session: aiohttp.ClientSession, body: bytes) -> tuple[int, Any, bytes | None]:
        """(status, headers, body) of the response; the body is None when it is longer than we read."""
        import aiohttp

        try:
            async with session.post(
                self.url,
                data=body,
                headers={"Content-Type": "application/json"},
                timeout=aiohttp.ClientTimeout(total=self.config.timeout),
                allow_redirects=False,
            ) as response:
                return response.status, response.headers, await _read(response)
        except TimeoutError:
            raise Retry(f"timeout: no response within {self.config.timeout:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            said = server_words(str(error).encode("utf-8", "replace"), self.key)
            raise Retry(f"connection: {type(error).__name__}{f' ({said})' if said else ''}") from None

    def _tokens_sent(self, request: Request) -> int:
        """Our estimate, as the dry run's."""
        schema = "schema" in self.shape.ways[self.shape.at] and request.kind != "judgement"
        shared = shared_tokens(request.kind, self.most, request.system, schema)
        picture = picture_tokens(request.image[0]) if request.image is not None else 0
        return shared + count_tokens(request.evidence) + picture


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
