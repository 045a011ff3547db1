"""Amazon Reviews 2014, 2018 and 2023 as their publisher ships them; each release names its fields differently.

2014: reviewerID, asin, unixReviewTime (s); metadata lines are Python literals, categories a list of paths, links under
``related``. 2018: the same ids; metadata is JSON with ``category`` (one path), ``description`` (list), ``also_buy``,
``also_view``, ``imageURLHighRes``. 2023: user_id, parent_asin, timestamp (ms); ``images`` is a list of objects with
``hi_res`` and ``large``, the brand stands in ``details``. An item is its ``asin`` (2023: ``parent_asin``, which joins
the variants of one product and is what the metadata is keyed by).
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from dig_ray.catalog.build import Raw
from dig_ray.catalog.columns import interactions_table, items_table
from dig_ray.catalog.config import CatalogConfig, InteractionsConfig, ItemsConfig
from dig_ray.catalog.files import existing_file, read_lines
from dig_ray.catalog.text import clean_text, plain_text
from dig_ray.errors import UserError

MAX_LINE = 20_000_000  # characters; a longer line is no record of these files
_SCRIPT = re.compile(
    r"getTime\(|var aPageStart|<script", re.IGNORECASE
)  # page code that a crawler took for a title
_ID = re.compile(r"""['"](?:parent_)?asin['"]\s*:\s*['"]([^'"]*)['"]""")


def read_amazon(config: CatalogConfig, reviews: str, meta: str | None) -> Raw:
    """Reviews as interactions, metadata as items.

    Args:
        config: ``source`` says which release.
        reviews: the reviews file, plain or gzipped.
        meta: the metadata file, plain or gzipped, or None for items without text.

    Raises:
        UserError: a file is missing, truncated, empty, or has a line that is no record of this release.
    """
    notes: Counter[str] = Counter()
    table = _read_reviews(existing_file(reviews), config.source, notes)
    unit = "ms" if config.source == "amazon23" else "s"
    mapping = InteractionsConfig(path=reviews, time_unit=unit)  # type: ignore[arg-type]
    interactions = interactions_table(table, mapping, given_split=False, notes=notes)
    items = None
    if meta is not None:
        drops = config.unused_items == "drop" or (config.unused_items == "auto" and config.k_core > 0)
        wanted = set(table.column("item_id").to_pylist()) if drops else None
        raw = _read_meta(existing_file(meta), config.source, wanted, notes)
        items = items_table(raw, ItemsConfig(path=meta), config.max_text_chars, notes)
    return Raw(items, interactions, notes, meta or "items", reviews)


# --- lines ----------------------------------------------------------------------------------------------


def parse_literal(text: str) -> Any:
    """JSON, or a literal of Python's (2014 metadata); nothing is ever executed.

    Raises:
        ValueError: neither.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    if len(text) > MAX_LINE:
        raise ValueError("the line is too long")
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(str(error)[:100]) from None


def _records(
    path: Path, notes: Counter[str], wanted: set[str] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in read_lines(path, notes):
        if wanted is not None and not any(key in wanted for key in _ID.findall(line)):
            continue
        try:
            record = parse_literal(line)
        except ValueError as error:
            raise UserError(
                f"{path}: line {number} is no record ({error}); correct or remove the line"
            ) from None
        if not isinstance(record, dict):
            raise UserError(
                f"{path}: line {number} is no record but a {type(record).__name__}; give the file as published"
            )
        yield number, record


def _field(record: dict[str, Any], names: tuple[str, ...], path: Path, number: int, source: str) -> Any:
    for name in names:
        if record.get(name) not in (None, ""):
            return record[name]
    raise UserError(
        f"{path}: line {number} has no {' or '.join(names)}, which every line of {source} has; set catalog.source to the "
        "right release, or remove the line"
    )


def _read_reviews(path: Path, source: str, notes: Counter[str]) -> pa.Table:
    new = source == "amazon23"
    user = ("user_id",) if new else ("reviewerID",)
    item = ("parent_asin",) if new else ("asin",)
    time = ("timestamp", "sort_timestamp") if new else ("unixReviewTime",)
    columns: dict[str, list[Any]] = {"user_id": [], "item_id": [], "timestamp": [], "rating": []}
    for number, record in _records(path, notes):
        columns["user_id"].append(_id(_field(record, user, path, number, source), path, number))
        columns["item_id"].append(_id(_field(record, item, path, number, source), path, number))
        moment = _field(record, time, path, number, source)
        if isinstance(moment, bool) or not isinstance(moment, (int, float)):
            raise UserError(
                f"{path}: line {number} has the time {str(moment)[:40]!r}, which is no number; correct the line"
            )
        columns["timestamp"].append(int(moment))
        rating = record.get("rating" if new else "overall")
        columns["rating"].append(float(rating) if isinstance(rating, (int, float)) else None)
    if not columns["user_id"]:
        raise UserError(f"{path}: the file has no reviews; give a file with at least one")
    columns["rating"] = [float("nan") if r is None else r for r in columns["rating"]]
    kinds = {"timestamp": pa.int64(), "rating": pa.float64()}
    return pa.table(
        {name: pa.array(values, kinds.get(name, pa.string())) for name, values in columns.items()}
    )


def _id(value: Any, path: Path, number: int) -> str:
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        raise UserError(f"{path}: line {number} has an id of type {type(value).__name__}; ids are text")
    return clean_text(str(value))


def _read_meta(path: Path, source: str, wanted: set[str] | None, notes: Counter[str]) -> pa.Table:
    convert: Callable[[dict[str, Any]], dict[str, Any]] = {
        "amazon14": _item_2014,
        "amazon18": _item_2018,
        "amazon23": _item_2023,
    }[source]
    key = ("parent_asin",) if source == "amazon23" else ("asin",)
    rows: list[dict[str, Any]] = []
    for number, record in _records(path, notes, wanted):
        row = convert(record)
        row["item_id"] = _id(_field(record, key, path, number, source), path, number)
        if _SCRIPT.search(row["title"]):
            notes["titles_of_page_code_blanked"] += 1
            row["title"] = ""
        row["title"], row["brand"] = plain_text(row["title"]), plain_text(row["brand"])
        row["description"] = plain_text(row["description"])
        rows.append(row)
    if not rows:
        raise UserError(
            f"{path}: the file has no items that the reviews name; give the metadata of the same category"
        )
    names = ("item_id", "title", "description", "brand", "price", "image", "main_category")
    columns: dict[str, pa.Array] = {}
    for name in names:
        columns[name] = pa.array([clean_text(row.get(name) or "") for row in rows], pa.string())
    for name in ("categories", "features", "also_buy", "also_view"):
        columns[name] = pa.array(
            [[clean_text(v) for v in row.get(name, ())] for row in rows], pa.list_(pa.string())
        )
    return pa.table(columns)


# --- one release each -----------------------------------------------------------------------------------


def _texts(value: Any) -> list[str]:
    """Texts out of a text, a list, or nothing; nested lists are flattened, blanks left out."""
    if isinstance(value, str):
        return [value] if value.strip() else []
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return [str(value)]
    if isinstance(value, (list, tuple)):
        return [text for part in value for text in _texts(part)]
    return []


def _text(value: Any) -> str:
    return " ".join(_texts(value))


def _path(value: Any) -> list[str]:
    """One category path, as the text ``A > B > C``."""
    parts = [plain_text(text) for text in _texts(value)]
    return [" > ".join(filter(None, parts))] if any(parts) else []


def _price(value: Any) -> str:
    return "" if value is None or isinstance(value, (bool, list, dict)) else str(value)


def _item_2014(record: dict[str, Any]) -> dict[str, Any]:
    related = record.get("related")
    related = related if isinstance(related, dict) else {}
    paths = record.get("categories")
    paths = paths if isinstance(paths, list) else []
    nested = paths if any(isinstance(path, list) for path in paths) else [paths]
    return {
        "title": _text(record.get("title")),
        "description": _text(record.get("description")),
        "brand": _text(record.get("brand")),
        "categories": [text for path in nested for text in _path(path)],
        "price": _price(record.get("price")),
        "image": _text(record.get("imUrl")),
        "main_category": next(iter(_texts(paths)), ""),
        "also_buy": _texts(related.get("also_bought")),
        "also_view": _texts(related.get("also_viewed")),
    }


def _item_2018(record: dict[str, Any]) -> dict[str, Any]:
    images = [_texts(record.get(name)) for name in ("imageURLHighRes", "imageURL", "image")]
    return {
        "title": _text(record.get("title")),
        "description": _text(record.get("description")),
        "brand": _text(record.get("brand")),
        "categories": _path(record.get("category")),
        "price": _price(record.get("price")),
        "image": next((group[0] for group in images if group), ""),
        "main_category": plain_text(_text(record.get("main_cat"))),
        "features": [plain_text(text) for text in _texts(record.get("feature"))],
        "also_buy": _texts(record.get("also_buy")),
        "also_view": _texts(record.get("also_view")),
    }


def _item_2023(record: dict[str, Any]) -> dict[str, Any]:
    details = record.get("details")
    if isinstance(details, str):  # some copies hold it as JSON text
        try:
            details = json.loads(details)
        except (ValueError, RecursionError):
            details = {}
    details = details if isinstance(details, dict) else {}
    main = _text(record.get("main_category"))
    return {
        "title": _text(record.get("title")),
        "description": _text(record.get("description")),
        "brand": _text(details.get("Brand") or record.get("store")),
        "categories": _path(record.get("categories")) or _path(main),
        "price": _price(record.get("price")),
        "image": _image_2023(record.get("images")),
        "main_category": main,
        "features": [plain_text(text) for text in _texts(record.get("features"))],
        "also_buy": _texts(record.get("bought_together")),
    }


def _image_2023(images: Any) -> str:
    """The first picture, largest first; a list of objects as published, or an object of lists as in Parquet copies."""
    if isinstance(images, dict):
        images = [{size: urls[0]} for size, urls in images.items() if isinstance(urls, list) and urls]
        images = [{size: url for image in images for size, url in image.items()}]
    for image in images if isinstance(images, list) else []:
        for size in ("hi_res", "large", "thumb"):
            if isinstance(image, dict) and isinstance(image.get(size), str) and image[size]:
                return image[size]
    return ""
