"""What a response without an answer means: try again, give the row up, or end the run; and the server's own words about it.

Whatever a server says is shown short, on one line, and with every secret hidden before it is cut.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urljoin

from dig_ray.guards.redaction import HIDDEN, hide
from dig_ray.guards.retry_after import retry_after_seconds

AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 529}
HOPELESS = {
    401: "the key is refused",
    402: "there is no money left for it",
    403: "the key may not do this",
    404: "the address or the model is unknown",
}
SHOWN = 160  # characters of a server's words
LONGEST_WAIT_ASKED = 1e9  # seconds
_SENT_BY_FILTERS = re.compile(
    r"content[_ ](?:filter|policy|management)|moderation|flagged|responsible ?ai", re.I
)
_NO_MONEY_CODES = {
    "insufficient_quota",
    "insufficient_user_quota",
    "insufficient_balance",
    "insufficient_credits",
    "quota_exceeded",
    "exceeded_current_quota_error",
    "billing_hard_limit_reached",
    "billing_not_active",
    "payment_required",
}
_NO_MONEY = re.compile(
    r"exceeded your (?:current|monthly|daily) quota|insufficient[ _](?:quota|balance|credits?|funds)|credit balance is too low|"
    r"out of (?:credits?|funds|quota)|quota (?:has been |is )?(?:exceeded|exhausted|used up)|"
    r"check your plan and billing|billing (?:hard )?limit",
    re.I,
)
_NOTHING_ALLOWED = re.compile(r"\blimit['\"]?\s*[:=]\s*0\b(?![.\d])", re.I)
_SOON = re.compile(r"(?:retry|try again)[^.]{0,20}? in \d|retrydelay", re.I)
_KEY_SHAPED = re.compile(r"\b(?:sk|rk|pk|gsk|xai|hf|nvapi|ghp)[-_][\w*.-]{4,}|\bAIza[\w-]{8,}")
_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.I | re.S)
_TAG = re.compile(r"<(?:script|style)\b.*?</(?:script|style)>|<[^>]*>", re.I | re.S)


class NoAnswer(Exception):
    """A request that brought no answer.

    Attributes:
        tokens: (read, written), estimated, where it may have cost something all the same.
        status: HTTP status of the response, 0 where there was none.
        said: the server's own words, fit to be shown.
    """

    def __init__(
        self, reason: str, tokens: tuple[int, int] | None = None, status: int = 0, said: str = ""
    ) -> None:
        super().__init__(reason)
        self.tokens, self.status, self.said = tokens, status, said


class Retry(NoAnswer):
    """It may be answered later.

    Attributes:
        after: seconds that the server asks for.
        busy: whether the server says that it is busy.
        throttled: whether it says that this client asks too often.
    """

    def __init__(
        self,
        reason: str,
        after: float | None = None,
        busy: bool = False,
        throttled: bool = False,
        **more: Any,
    ) -> None:
        super().__init__(reason, **more)
        self.after, self.busy, self.throttled = after, busy, throttled


class Refused(NoAnswer):
    """The endpoint will not answer this row."""


class Hopeless(NoAnswer):
    """No row would be answered."""


def server_words(content: bytes | None, *keys: str | None) -> str:
    """What a body says about itself, on one line: its error message, a page's title, or its beginning; cut after secrets were hidden."""
    if not content:
        return ""
    text = content.decode("utf-8", "replace")
    try:
        said = _message(json.loads(text))
    except (ValueError, RecursionError):
        said = None
    if said is None:
        title = _TITLE.search(text) if text.lstrip().startswith("<") else None
        said = title.group(1) if title else _TAG.sub(" ", text) if text.lstrip().startswith("<") else text
    shown = _KEY_SHAPED.sub(HIDDEN, hide(said, *keys))
    return " ".join("".join(c if c.isprintable() else " " for c in shown).split())[:SHOWN]


def _message(body: Any) -> str | None:
    """The error message in a JSON body, in the shapes that servers give it; None where there is none."""
    if isinstance(body, list) and body:
        body = body[0]
    if isinstance(body, str):
        return body
    if not isinstance(body, dict):
        return None
    for name in ("error", "message", "detail", "msg"):
        value = body.get(name)
        if isinstance(value, dict):
            inner = _message(value)
            return inner if inner is not None else json.dumps(value)
        if isinstance(value, str) and value.strip():
            return value
        if value:
            return json.dumps(value)
    return None


def ends_for_want_of_money(body: Any, said: str, retry_after: str | None) -> bool:
    """Whether an error means a used-up quota rather than a rate limit: by its code, a limit of 0, or words without any word of a wait."""
    if isinstance(body, list) and body:
        body = body[0]
    error = body.get("error", body) if isinstance(body, dict) else None
    codes = {str(error.get(name)).lower() for name in ("code", "type")} if isinstance(error, dict) else set()
    if codes & _NO_MONEY_CODES:
        return True
    whole = said if error is None else f"{said} {json.dumps(error, default=str)[:4096]}"
    if _NOTHING_ALLOWED.search(whole):
        return True
    return bool(_NO_MONEY.search(whole)) and retry_after is None and not _SOON.search(whole)


def no_answer(
    status: int,
    headers: Mapping[str, str],
    content: bytes | None,
    url: str,
    patience: float,
    *keys: str | None,
) -> NoAnswer:
    """What a response with a status other than 200 means.

    Args:
        status: HTTP status of the response.
        headers: headers of the response.
        content: its body; None where it was too long to be read.
        url: that was asked.
        patience: seconds that a row may wait.
        keys: secrets that no message may show.
    """
    said = server_words(content, *keys)
    quoted = f" ({said!r})" if said else ""
    facts: dict[str, Any] = {"status": status, "said": said}
    body, header = _json(content), headers.get("Retry-After")
    if status in (400, 403, 422, 451) and _SENT_BY_FILTERS.search(f"{said} {_codes(body)}"):
        return Refused(
            f"content_filter: the endpoint refuses this request with status {status}{quoted}", **facts
        )
    if status == 402 or (status in (403, 429) and ends_for_want_of_money(body, said, header)):
        return Refused(
            f"quota: the endpoint has no money or quota left for this, status {status}{quoted}", **facts
        )
    if status in HOPELESS:
        return Hopeless(f"status_{status}: {HOPELESS[status]}{quoted}", **facts)
    if 300 <= status < 400:
        where = hide(urljoin(url, headers.get("Location", "")), *keys)[:SHOWN]
        return Refused(
            f"status_{status}: the endpoint redirects to {where}, and redirects are not followed", **facts
        )
    if status in AGAIN or status >= 500:
        return _later(status, retry_after_seconds(header, LONGEST_WAIT_ASKED), patience, facts)
    return Refused(f"status_{status}: the endpoint refuses this request{quoted}", **facts)


def _later(status: int, after: float | None, patience: float, facts: dict[str, Any]) -> NoAnswer:
    said = facts["said"]
    if after is not None and after > patience:  # the row would end before it could be asked again
        word = "throttled" if status == 429 else f"status_{status}"
        asks = f"the endpoint asks to wait {after:,.0f} s, more than deadline={patience:g}"
        return Refused(f"{word}: {asks}{f' ({said!r})' if said else ''}", **facts)
    reason = f"status_{status}{f': the endpoint says {said!r}' if said else ''}"
    return Retry(reason, after, busy=status in (429, 503, 529), throttled=status == 429, **facts)


def _json(content: bytes | None) -> Any:
    try:
        return json.loads(content or b"")
    except (ValueError, RecursionError):
        return None


def _codes(body: Any) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    return f"{error.get('code')} {error.get('type')}" if isinstance(error, dict) else ""
