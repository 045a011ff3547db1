"""One number as people and shops write it: its readings with a decimal point and with a decimal comma."""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from dig_ray.catalog.columns.cells import is_missing
from dig_ray.catalog.columns.ids import MISSING_WORDS

ABSENT = (*sorted(MISSING_WORDS), "", "NA", "N/A", "n/a")

_GROUP = r"[1-9]\d{0,2}(?:(?P<g>[%s])\d{3})(?:(?P=g)\d{3})*"
_INDIAN = r"[1-9]\d?(?:,\d{2})+,\d{3}"
_COMMAS, _POINTS = _GROUP % ",'’ _", _GROUP % ".'’ _"
_POINT = re.compile(rf"(?P<whole>\d+|{_COMMAS}|{_INDIAN})?(?P<part>\.\d*)?", re.ASCII)
_COMMA = re.compile(rf"(?P<whole>\d+|{_POINTS})?(?P<part>,\d*)?", re.ASCII)
_AFFIX = r"[^\d\s.,'’+\-−–]+\.?"
_PARTS = re.compile(
    rf"(?P<sign>[-+−]?)\s*(?P<before>{_AFFIX})?\s*(?P<sign2>[-+−]?)\s*(?P<body>[0-9.,'’ _]*[0-9][0-9.,'’ _]*?)\s*(?P<after>{_AFFIX})?"
)
_DASH = re.compile(r"(?<=[0-9])[.,]\s?[-–—]{1,2}(?=\s|$)")  # 12,- and 12.–
_SCIENTIFIC = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d{1,4}", re.ASCII)
_INFINITE = re.compile(r"[-+]?(?:inf|infinity|∞)", re.IGNORECASE)
_CODES = """AED ARS AUD BDT BGN BRL CAD CHF CLP CNY COP CZK DKK EGP EUR GBP HKD HUF IDR ILS INR ISK JPY KRW MAD MXN MYR NGN NOK NZD PEN
    PHP PKR PLN RMB RON RSD RUB SAR SEK SGD THB TRY TWD UAH USD VND ZAR"""
_LOCAL = "zł kč kr kr. ft lei лв лв. руб руб. р. rs rs. rm rp rp. r tl sfr sfr. fr fr. lt din din. dh euro euros dollars 円 元"
_CURRENCIES = frozenset(_CODES.lower().split()) | frozenset(_LOCAL.split())


@dataclass
class Form:
    """A value's readings; ``tells`` is the mark that it can only have."""

    point: float | int | None = None
    comma: float | int | None = None
    tells: str = ""
    problem: str = ""
    currency: str = ""


def read_number(value: Any) -> Form:
    """A text's readings; a number has one. What is missing has none and no problem."""
    if is_missing(value):
        return Form()
    if isinstance(value, bool) or not isinstance(value, (int, float, str, Decimal)):
        return Form(problem="unreadable")
    if not isinstance(value, str):
        if isinstance(value, float) and math.isinf(value):
            return Form(problem="infinite")
        return Form(value, value)  # type: ignore[arg-type]
    text = re.sub(r"[\u00a0\u202f\u2009\u2007]", " ", value).strip()
    if text in ABSENT:
        return Form()
    if _INFINITE.fullmatch(text):
        return Form(problem="infinite")
    if _SCIENTIFIC.fullmatch(text):
        number = float(text)
        tells = "point" if "." in text else ""
        return Form(number, number, tells) if math.isfinite(number) else Form(problem="infinite")
    return _read_text(_DASH.sub("", text))


def _read_text(text: str) -> Form:
    parts = _PARTS.fullmatch(text)
    if parts is None or (parts["sign"] and parts["sign2"]):
        return Form(problem="unreadable")
    currencies = [parts[name] for name in ("before", "after") if parts[name]]
    if not all(_is_currency(name) for name in currencies):
        return Form(problem="unreadable")
    negative = (parts["sign"] or parts["sign2"]) in ("-", "−")
    body = parts["body"].strip()
    point, comma = _number(_POINT, body, negative), _number(_COMMA, body, negative)
    if point is None and comma is None:
        return Form(problem="unreadable")
    if any(isinstance(n, float) and math.isinf(n) for n in (point, comma)):
        return Form(problem="infinite")
    tells = "point" if comma is None else "comma" if point is None else ""
    return Form(point, comma, tells, currency=currencies[0] if currencies else "")


def _is_currency(name: str) -> bool:
    short = name.removesuffix("$")
    if name.endswith("$") and len(short) <= 3 and (not short or short.isalpha()):
        return True
    if len(name) == 1 and unicodedata.category(name) == "Sc":
        return True
    return name.lower() in _CURRENCIES


def _number(form: re.Pattern[str], body: str, negative: bool) -> float | int | None:
    found = form.fullmatch(body)
    if found is None or not any(c.isdigit() for c in body):
        return None
    whole = re.sub(r"\D", "", found["whole"] or "0", flags=re.ASCII)
    decimals = (found["part"] or "")[1:]
    if len(whole) > 400:
        return math.inf
    number = float(f"{whole}.{decimals}") if decimals else int(whole)
    return -number if negative else number
