"""Foreign columns into the house's own: the column mapping, types, and what is wrong with a value.

``items``: item_id, title, description, brand (text, never null), categories (list of text), price (float, null where
unknown), image (path or URL), image_bytes (only if the source has pixels), and the source's other columns.
``interactions``: user_id, item_id, time (as given, for the order), timestamp (milliseconds), position, rating, split.
"""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dig_ray.catalog.config import InteractionsConfig, ItemsConfig
from dig_ray.catalog.text import as_strings, combined, cut, join_columns, join_lists
from dig_ray.errors import UserError

MS_PER_UNIT = {"s": 1000.0, "ms": 1.0, "us": 1e-3, "ns": 1e-6}
SPLIT_NAMES = {"train": 0, "valid": 1, "validation": 1, "val": 1, "dev": 1, "test": 2}


def items_table(table: pa.Table, config: ItemsConfig, max_chars: int, notes: Counter[str]) -> pa.Table:
    """The items in house columns; see the module.

    Args:
        table: as the reader gave it.
        config: its path (for messages), mapping and extra-column policy.
        max_chars: longer texts are cut.
        notes: raised by what had to be mended or cut.

    Raises:
        UserError: a named column is missing, an id is null or empty, or a value has the wrong type.
    """
    path, mapping = config.path, config.columns
    out: dict[str, pa.Array] = {
        "item_id": _ids(table, mapping.item_id, path, "catalog.items.columns.item_id", notes)
    }
    used = {mapping.item_id}
    for field in ("title", "description", "brand"):
        names = _chosen(table, getattr(mapping, field), field, path)
        used.update(names)
        parts = [_text(table, name, path, notes) for name in names]
        joined = pa.array(join_columns(parts, " ", table.num_rows), pa.string())
        out[field] = cut(joined, max_chars, notes)
    names = _chosen(table, mapping.categories, "categories", path)
    used.update(names)
    out["categories"] = _lists(table, names, config.category_separator, path, notes)
    out["price"] = _prices(table, _optional(table, mapping.price, "price", path), path, notes)
    name = _optional(table, mapping.image, "image", path)
    pixels = _optional(table, mapping.image_bytes, "image_bytes", path)
    used.update({mapping.price or "price", name or "image", pixels or "image_bytes"})
    if name and pa.types.is_binary(table.schema.field(name).type):
        name, pixels = None, name
    out["image"] = (
        _blank_to_null([_text(table, name, path, notes)])[0]
        if name
        else pa.nulls(table.num_rows, pa.string())
    )
    if pixels:
        out["image_bytes"] = combined(table.column(pixels)).cast(pa.binary())
    if config.extra_columns:
        for name in table.column_names:
            if name not in used and name not in out:
                out[name] = _extra(combined(table.column(name)), max_chars, notes)
    return pa.table(out)


def interactions_table(
    table: pa.Table, config: InteractionsConfig, given_split: bool, notes: Counter[str]
) -> pa.Table:
    """The interactions in house columns, rows in file order; see the module.

    Raises:
        UserError: a named column is missing, an id is null or empty, a time or rating is no number, or (with
            ``given_split``) a split is unknown.
    """
    path, mapping = config.path, config.columns
    prefix = "catalog.interactions.columns"
    out: dict[str, pa.Array] = {
        "user_id": _ids(table, mapping.user_id, path, f"{prefix}.user_id", notes),
        "item_id": _ids(table, mapping.item_id, path, f"{prefix}.item_id", notes),
    }
    if name := _optional(table, mapping.timestamp, "timestamp", path):
        time, unit = _times(combined(table.column(name)), name, path)
        unit = config.time_unit if config.time_unit != "auto" and unit is None else unit or _guess_unit(time)
        out["time"] = pa.array(time)
        out["timestamp"] = pa.array(_milliseconds(time, unit))
    if name := _optional(table, mapping.position, "position", path):
        out["position"] = _numbers(combined(table.column(name)), name, path)
    if name := _optional(table, mapping.rating, "rating", path):
        out["rating"] = pc.cast(_numbers(combined(table.column(name)), name, path, nulls=True), pa.float32())
    if given_split:
        name = mapping.split or "split"
        _need(table, name, path, f"{prefix}.split")
        texts = pc.utf8_lower(_text(table, name, path, notes))
        code = pc.index_in(texts, value_set=pa.array(SPLIT_NAMES))
        if code.null_count:
            value = texts[int(np.argmax(code.is_null().to_numpy(zero_copy_only=False)))].as_py()
            raise UserError(f"{path}: column {name} holds {value!r}; a split is train, valid or test")
        out["split"] = pa.array(np.array(list(SPLIT_NAMES.values()), dtype=np.int8)[code.to_numpy()])
    return pa.table(out)


def empty_items(ids: list[str]) -> pa.Table:
    """Items known by id only."""
    blank = pa.array([""] * len(ids), pa.string())
    n = len(ids)
    return pa.table(
        {
            "item_id": pa.array(ids, pa.string()),
            "title": blank,
            "description": blank,
            "brand": blank,
            "categories": pa.array([[]] * n, pa.list_(pa.string())),
            "price": pa.nulls(n, pa.float64()),
            "image": pa.nulls(n, pa.string()),
        }
    )


# --- finding columns ---------------------------------------------------------------------------------------


def _need(table: pa.Table, name: str, path: str, key: str) -> None:
    if name not in table.column_names:
        raise UserError(
            f"{path}: there is no column {name!r}; set {key} to one of {', '.join(table.column_names)}"
        )


def _optional(table: pa.Table, name: str | None, field: str, path: str) -> str | None:
    if name is None:
        return field if field in table.column_names else None
    _need(table, name, path, f"columns.{field}")
    return name


def _chosen(table: pa.Table, names: tuple[str, ...] | None, field: str, path: str) -> tuple[str, ...]:
    if names is None:
        return (field,) if field in table.column_names else ()
    for name in names:
        _need(table, name, path, f"columns.{field}")
    return names


# --- values ------------------------------------------------------------------------------------------------


def _is_text(kind: pa.DataType) -> bool:
    types = pa.types
    return (
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
    )


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _ids(table: pa.Table, name: str, path: str, key: str, notes: Counter[str]) -> pa.Array:
    _need(table, name, path, key)
    column = _decoded(combined(table.column(name)))
    if pa.types.is_floating(column.type):
        try:
            column = pc.cast(column, pa.int64())  # 12.0 is what a column of integers with gaps turns into
        except pa.ArrowInvalid:
            raise UserError(
                f"{path}: column {name} holds fractions, which are no ids; give text or integers"
            ) from None
    if pa.types.is_integer(column.type):
        column = column.cast(pa.string())
    elif _is_text(column.type):
        column = as_strings(column, notes)
    else:
        raise UserError(f"{path}: column {name} is {column.type}, which is no id; give text or integers")
    blank = pc.fill_null(pc.equal(column, ""), True)
    if pc.any(blank).as_py():
        row = int(np.argmax(blank.to_numpy(zero_copy_only=False)))
        raise UserError(
            f"{path}: column {name} is empty in data row {row + 1}; give every row an id or remove the row"
        )
    return column


def _decoded(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _text(table: pa.Table, name: str, path: str, notes: Counter[str]) -> pa.Array:
    """A column as text without nulls."""
    column = _decoded(combined(table.column(name)))
    if pa.types.is_null(column.type):
        return pa.array([""] * len(column), pa.string())
    if _is_list(column.type):
        column = join_lists(column, " ")
    elif not _is_text(column.type):
        try:
            column = pc.cast(column, pa.string())
        except pa.ArrowException:
            raise UserError(
                f"{path}: column {name} is {column.type}, which is no text; choose another column"
            ) from None
    return pc.fill_null(as_strings(column, notes), "")


def _blank_to_null(columns: list[pa.Array]) -> list[pa.Array]:
    return [pc.if_else(pc.equal(c, ""), pa.scalar(None, pa.string()), c) for c in columns]


def _lists(
    table: pa.Table, names: tuple[str, ...], separator: str | None, path: str, notes: Counter[str]
) -> pa.Array:
    """Categories: list cells as they are; a text cell is a JSON list, or split at ``separator``, or one category."""
    rows: list[list[str]] = [[] for _ in range(table.num_rows)]
    for name in names:
        column = _decoded(combined(table.column(name)))
        if _is_list(column.type):
            if _is_list(column.type.value_type):
                raise UserError(f"{path}: column {name} is a list of lists; give a list of texts")
            cells = [cell or [] for cell in column.to_pylist()]
        else:
            cells = [_split_cell(text, separator) for text in _text(table, name, path, notes).to_pylist()]
        for row, cell in zip(rows, cells, strict=True):
            row.extend(
                text for value in cell if value is not None and (text := str(value).replace("\0", "").strip())
            )
    return pa.array(rows, pa.list_(pa.string()))


def _split_cell(text: str, separator: str | None) -> list[str]:
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, list) and not any(isinstance(v, (list, dict)) for v in value):
            return [str(v) for v in value if v is not None]
    return text.split(separator) if separator else [text]


def _prices(table: pa.Table, name: str | None, path: str, notes: Counter[str]) -> pa.Array:
    """Numbers, also out of texts such as ``$1,299.00``; what holds no single number is null and counted."""
    if name is None:
        return pa.nulls(table.num_rows, pa.float64())
    column = _decoded(combined(table.column(name)))
    if pa.types.is_null(column.type):
        return pa.nulls(table.num_rows, pa.float64())
    if (
        pa.types.is_integer(column.type)
        or pa.types.is_floating(column.type)
        or pa.types.is_decimal(column.type)
    ):
        number = pc.cast(column, pa.float64())
    else:
        texts = pc.utf8_trim_whitespace(_text(table, name, path, notes))
        bare = pc.replace_substring(pc.utf8_trim(texts, "$€£ "), ",", "")
        fits = pc.match_substring_regex(bare, r"^\d{1,12}(\.\d{1,6})?$")
        number = pc.cast(pc.if_else(fits, bare, pa.scalar(None, pa.string())), pa.float64())
        notes["prices_unreadable"] += pc.sum(pc.and_(pc.invert(fits), pc.not_equal(texts, ""))).as_py() or 0
    return pc.if_else(pc.fill_null(pc.is_finite(number), False), number, pa.scalar(None, pa.float64()))


def _extra(column: pa.Array, max_chars: int, notes: Counter[str]) -> pa.Array:
    """A column that is kept along; texts are mended like all others, types that Parquet cannot hold become text."""
    column = _decoded(column)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return cut(as_strings(column, notes), max_chars, notes)
    if pa.types.is_null(column.type):
        return column.cast(pa.string())
    return column


def _numbers(column: pa.Array, name: str, path: str, nulls: bool = False) -> pa.Array:
    """int64 or float64.

    Raises:
        UserError: a value is no number, or is missing and ``nulls`` is not set.
    """
    column = _decoded(column)
    if not pa.types.is_integer(column.type) and not pa.types.is_floating(column.type):
        if not _is_text(column.type) and not pa.types.is_decimal(column.type):
            raise UserError(f"{path}: column {name} is {column.type}, not numbers; choose another column")
        column = _parse(column, name, path)
    column = column.cast(pa.int64() if pa.types.is_integer(column.type) else pa.float64())
    bad = column.is_null(nan_is_null=True)
    if not nulls and pc.any(bad).as_py():
        row = int(np.argmax(bad.to_numpy(zero_copy_only=False)))
        raise UserError(
            f"{path}: column {name} is empty in data row {row + 1}; give every row a value or drop the row"
        )
    return column


def _parse(column: pa.Array, name: str, path: str) -> pa.Array:
    if pa.types.is_decimal(column.type):
        return column.cast(pa.float64())
    texts = pc.utf8_trim_whitespace(as_strings(column, Counter()))
    texts = _blank_to_null([texts])[0]
    for kind in (pa.int64(), pa.float64()):
        try:
            return texts.cast(kind)
        except pa.ArrowInvalid:
            continue
    for row, value in enumerate(texts.to_pylist()):
        try:
            float(value or 0)
        except ValueError:
            raise UserError(
                f"{path}: column {name} holds {value[:60]!r} in data row {row + 1}, which is no number"
            ) from None
    raise UserError(f"{path}: column {name} holds a value that is no number; correct it")


def _times(column: pa.Array, name: str, path: str) -> tuple[np.ndarray, str | None]:
    """Times as int64 or float64 in their own unit, and that unit where the type tells it."""
    column = _decoded(column)
    if pa.types.is_date(column.type) or pa.types.is_timestamp(column.type):
        return _numbers(column.cast(pa.timestamp("us")).cast(pa.int64()), name, path).to_numpy(), "us"
    try:
        return _numbers(column, name, path).to_numpy(), None
    except UserError:
        if not _is_text(column.type):
            raise
    try:
        moments = as_strings(column, Counter()).cast(pa.timestamp("us"))
    except pa.ArrowInvalid as error:
        reason = str(error).split("\n")[0][:160]
        raise UserError(
            f"{path}: column {name} is neither numbers nor dates like 2024-05-01 12:00:00 ({reason}); correct the value"
        ) from None
    return _numbers(moments.cast(pa.int64()), name, path).to_numpy(), "us"


def _guess_unit(time: np.ndarray) -> str:
    """By size of the median: today is 1.8e9 s, 1.8e12 ms, 1.8e15 us, 1.8e18 ns."""
    size = float(np.median(np.abs(time))) if len(time) else 0.0
    return "s" if size < 1e11 else "ms" if size < 1e14 else "us" if size < 1e17 else "ns"


def _milliseconds(time: np.ndarray, unit: str) -> np.ndarray:
    if np.issubdtype(time.dtype, np.integer):
        return time * 1000 if unit == "s" else time // int(round(1 / MS_PER_UNIT[unit]))
    return np.floor(time * MS_PER_UNIT[unit]).astype(np.int64)
