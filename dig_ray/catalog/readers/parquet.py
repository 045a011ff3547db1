"""Parquet into Arrow types that every later step knows, whichever library wrote the file."""

from __future__ import annotations

import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dig_ray.catalog.columns.cells import CELLS_ARE_JSON, cells_are_json
from dig_ray.catalog.readers.files import GZIP, broken, refuse_what_is_no_text, steady
from dig_ray.errors import UserError


def read_parquet(path: Path) -> pa.Table:
    """The whole file; views, large and packed types become plain ones, see :func:`plain_type`.

    Raises:
        UserError: not readable as Parquet, or a column name that stands twice.
    """
    try:
        with path.open("rb") as start:
            head = start.read(4096)
    except OSError as error:
        raise broken(path, error) from None
    if not head.startswith(b"PAR"):
        if head.startswith(GZIP):
            raise UserError(f"{path}: is packed with gzip; unpack it, as a Parquet file is packed inside")
        refuse_what_is_no_text(path, head)
    try:
        with steady(path), pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise UserError(
                    f"{path}: column {twice[0]!r} stands twice in the file; rename one of them, or leave it out"
                )
            for field in file.schema_arrow:
                if key := _key_twice(field.type):
                    raise UserError(
                        f"{path}: column {field.name!r} holds objects with the key {key!r} twice; rename one"
                    )
            return plain_table(file.read())
    except (pa.ArrowException, OSError) as error:
        reason = str(error).split("\n")[0][:200]
        raise UserError(
            f"{path}: not a readable Parquet file ({reason}); it may be truncated: write or fetch it again"
        ) from None


def _key_twice(kind: pa.DataType) -> str | None:
    """A name that two fields of one object have, at any depth."""
    inner = [kind.field(n) for n in range(kind.num_fields)] if pa.types.is_nested(kind) else []
    names = [field.name for field in inner] if pa.types.is_struct(kind) else []
    twice = next((name for name in names if names.count(name) > 1), None)
    return twice or next((key for field in inner if (key := _key_twice(field.type))), None)


def plain_table(table: pa.Table) -> pa.Table:
    """The same table in plain types, without the metadata that libraries leave for themselves."""
    fields, columns = [], []
    for field, column in zip(table.schema, table.columns, strict=True):
        is_json = isinstance(field.type, pa.JsonType) or cells_are_json(field)
        column = _plain(column)
        fields.append(pa.field(field.name, column.type, metadata=CELLS_ARE_JSON if is_json else None))
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The plain type that holds the same values.

    Dictionaries and run-end encoded columns are their values, string and binary views and large ones are string and binary, lists of
    any kind are lists, a UUID is text, and any other extension is what it is stored as. All else stays.
    """
    types = pa.types
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    if isinstance(kind, pa.UuidType):
        return pa.string()
    if isinstance(kind, pa.Bool8Type):
        return pa.bool_()
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    if types.is_large_string(kind) or types.is_string_view(kind):
        return pa.string()
    if types.is_large_binary(kind) or types.is_binary_view(kind):
        return pa.binary()
    if (
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
        or types.is_list_view(kind)
        or types.is_large_list_view(kind)
    ):
        return pa.list_(plain_type(kind.value_type))
    if types.is_struct(kind):
        inner = [pa.field(kind[n].name, plain_type(kind[n].type)) for n in range(kind.num_fields)]
        return pa.struct(inner)
    if types.is_map(kind):
        return pa.map_(plain_type(kind.key_type), plain_type(kind.item_type))
    return kind


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    wanted = plain_type(kind)
    if wanted == kind:
        return column
    if isinstance(kind, pa.UuidType):
        texts = [[_uuid(value) for value in chunk.storage.to_pylist()] for chunk in column.chunks]
        return pa.chunked_array([pa.array(one, pa.string()) for one in texts], pa.string())
    if isinstance(kind, pa.BaseExtensionType) and not isinstance(kind, pa.Bool8Type):
        return _plain(pa.chunked_array([chunk.storage for chunk in column.chunks], kind.storage_type))
    if pa.types.is_run_end_encoded(kind):
        return _plain(pa.chunked_array([pc.run_end_decode(c) for c in column.chunks], kind.value_type))
    if "list_view" not in str(kind):  # pyarrow 26 casts these to lists with too few offsets
        try:
            return column.cast(wanted)
        except pa.ArrowException:  # such as a dictionary in a struct, or more than 2 GB of text
            pass
    try:
        return pa.chunked_array([pa.array(c.to_pylist(), wanted) for c in column.chunks], wanted)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        return column


def _uuid(value: bytes | None) -> str | None:
    return None if value is None else str(uuid.UUID(bytes=value))
