"""Secrets out of what is printed, logged or kept.

Secret is the value of an environment variable called ``*KEY*``, ``*TOKEN*``, ``*SECRET*`` or ``*PASSWORD*``, a key that a caller
knows, and what an address carries: the part before its ``@`` and the values of parameters with such a name. Redaction is for eyes and
files: what is hashed keeps its true value, or two settings would share a name. Cut a text after it was hidden and not before, or a
secret across the cut stands there in part.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|PASSWD", re.IGNORECASE)
SHORTEST = 8
"""Characters below which the value of an environment variable is taken for no secret."""
HIDDEN = "<redacted>"
_USER = re.compile(r"(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]*://)[^\s/?#@]+@")
_PARAMETER = re.compile(
    r"(?P<name>[?&;][^\s=&;#]*(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|SIGNATURE|CREDENTIAL)[^\s=&;#]*=)[^\s&;#'\"]+",
    re.IGNORECASE,
)
_BEARER = re.compile(r"(?P<name>\bBearer\s+)(?!<redacted>)[^\s'\",;]{8,}", re.IGNORECASE)


def environment_secrets() -> list[str]:
    """Values of this process's secret environment variables, longest first; paths are none."""
    found = {
        text.strip()
        for name, text in os.environ.items()
        if SECRET_NAME.search(name) and not text.startswith("/")
    }
    return sorted((text for text in found if len(text) >= SHORTEST), key=len, reverse=True)


def hide(text: str, *keys: str | None, secrets: Iterable[str] | None = None) -> str:
    """A text with every secret replaced by ``<redacted>``.

    Args:
        text: the whole of it, not cut yet.
        keys: secrets that the caller knows, of any length.
        secrets: the environment's secrets, where they were looked up before.
    """
    known = sorted({key.strip() for key in keys if key and key.strip()}, key=len, reverse=True)
    for secret in (*known, *(environment_secrets() if secrets is None else secrets)):
        text = text.replace(secret, HIDDEN)
    if "://" in text or "?" in text or "&" in text:
        text = _USER.sub(rf"\g<scheme>{HIDDEN}@", text)
        text = _PARAMETER.sub(rf"\g<name>{HIDDEN}", text)
    return _BEARER.sub(rf"\g<name>{HIDDEN}", text) if "earer" in text else text


def redact(value: Any, *keys: str | None, secrets: Iterable[str] | None = None) -> Any:
    """A copy of plain data (dict, list, str, number, None) in which every text went through :func:`hide`."""
    secrets = environment_secrets() if secrets is None else list(secrets)

    def clean(inner: Any) -> Any:
        if isinstance(inner, str):
            return hide(inner, *keys, secrets=secrets)
        if isinstance(inner, Mapping):
            return {clean(key): clean(part) for key, part in inner.items()}
        if isinstance(inner, (list, tuple)):
            return [clean(part) for part in inner]
        return inner

    return clean(value)
