"""One product of the Amazon metadata as a row, for each of the three releases; what has another shape than published is refused."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from dig_ray.catalog.text import plain_text

Row = dict[str, Any]


class WrongShape(Exception):
    """A field holds what it cannot hold.

    Attributes:
        field: its name in the file.
        kind: what stands there, ``an object``.
    """

    def __init__(self, field: str, kind: str) -> None:
        super().__init__(field, kind)
        self.field, self.kind = field, kind


def converter(source: str) -> Callable[[Row, Counter[str]], Row]:
    """What makes a row of a record of this release: texts, and lists of text for categories, features and links.

    The function raises :class:`WrongShape`, and counts in its notes ``details_unreadable``.
    """
    return {"amazon14": _item_2014, "amazon18": _item_2018, "amazon23": _item_2023}[source]


def is_missing(value: Any) -> bool:
    """None, NaN or a blank text."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def texts(record: Row, field: str) -> list[str]:
    """Texts out of a text, a number, a list of these, or nothing; nested lists are flattened, what is missing is left out.

    Raises:
        WrongShape: an object, or true or false.
    """
    return _flat(record.get(field), field)


def _flat(value: Any, field: str) -> list[str]:
    if is_missing(value):
        return []
    if isinstance(value, str):
        return [value]
    if isinstance(value, bool) or not isinstance(value, (int, float, list, tuple)):
        raise WrongShape(field, "an object" if isinstance(value, dict) else f"{value}"[:20])
    if isinstance(value, (int, float)):
        return [_number(value)]
    return [text for part in value for text in _flat(part, field)]


def _text(record: Row, field: str) -> str:
    return " ".join(texts(record, field))


def _number(value: int | float) -> str:
    """Digits without an exponent; infinities as ``inf``."""
    if isinstance(value, int):
        return str(value)
    return format(Decimal(repr(value)), "f").removesuffix(".0") if math.isfinite(value) else str(value)


def _path(value: Any, field: str) -> list[str]:
    """One category path, as the text ``A > B > C``."""
    parts = [plain_text(text) for text in _flat(value, field)]
    return [" > ".join(filter(None, parts))] if any(parts) else []


def _price(value: Any) -> str:
    """As text, for the rule that reads all prices; a list or object is left as JSON, which that rule counts as unreadable."""
    if is_missing(value) or value == "None":
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _number(value)
    return json.dumps(value, default=str)


def _object(record: Row, field: str) -> Row:
    value = record.get(field)
    if is_missing(value):
        return {}
    if not isinstance(value, dict):
        raise WrongShape(field, "a list" if isinstance(value, list) else "no object")
    return value


def _item_2014(record: Row, notes: Counter[str]) -> Row:
    related = _object(record, "related")
    paths = record.get("categories")
    paths = [] if is_missing(paths) else paths if isinstance(paths, list) else [paths]
    nested = paths if any(isinstance(path, list) for path in paths) else [paths]
    return {
        "title": _text(record, "title"),
        "description": _text(record, "description"),
        "brand": _text(record, "brand"),
        "categories": [text for path in nested for text in _path(path, "categories")],
        "price": _price(record.get("price")),
        "image": _text(record, "imUrl"),
        "main_category": next(iter(_flat(paths, "categories")), ""),
        "also_buy": texts(related, "also_bought"),
        "also_view": texts(related, "also_viewed"),
    }


def _item_2018(record: Row, notes: Counter[str]) -> Row:
    images = [texts(record, name) for name in ("imageURLHighRes", "imageURL", "image")]
    return {
        "title": _text(record, "title"),
        "description": _text(record, "description"),
        "brand": _text(record, "brand"),
        "categories": _path(record.get("category"), "category"),
        "price": _price(record.get("price")),
        "image": next((group[0] for group in images if group), ""),
        "main_category": plain_text(_text(record, "main_cat")),
        "features": [plain_text(text) for text in texts(record, "feature")],
        "also_buy": texts(record, "also_buy"),
        "also_view": texts(record, "also_view"),
    }


def _item_2023(record: Row, notes: Counter[str]) -> Row:
    details = record.get("details")
    if isinstance(details, str) and details.strip():  # some copies hold it as JSON text
        try:
            details = json.loads(details)
        except (ValueError, RecursionError):
            notes["details_unreadable"] += 1
            details = {}
    details = _object({"details": details}, "details")
    main = _text(record, "main_category")
    return {
        "title": _text(record, "title"),
        "description": _text(record, "description"),
        "brand": _text(details, "Brand") or _text(record, "store"),
        "categories": _path(record.get("categories"), "categories") or _path(main, "main_category"),
        "price": _price(record.get("price")),
        "image": _image_2023(record.get("images")),
        "main_category": main,
        "features": [plain_text(text) for text in texts(record, "features")],
        "also_buy": texts(record, "bought_together"),
    }


def _image_2023(images: Any) -> str:
    """The first picture, largest first; a list of objects as published, an object of lists as in Parquet copies, or addresses."""
    if is_missing(images):
        return ""
    if isinstance(images, str):
        return images
    if isinstance(images, dict):
        images = [{size: urls[0]} for size, urls in images.items() if isinstance(urls, list) and urls]
        images = [{size: url for image in images for size, url in image.items()}]
    if not isinstance(images, list) or any(
        not isinstance(image, (dict, str, type(None))) for image in images
    ):
        raise WrongShape("images", "no list of pictures")
    for image in images:
        if isinstance(image, str) and image.strip():
            return image
        for size in ("hi_res", "large", "thumb"):
            if isinstance(image, dict) and isinstance(image.get(size), str) and image[size]:
                return image[size]
    return ""
