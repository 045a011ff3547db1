"""How long a server asks to be left alone."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_NUMBER = re.compile(r"\s*[0-9]{1,300}(?:\.[0-9]{0,300})?\s*")


def retry_after_seconds(header: str | None, most: float = 3600.0) -> float | None:
    """Seconds of an HTTP ``Retry-After`` header, which is a number or a date (RFC 9110, 10.2.3); None where there is none to read.

    Args:
        header: its value.
        most: what longer waits are cut to.
    """
    if header is None:
        return None
    if _NUMBER.fullmatch(header):
        return min(float(header), most)
    try:
        seconds = (parsedate_to_datetime(header[:100]) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError, ArithmeticError, IndexError):
        return None
    return min(max(0.0, seconds), most)
