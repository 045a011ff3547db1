"""Pictures opened part by part on Ray tasks.

Items are cut into parts of ``ROWS``; parts already in ``stage.work`` are not opened again, the others are handed to Ray a few at a time and
written as they come back, so that memory is the same for a thousand pictures and for a million. The driver writes the
parts, so workers spread over machines need share nothing but the folder or archive that pictures are read from.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dig_ray.artifacts.parts import read_part, write_part
from dig_ray.base import Stage
from dig_ray.catalog.config import ImagesConfig
from dig_ray.catalog.pictures import images as reasons
from dig_ray.catalog.pictures.images import (
    Picture,
    can_fetch,
    is_address,
    open_archive,
    open_picture,
    read_bytes,
)
from dig_ray.errors import UserError
from dig_ray.on_ray.progress import Progress
from dig_ray.on_ray.session import join_ray, processors

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 256  # of a part and of a row group
PART_BYTES = 64 << 20  # of pictures that a part's items bring along
CPUS = 0.5  # of a task; a whole one each can leave none to read with
COLUMNS = ("item_id", "image", "image_bytes")


def picture_schema() -> pa.Schema:
    """Columns of ``pictures.parquet``: every item once, in catalogue order, row groups of at most ``ROWS`` rows.

    ``image`` is null where there is none, and ``reason`` then says why; ``width`` and ``height`` are the source's; ``sha256`` is that of
    ``image``.
    """
    import pyarrow as pa

    return pa.schema(
        [
            ("item_id", pa.string()),
            ("image", pa.binary()),
            ("media", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("reason", pa.string()),
            ("notes", pa.list_(pa.string())),
            ("sha256", pa.string()),
        ]
    )


def open_all(
    batches: Iterable[pa.RecordBatch], total: int, images: ImagesConfig, stage: Stage
) -> tuple[list[tuple[str, int]], int]:
    """Open the pictures of items that come in batches; what is open already is found in ``stage.work``.

    Args:
        batches: columns item_id and any of image, image_bytes.
        total: items in all of them, for progress.
        images: the settings.
        stage: its work directory keeps the parts.

    Returns:
        (part file and its rows, in order), and how many rows were open before.

    Raises:
        UserError: the archive cannot be used.
    """
    if images.archive is not None:
        open_archive(str(Path.cwd() / images.archive))
    parts: list[tuple[str, int]] = []
    progress = Progress(stage, "pictures", total)

    def to_open() -> Iterator[tuple[str, pa.Table]]:
        for table in _cut(batches, images.max_bytes):
            name = _part_name(table, images)
            parts.append((name, table.num_rows))
            if _is_open(stage.work, name, table.num_rows, images):
                progress.before += table.num_rows
            else:
                yield name, table

    for name, table in _open_on_ray(to_open(), images):
        write_part(stage.work, name, table)
        progress.done(table.num_rows)
    if progress.before:
        stage.log(f"pictures: {progress.before:,} of {total:,} were opened before")
    return parts, progress.before


def _cut(batches: Iterable[pa.RecordBatch], longest: int) -> Iterator[pa.Table]:
    """Tables of ``COLUMNS`` with at most ``ROWS`` rows, ended early where their bytes grow many; bytes too long are left out."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    for batch in batches:
        columns = {"item_id": batch["item_id"]}
        n = batch.num_rows
        for name, kind in (("image", pa.string()), ("image_bytes", pa.binary())):
            columns[name] = batch[name] if name in batch.schema.names else pa.nulls(n, kind)
        sizes = pc.fill_null(pc.binary_length(columns["image_bytes"]), 0)
        columns["long"] = pc.greater(sizes, longest)
        here = pa.array(np.arange(n), mask=columns["long"].to_numpy(zero_copy_only=False))
        columns["image_bytes"] = columns["image_bytes"].take(here)  # if_else would keep the bytes
        table = pa.table(columns)
        part = np.cumsum(np.minimum(sizes.to_numpy(zero_copy_only=False), longest)) // PART_BYTES
        starts = [0, *(np.nonzero(np.diff(part))[0] + 1).tolist(), n]
        for start, end in zip(starts, starts[1:], strict=False):
            for low in range(start, end, ROWS):
                yield table.slice(low, min(ROWS, end - low))


def _part_name(table: pa.Table, images: ImagesConfig) -> str:
    """Named by all that decides a part's rows, and by the folder of its paths, so that a corrected one is looked at."""
    settings = images.model_dump_json(exclude={"root", "archive", "timeout", "in_flight", "missing"})
    digest = hashlib.sha256(settings.encode())
    if images.archive is None and any(path and not is_address(path) for path in table["image"].to_pylist()):
        digest.update(os.path.abspath(images.root or "").encode())
    for name in COLUMNS:
        for value in table[name]:
            raw = b"\xff" if not value.is_valid else value.as_buffer()
            digest.update(len(raw).to_bytes(8, "little"))
            digest.update(raw)
    return f"part-{digest.hexdigest()[:32]}.parquet"


def _is_open(folder: str, name: str, rows: int, images: ImagesConfig) -> bool:
    """Whether a part reads back whole, and not as what a run was refused for: its pictures may have been mended by now."""
    table = read_part(folder, name, rows)
    if table is None or not table.schema.equals(picture_schema()):
        return False
    found = set(table["reason"].to_pylist())
    return found == {""} if images.missing == "error" else "" in found or found == {reasons.NO_IMAGE}


def _open_on_ray(
    parts: Iterable[tuple[str, pa.Table]], images: ImagesConfig
) -> Iterator[tuple[str, pa.Table]]:
    """Parts as they are opened, by their names; no more are asked for than keep every processor busy.

    Not Ray Data: its datasets over parts that this process makes keep what went through them until the garbage collector comes by.
    """
    import ray

    parts = iter(parts)
    first = next(parts, None)
    if first is None:  # everything is open: Ray is not needed
        return
    join_ray()
    most = min(processors(), images.in_flight) if images.fetch else processors()
    settings = (images.model_dump(mode="json"), os.getcwd(), max(1, images.in_flight // most))
    task = ray.remote(num_cpus=CPUS)(_open_part).options(name="open pictures")
    open_at: dict[Any, str] = {}
    try:
        for name, table in chain([first], parts):
            open_at[task.remote(table, *settings)] = name
            if len(open_at) > most:  # one more, so that writing keeps nobody waiting
                yield _first_done(open_at)
        while open_at:
            yield _first_done(open_at)
    finally:
        for left in open_at:
            ray.cancel(left)


def _first_done(open_at: dict[Any, str]) -> tuple[str, pa.Table]:
    import ray

    (done,), _ = ray.wait(list(open_at))
    name = open_at.pop(done)
    table, error = ray.get(done)
    if error:
        raise UserError(error)
    return name, table


def _open_part(
    table: pa.Table, images: dict[str, Any], base: str, in_flight: int
) -> tuple[pa.Table | None, str]:
    """The task. A UserError travels back as data: Ray would wrap it until nobody finds its sentence."""
    try:
        return open_rows(table.to_pylist(), ImagesConfig(**images), base, in_flight), ""
    except UserError as failure:
        return None, str(failure)


def open_rows(rows: Sequence[dict[str, Any]], images: ImagesConfig, base: str, in_flight: int) -> pa.Table:
    """The pictures of a few items as a table of ``picture_schema``, in their order.

    Args:
        rows: item_id, image, image_bytes and long (the bytes were too many to bring along).
        images: the settings.
        base: the directory that a relative root, archive or path counts from.
        in_flight: addresses fetched at once.

    Raises:
        UserError: the archive cannot be used.
    """
    import pyarrow as pa

    def use(raw: bytes) -> Picture | str:
        return open_picture(raw, images)

    found: list[Picture | str] = [reasons.NO_IMAGE] * len(rows)
    web = []
    for number, row in enumerate(rows):
        raw, image = row["image_bytes"], row["image"]
        if row["long"]:
            found[number] = reasons.TOO_LARGE
        elif raw:
            found[number] = use(raw)
        elif image and is_address(image):
            if images.fetch and can_fetch(image):
                web.append(number)
            else:
                found[number] = reasons.URL
        elif image:
            got = read_bytes(image, images, base)
            found[number] = got if isinstance(got, str) else use(got)
        elif raw is not None:
            found[number] = reasons.UNREADABLE  # bytes, and none of them
    if web:
        from dig_ray.catalog.pictures.fetch import fetch_all

        got_all = fetch_all([rows[number]["image"] for number in web], images, in_flight, use)
        for number, one in zip(web, got_all, strict=True):
            found[number] = one
    out = []
    for row, one in zip(rows, found, strict=True):
        given = isinstance(one, Picture)
        out.append(
            {
                "item_id": row["item_id"],
                "image": one.image if isinstance(one, Picture) else None,
                "media": one.media if isinstance(one, Picture) else "",
                "width": one.width if isinstance(one, Picture) else 0,
                "height": one.height if isinstance(one, Picture) else 0,
                "reason": "" if given else one,
                "notes": list(one.notes) if isinstance(one, Picture) else [],
                "sha256": hashlib.sha256(one.image).hexdigest() if isinstance(one, Picture) else "",
            }
        )
    return pa.Table.from_pylist(out, schema=picture_schema())
