"""Pictures opened part by part on Ray Data tasks.

Items are cut into parts of ``ROWS``; parts already in ``stage.work`` are not opened again, the others go through Ray in waves of limited
size and are written as they come back, so that neither the driver nor the object store ever holds all pictures. The driver writes the
parts, so workers spread over machines need share nothing but the folder or archive that pictures are read from.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dig_ray.base import Stage
from dig_ray.catalog import images as reasons
from dig_ray.catalog.config import ImagesConfig
from dig_ray.catalog.images import Picture, can_fetch, is_address, open_archive, open_picture, read_bytes
from dig_ray.errors import UserError
from dig_ray.parts import read_part, write_part
from dig_ray.progress import Progress

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 256  # of a part and of a row group
PART_BYTES = 64 << 20  # of pictures that a part's items bring along
WAVE_BYTES, WAVE_PARTS = 128 << 20, 1024  # handed to Ray at once
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
    wave: list[Any] = []
    progress = Progress(stage, "pictures", total)
    size = resumed = 0
    for table in _cut(batches, images.max_bytes):
        name = _part_name(table, images)
        parts.append((name, table.num_rows))
        if _is_open(stage.work, name, table.num_rows, images):
            resumed += table.num_rows
            progress.before += table.num_rows
            continue
        wave.append(_hand_over(name, table))
        size += table.nbytes
        if size >= WAVE_BYTES or len(wave) >= WAVE_PARTS:
            _open_wave(wave, images, stage, progress)
            wave, size = [], 0
    if resumed:
        stage.log(f"pictures: {resumed:,} of {total:,} were opened before")
    if wave:
        _open_wave(wave, images, stage, progress)
    return parts, resumed


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


def _hand_over(name: str, table: pa.Table) -> Any:
    """A part in Ray's object store, which spills to disk what memory cannot hold."""
    import pyarrow as pa
    import ray

    return ray.put(pa.table({"part": [name], "rows": pa.array([_to_bytes(table)], pa.binary())}))


def _open_wave(wave: Sequence[Any], images: ImagesConfig, stage: Stage, progress: Progress) -> None:
    import pyarrow as pa
    import ray
    from ray.data import TaskPoolStrategy

    from dig_ray.cluster import processors, quiet_ray_data

    quiet_ray_data()
    tasks = max(1, min(len(wave), processors()))  # each is a process; more than processors only take memory
    if images.fetch:
        tasks = min(tasks, images.in_flight)
    opened = ray.data.from_arrow_refs(list(wave)).map_batches(
        partial(
            _open_parts,
            images=images.model_dump(mode="json"),
            base=os.getcwd(),
            in_flight=max(1, images.in_flight // tasks),
        ),
        compute=TaskPoolStrategy(size=tasks),
        batch_size=1,
        num_cpus=CPUS,
    )
    for row in opened.iter_rows():
        if row["error"]:
            raise UserError(row["error"])
        table = pa.ipc.open_stream(row["pictures"]).read_all()
        write_part(stage.work, row["part"], table)
        progress.done(table.num_rows)


def _open_parts(
    batch: dict[str, Any], images: dict[str, Any], base: str, in_flight: int
) -> dict[str, list[Any]]:
    """The Ray Data task. A UserError travels back as data: Ray would wrap it until nobody finds its sentence."""
    import pyarrow as pa

    out: dict[str, list[Any]] = {"part": [], "pictures": [], "error": []}
    for part, rows in zip(batch["part"], batch["rows"], strict=True):
        payload, error = b"", ""
        try:
            table = pa.ipc.open_stream(rows).read_all()
            payload = _to_bytes(open_rows(table.to_pylist(), ImagesConfig(**images), base, in_flight))
        except UserError as failure:
            error = str(failure)
        out["part"].append(part)
        out["pictures"].append(payload)
        out["error"].append(error)
    return out


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
        from dig_ray.catalog.fetch import fetch_all

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


def _to_bytes(table: pa.Table) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()
