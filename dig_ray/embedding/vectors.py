"""The embeddings table: ``item_id``, ``vector`` as a fixed-size list of float32, and what makes one unusable.

Vectors brought along (from any model, in any tool) pass the same checks as ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dig_ray.artifacts.artifact_tables import write_vectors
from dig_ray.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["check_finite", "known_vectors", "load_vectors", "write_vectors"]


def known_vectors(path: str | Path, item_ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Vectors brought along that need not cover the catalogue: float32 (N, D), zeros where there is none, and bool (N,) which are there.

    Raises:
        UserError: as ``load_vectors``, or no item of the catalogue has one.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    from dig_ray.catalog.columns.cells import column_of

    table = _read(path, ["item_id", "vector"], ["known"])
    if "known" in table.column_names:
        told = column_of(table, "known")
        if told.kind not in (pa.bool_(), pa.null()):
            raise UserError(
                f"{path}: column known is {told.kind}, not true or false; write it as such or leave it out"
            )
        table = table.filter(pc.fill_null(told.cells.cast(pa.bool_()), False))
    place = _places(table, str(path))
    known = np.array([item in place for item in item_ids], dtype=bool)
    if place and not known.any():
        raise UserError(
            f"{path}: none of its {len(place):,} item_ids is in the catalogue, whose first is {item_ids[0]!r}"
        )
    vectors = _vectors(table, place, [item for item in item_ids if item in place], "vector", str(path), True)
    out = np.zeros((len(item_ids), vectors.shape[1]), np.float32)
    out[known] = vectors
    return out, known


def load_vectors(
    path: str | Path, item_ids: Sequence[str] | np.ndarray, column: str = "vector", allow_zero: bool = True
) -> np.ndarray:
    """Read an embeddings Parquet in the order of ``item_ids``: float32 (N, D). Rows of other items are left out.

    Raises:
        UserError: file or column missing, unreadable or truncated; ids missing, or twice; vectors missing, of unequal
            length, or with NaN or infinity (or all zero, unless ``allow_zero``).
    """
    table = _read(path, ["item_id", column])
    wanted = [str(item) for item in item_ids]
    return _vectors(table, _places(table, str(path)), wanted, column, str(path), allow_zero)


def _read(path: str | Path, needed: list[str], wanted: Sequence[str] = ()) -> pa.Table:
    """Columns of a Parquet file, those of ``wanted`` where it has them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(path).names
        for name in needed:
            if name not in names:
                raise UserError(f"{path}: no column {name!r}; it has {', '.join(names)}")
        columns = [*needed, *(name for name in wanted if name in names)]
        for name in columns:
            if names.count(name) > 1:
                raise UserError(f"{path}: column {name!r} stands there twice; rename or drop one of them")
        return pq.read_table(path, columns=columns)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; correct the path of the vectors") from None
    except (pa.ArrowException, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise UserError(f"{path}: not a readable Parquet file ({reason}); write it again") from None


def _places(table: pa.Table, what: str) -> dict[str, int]:
    """Where each item stands; ids by the rule of the catalogue's."""
    from dig_ray.catalog.columns.id_cells import every_id, places_once

    return places_once(
        every_id(table, "item_id", what),
        lambda item, first, second: (
            f"{what}: item_id {item!r} appears more than once (data rows {first} and {second}); keep one of them"
        ),
    )


def _vectors(
    table: pa.Table, place: dict[str, int], wanted: Sequence[str], column: str, what: str, allow_zero: bool
) -> np.ndarray:
    """float32 (N, D) of the wanted items; see ``load_vectors``."""
    import pyarrow as pa
    import pyarrow.compute as pc

    missing = [item for item in wanted if item not in place]
    if missing:
        raise UserError(
            f"{what}: no vector for {len(missing)} of {len(wanted)} catalogue items, the first is {missing[0]!r}; "
            f"embed all items or drop them from the catalogue"
        )
    rows = [place[item] for item in wanted]
    values = _lists(table, column, what).take(pa.array(rows, pa.int64()))

    if values.null_count:
        at = int(np.argmax(np.asarray(pc.is_null(values))))
        raise UserError(
            f"{what}: item {wanted[at]!r} has no vector (null in data row {rows[at] + 1}); give one or drop the row"
        )
    lengths = np.asarray(pc.list_value_length(values))
    if not len(lengths) or len(set(lengths.tolist())) != 1 or lengths[0] == 0:
        if not len(lengths):
            raise UserError(f"{what}: the file has no vectors; write one for every item")
        odd = int(np.flatnonzero(lengths != np.bincount(lengths).argmax())[0]) if lengths.max() else 0
        raise UserError(
            f"{what}: vectors differ in length, {lengths.min()} to {lengths.max()} (item {wanted[odd]!r} in data row "
            f"{rows[odd] + 1} has {lengths[odd]}); all need the same number of dimensions"
        )
    flat = values.flatten()
    with np.errstate(over="ignore"):
        vectors = flat.to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(wanted), -1)
    check_finite(vectors, wanted, what)
    if not allow_zero:
        zero = np.flatnonzero(~vectors.any(axis=1))
        if len(zero):
            raise UserError(
                f"{what}: {len(zero)} vectors are all zero, the first is item {wanted[int(zero[0])]!r}"
            )
    return vectors


def _lists(table: pa.Table, name: str, what: str) -> pa.Array:
    """The vectors as lists of numbers: Arrow's, or texts such as ``[0.1, 0.2]``."""
    import pyarrow as pa

    from dig_ray.catalog.columns.cells import Types, column_of, is_list, is_text

    column = column_of(table, name)
    if is_text(column.kind):
        return _written(column.cells.to_pylist(), name, what)
    if not is_list(column.kind):
        raise UserError(f"{what}: column {name!r} is {column.kind}, expected a list of numbers per item")
    inner = column.kind.value_type
    if Types.is_decimal(inner):
        return column.cells.cast(pa.list_(pa.float64()))
    if not (Types.is_floating(inner) or Types.is_integer(inner)):
        raise UserError(f"{what}: column {name!r} holds lists of {inner}, expected numbers")
    return column.cells


def _written(texts: Sequence[str | bytes | None], name: str, what: str) -> pa.Array:
    """Vectors written as text."""
    import pyarrow as pa

    from dig_ray.catalog.columns.faults import shown
    from dig_ray.catalog.readers.literals import read_literal

    rows: list[list[float] | None] = []
    for row, text in enumerate(texts):
        try:
            value = None if text is None else read_literal(text if isinstance(text, str) else text.decode())
            if value is not None and not isinstance(value, list):
                raise ValueError
            rows.append(None if value is None else [_number(entry) for entry in value])
        except ValueError:
            raise UserError(
                f"{what}: column {name!r} holds {shown(text)} in data row {row + 1}, expected a list of numbers such as [0.1, 0.2]"
            ) from None
    return pa.array(rows, pa.list_(pa.float64()))


def _number(value: object) -> float:
    if value is None:
        return float("nan")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError
    try:
        return float(value)
    except OverflowError:
        return float("inf")


def check_finite(
    vectors: np.ndarray, item_ids: Sequence[str] | np.ndarray, what: str, hint: str = "mend it"
) -> None:
    """UserError naming the first item whose vector has NaN or infinity."""
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise UserError(
            f"{what}: the vectors of {len(bad)} items hold NaN or infinity, the first is item {str(item_ids[int(bad[0])])!r}; {hint}"
        )
