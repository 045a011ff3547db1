"""How figures are written on the page: the same number of digits everywhere, a true minus, no leading zero on metrics."""

from __future__ import annotations

from typing import Any

NONE = "–"


def metric(value: Any, signed: bool = False) -> str:
    """A metric or a difference of two: ``.0648``, ``1.0000``, ``+.0012``, ``−.0012``; a dash for None."""
    if value is None:
        return NONE
    text = f"{abs(value):.4f}"
    text = text[1:] if text.startswith("0.") else text
    if float(f"{value:.4f}") == 0:
        return text
    return ("−" if value < 0 else "+" if signed else "") + text


def interval(low: Any, high: Any, signed: bool = False) -> str:
    """``.0461–.0512``; with signs ``+.0011 to +.0024``; empty where there is none."""
    if low is None or high is None:
        return ""
    return f"{metric(low, signed)}{' to ' if signed else '–'}{metric(high, signed)}"


def number(value: Any, digits: int = 2) -> str:
    """``12,101`` for whole numbers, else so many digits."""
    if value is None:
        return NONE
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}".replace("-", "−")


def percent(value: Any, digits: int = 1) -> str:
    """A share as per cent."""
    return NONE if value is None else f"{100 * value:.{digits}f}\u202f%".replace("-", "−")


def seconds(value: Any) -> str:
    """``12.3 s`` or ``4.5 min``."""
    if value is None:
        return NONE
    return f"{value:.1f} s" if value < 120 else f"{value / 60:.1f} min"


def size(value: int) -> str:
    """Bytes for people."""
    return f"{value / 1e6:.1f} MB" if value >= 1e6 else f"{value / 1e3:.0f} kB"
