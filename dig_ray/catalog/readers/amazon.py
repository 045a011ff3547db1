"""Amazon Reviews 2014, 2018 and 2023 as their publisher ships them; each release names its fields differently.

2014: reviewerID, asin, unixReviewTime (s); metadata lines are Python literals, categories a list of paths, links under
``related``. 2018: the same ids; metadata is JSON with ``category`` (one path), ``description`` (list), ``also_buy``,
``also_view``, ``imageURLHighRes``. 2023: user_id, parent_asin, timestamp (ms); ``images`` is a list of objects with
``hi_res`` and ``large``, the brand stands in ``details``. An item is its ``asin`` (2023: ``parent_asin``, which joins
the variants of one product and is what the metadata is keyed by).
"""

from __future__ import annotations

import ast
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from dig_ray.catalog.build import Raw
from dig_ray.catalog.columns.faults import Faults
from dig_ray.catalog.columns.fields import interactions_table, items_table
from dig_ray.catalog.columns.ids import MISSING, bad_id, id_text
from dig_ray.catalog.config import CatalogConfig, InteractionsConfig, ItemsConfig
from dig_ray.catalog.readers.amazon_items import WrongShape, converter, is_missing
from dig_ray.catalog.readers.files import existing_file, read_lines
from dig_ray.catalog.readers.json_lines import KeyTwice, decode, encodable
from dig_ray.catalog.text import plain_text
from dig_ray.errors import UserError

MAX_LINE = 20_000_000  # characters; a longer line is no record of these files
INT64 = 1 << 63
ID_CURE = "correct or remove the lines, or set catalog.bad_ids=drop"
_SCRIPT = re.compile(
    r"getTime\(|var aPageStart|<script", re.IGNORECASE
)  # page code that a crawler took for a title
_ID = re.compile(
    r"""['"](?:parent_)?asin['"]\s*:\s*(?:u?'([^'\\]*)'|"([^"\\]*)"|(-?[0-9.]+(?:[eE][+-]?[0-9]+)?)\s*[,}])"""
)


def read(config: CatalogConfig, seed: int, log: Callable[[str], None]) -> Raw:
    """The files that the config names, or those of a release, which is fetched unless it is there.

    Raises:
        UserError: see :func:`read_amazon` and :func:`dig_ray.catalog.readers.download.fetch_release`.
    """
    if config.download is not None:
        from dig_ray.catalog.readers.download import fetch_release

        reviews, meta = fetch_release(config, log)
        return read_amazon(config, str(reviews), str(meta))
    assert config.interactions is not None
    return read_amazon(config, config.interactions.path, config.items.path if config.items else None)


def read_amazon(config: CatalogConfig, reviews: str, meta: str | None) -> Raw:
    """Reviews as interactions, metadata as items.

    Args:
        config: ``source`` says which release.
        reviews: the reviews file, plain or gzipped.
        meta: the metadata file, plain or gzipped, or None for items without text.

    Raises:
        UserError: a file is missing, truncated, empty, or has lines that are no record of this release; the lines that are wrong are
            told together.
    """
    notes: Counter[str] = Counter()
    table = _read_reviews(existing_file(reviews), config, notes)
    unit = config.interactions.time_unit if config.interactions is not None else "auto"
    if unit == "auto":
        unit = "ms" if config.source == "amazon23" else "s"
    mapping = InteractionsConfig(path=reviews, time_unit=unit)
    interactions = interactions_table(table, mapping, False, notes, config.bad_ids)
    items = None
    if meta is not None:
        drops = config.unused_items == "drop" or (config.unused_items == "auto" and config.k_core > 0)
        wanted = set(table.column("item_id").to_pylist()) - {None} if drops else None
        raw = _read_meta(existing_file(meta), config, wanted, notes)
        items = items_table(raw, ItemsConfig(path=meta), config.max_text_chars, notes, config.bad_ids)
    return Raw(items, interactions, notes, meta or "items", reviews)


# --- lines ----------------------------------------------------------------------------------------------


def parse_literal(text: str) -> Any:
    """JSON, or a literal of Python's (2014 metadata); nothing is ever executed.

    Raises:
        ValueError: neither, or a key that stands twice.
    """
    try:
        return decode(text)
    except KeyTwice as error:
        raise ValueError(f"the key {str(error)[:60]!r} stands twice") from None
    except (ValueError, RecursionError):
        pass
    if len(text) > MAX_LINE:
        raise ValueError("the line is too long")
    try:
        tree = ast.parse(text.strip(), mode="eval")
        value = ast.literal_eval(tree)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise ValueError("it is neither JSON nor a literal of Python's") from None
    if isinstance(value, dict) and isinstance(tree.body, ast.Dict) and len(value) != len(tree.body.keys):
        raise ValueError("a key stands twice")
    return value


def _records(
    path: Path, faults: Faults, notes: Counter[str], wanted: set[str] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in read_lines(path, notes):
        if wanted is not None and _is_of_others(line, wanted):
            notes["metadata_of_other_items_skipped"] += 1
            continue
        try:
            record = parse_literal(line)
        except ValueError as error:
            faults.add("", f"is no record ({error})", number, cure="correct or remove the line")
            continue
        if not isinstance(record, dict):
            what = f"is no record but a {type(record).__name__}"
            faults.add("", what, number, cure="give the file as published")
            continue
        yield number, record


def _is_of_others(line: str, wanted: set[str]) -> bool:
    """Whether the line names ids, and none that is wanted; a line whose ids cannot be told without parsing it is nobody else's."""
    found = _ID.findall(line)
    if not found or len(found) < line.count("asin'") + line.count('asin"'):
        return False
    return not any(_as_id(*texts) in wanted for texts in found)


def _as_id(single: str, double: str, number: str) -> str | None:
    if not number:
        return single or double
    try:
        return id_text(float(number) if set(number) & set(".eE") else int(number))
    except ValueError:
        return None


def _field(record: dict[str, Any], names: tuple[str, ...], number: int, source: str, faults: Faults) -> Any:
    """The first of these fields that holds something, None if none does; a record without any of them is a fault."""
    for name in names:
        if not is_missing(record.get(name)):
            return record[name]
    if not any(name in record for name in names):
        what = f"has no {' or '.join(names)}, which every line of {source} has"
        faults.add("", what, number, cure="set catalog.source to the right release, or remove the line")
    return None


def _id(
    record: dict[str, Any], names: tuple[str, ...], number: int, config: CatalogConfig, faults: Faults
) -> str | None:
    """The id; what is none is a fault, or None where such rows are dropped."""
    before = len(faults)
    value = _field(record, names, number, config.source, faults)
    if len(faults) > before:
        return None
    why = bad_id(value)
    if why is None:
        return id_text(value)
    if config.bad_ids == "error":
        faults.add(f"field {names[0]}", why, number, cure=ID_CURE)
    return None


def _read_reviews(path: Path, config: CatalogConfig, notes: Counter[str]) -> pa.Table:
    new = config.source == "amazon23"
    user = ("user_id",) if new else ("reviewerID",)
    item = ("parent_asin",) if new else ("asin",)
    time = ("timestamp", "sort_timestamp") if new else ("unixReviewTime",)
    rating = "rating" if new else "overall"
    columns: dict[str, list[Any]] = {"user_id": [], "item_id": [], "timestamp": [], "rating": []}
    faults = Faults(path, "line")
    for number, record in _records(path, faults, notes):
        columns["user_id"].append(_id(record, user, number, config, faults))
        columns["item_id"].append(_id(record, item, number, config, faults))
        before = len(faults)
        moment = _field(record, time, number, config.source, faults)
        if moment is None and len(faults) == before:
            faults.add(f"field {time[0]}", MISSING, number)
        columns["timestamp"].append(_finite(moment, time[0], number, faults))
        columns["rating"].append(_finite(record.get(rating), rating, number, faults))
        if not faults or number > 1:
            continue
        if not set(record) & {user[0], item[0], *time}:
            faults.fail()  # another release: no need to read millions of lines
    faults.raise_any()
    if not columns["user_id"]:
        raise UserError(f"{path}: the file has no reviews; give a file with at least one")
    whole = all(isinstance(moment, int) for moment in columns["timestamp"])
    kinds = {"timestamp": pa.int64() if whole else pa.float64(), "rating": pa.float64()}
    return pa.table(
        {name: pa.array(values, kinds.get(name, pa.string())) for name, values in columns.items()}
    )


def _finite(value: Any, field: str, number: int, faults: Faults) -> int | float | None:
    """A number of at most 64 bits, also written as text; None where it is missing, and a fault else."""
    if is_missing(value):
        return None
    read = value
    if isinstance(value, str):
        try:
            read = float(value) if set(value.lower()) & set(".e") else int(value)
        except ValueError:
            read = None
    if isinstance(read, bool) or not isinstance(read, (int, float)):
        faults.add(f"field {field}", "holds {value}, which is no number", number, value)
    elif isinstance(read, float) and not math.isfinite(read):
        faults.add(f"field {field}", "is infinite", number)
    elif abs(read) >= INT64:
        faults.add(f"field {field}", "holds {value}, which is more than 64 bits hold", number, value)
    else:
        return int(read) if read == int(read) else read
    return None


def _read_meta(path: Path, config: CatalogConfig, wanted: set[str] | None, notes: Counter[str]) -> pa.Table:
    convert = converter(config.source)
    key = ("parent_asin",) if config.source == "amazon23" else ("asin",)
    rows: list[dict[str, Any]] = []
    faults = Faults(path, "line")
    for number, record in _records(path, faults, notes, wanted):
        item_id = _id(record, key, number, config, faults)
        try:
            row = convert(record, notes)
        except WrongShape as error:
            faults.add(f"field {error.field}", f"is {error.kind}, which is no text", number)
            continue
        if wanted is not None and item_id not in wanted:
            notes["metadata_of_other_items_skipped"] += 1
            continue
        row["item_id"] = item_id
        if _SCRIPT.search(row["title"]):
            notes["titles_of_page_code_blanked"] += 1
            row["title"] = ""
        for name in ("title", "brand", "description"):
            row[name] = plain_text(row[name])
        rows.append(row)
    faults.raise_any()
    if not rows:
        raise UserError(
            f"{path}: none of its {notes['metadata_of_other_items_skipped']} items is one that the reviews name; give the metadata of "
            "the same category"
            if wanted is not None
            else f"{path}: the file has no items; give a file with at least one"
        )
    return _table(rows, notes)


def _table(rows: list[dict[str, Any]], notes: Counter[str]) -> pa.Table:
    def clean(text: str) -> str:
        out = encodable(text)
        if out != text:
            notes["texts_not_utf8"] += 1
        return out

    columns: dict[str, pa.Array] = {"item_id": pa.array([row["item_id"] for row in rows], pa.string())}
    for name in ("title", "description", "brand", "price", "image", "main_category"):
        columns[name] = pa.array([clean(row.get(name) or "") for row in rows], pa.string())
    for name in ("categories", "features", "also_buy", "also_view"):
        lists = [[clean(text) for text in row.get(name, ())] for row in rows]
        columns[name] = pa.array(lists, pa.list_(pa.string()))
    return pa.table(columns)
