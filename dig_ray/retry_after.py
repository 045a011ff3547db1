"""How long a server asks to be left alone."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def retry_after_seconds(header: str | None, most: float = 3600.0) -> float | None:
    """Seconds of an HTTP ``Retry-After`` header, which is a number or a date (RFC 9110, 10.2.3); None where there is none to read.

    Args:
        header: its value.
        most: what longer waits are cut to.
    """
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    return min(max(0.0, seconds), most) if seconds == seconds else None
