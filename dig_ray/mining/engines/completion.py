"""Reading one response of a chat endpoint: the text, what it says that it used, and why there is no text where there is none.

Nothing in a response is trusted. Counts of tokens are taken where they are whole numbers that the request and an answer can have;
otherwise our own estimate stands for them and says so. A refusal, a filter, a tool call and bare reasoning are told apart by the fields
in which servers put them; text that is none of that is judged elsewhere (``contract.judge_answer``).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from dig_ray.mining.engines.endpoint_failures import Refused, Retry, ends_for_want_of_money, server_words
from dig_ray.mining.evidence import count_tokens

MOST_TOKENS_IN, MOST_TOKENS_OUT = 10_000_000, 1_000_000
"""Tokens that no request has and no answer is made of, whatever ``usage`` says."""
FINISHES = {"stop", "length", "content_filter", "tool_calls", "function_call", "None"}
LONGEST_COUNTED = 65_536  # characters of a body that are counted where it cannot be read


class End(NamedTuple):
    """How a response ended.

    Attributes:
        finish: the server's ``finish_reason``.
        why: why its text is no answer, such as ``"refusal: ..."``; "" where nothing speaks against it.
        estimated: whether its tokens are our estimate.
    """

    finish: str
    why: str
    estimated: bool


class Completion(NamedTuple):
    """One response: text, tokens read and written, and how it ended."""

    text: str
    tokens_in: int
    tokens_out: int
    end: End


def read_completion(content: bytes, sent: Callable[[], int] = lambda: 0, *keys: str | None) -> Completion:
    """The response in a body that came with status 200.

    Args:
        content: the body.
        sent: our estimate of the tokens that were sent; called only where the response does not say.
        keys: secrets that no message may show.

    Raises:
        Retry: it is no whole chat completion, or holds an error.
        Refused: it is a stream, a web page, or says that there is no more money; asking again gives the same.
    """
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        raise _no_json(content, sent, *keys) from None
    if isinstance(body, dict) and body.get("error"):
        said = server_words(content, *keys)
        if ends_for_want_of_money(body, said, None):
            raise Refused(f"quota: the endpoint says {said!r} with status 200")
        raise Retry(f"error_body: status 200 with an error inside{f' ({said!r})' if said else ''}")
    try:
        choice = body["choices"][0]
        message = choice["message"]
        text, thought = _text(message.get("content")), _reasoning(message)
        finish = str(choice.get("finish_reason"))
        if finish not in FINISHES:
            finish = server_words(finish.encode("utf-8", "replace"), *keys)[:40]
    except (TypeError, KeyError, IndexError, AttributeError):
        raise Retry(
            "half_body: the response is not a whole chat completion", tokens=_guess(content, sent)
        ) from None
    usage = body.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    tokens_in = _count(counts.get("prompt_tokens"), MOST_TOKENS_IN)
    tokens_out = _count(counts.get("completion_tokens"), MOST_TOKENS_OUT)
    estimated = not tokens_in or tokens_out is None or (not tokens_out and bool(text))
    if not tokens_in:  # no request is empty
        tokens_in = sent()
    if tokens_out is None or (not tokens_out and text):
        tokens_out = count_tokens(text) + count_tokens(thought)
    return Completion(
        text, tokens_in, tokens_out, End(finish, _why(message, finish, text, thought, *keys), estimated)
    )


def _count(value: Any, most: int) -> int | None:
    """A count of tokens, None where it is none: not whole, negative, or more than there can be."""
    if isinstance(value, float) and 0 <= value <= most and value.is_integer():
        return int(value)  # some servers write 10.0
    return value if type(value) is int and 0 <= value <= most else None


def _text(content: Any) -> str:
    """The text of a message; "" where it has none. A list of parts is what the protocol has for pictures and reasoning beside text."""
    if isinstance(content, list):
        parts = [
            part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"
        ]
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _reasoning(message: dict[str, Any]) -> str:
    for name in ("reasoning_content", "reasoning", "thinking"):
        if isinstance(message.get(name), str) and message[name].strip():
            return str(message[name])
    return ""


def _why(message: dict[str, Any], finish: str, text: str, thought: str, *keys: str | None) -> str:
    """What the server says about a response that may hold no answer."""
    refusal = message.get("refusal")
    if isinstance(refusal, str) and refusal.strip():
        return f"refusal: the model refuses ({server_words(refusal.encode('utf-8', 'replace'), *keys)!r})"
    if finish == "content_filter":
        return "content_filter: the endpoint's filter has withheld the answer"
    calls = message.get("tool_calls") or message.get("function_call")
    if calls and not text.strip():
        return f"tool_call: the model calls {_tool(calls, *keys)} and gives no answer"
    if not text.strip() and thought:
        return "thinking: the response holds the model's reasoning and no answer"
    if not text.strip():
        content = message.get("content")
        what = (
            "has no text" if isinstance(content, (str, list, type(None))) else "holds a value that is no text"
        )
        return f"empty: the response {what} (finish_reason {finish})"
    return ""


def _tool(calls: Any, *keys: str | None) -> str:
    call = calls[0] if isinstance(calls, list) else calls
    function = call.get("function", call) if isinstance(call, dict) else {}
    name = function.get("name") if isinstance(function, dict) else None
    return (
        f"the tool {server_words(name.encode('utf-8', 'replace'), *keys)[:40]!r}"
        if isinstance(name, str)
        else "a tool"
    )


def _no_json(content: bytes, sent: Callable[[], int], *keys: str | None) -> Retry | Refused:
    """What a body that is no JSON is."""
    begin = content[:4096].lstrip().lower()
    if begin.startswith((b"data:", b"event:", b": ", b":\n", b"id:")):
        return Refused(
            "stream: the endpoint streams its answer although it was not asked to",
            tokens=_guess(content, sent),
        )
    if begin.startswith(b"<"):
        return Refused(f"html: the endpoint answers with a web page ({server_words(content, *keys)!r})")
    said = f" but begins with {server_words(content, *keys)[:60]!r}" if begin else " but empty"
    return Retry(
        f"half_body: the response is not a whole chat completion{said}", tokens=_guess(content, sent)
    )


def _guess(content: bytes, sent: Callable[[], int]) -> tuple[int, int]:
    """Tokens of a response that cannot be read: it may have been paid for all the same."""
    return sent(), count_tokens(content[:LONGEST_COUNTED].decode("utf-8", "replace"))
