"""The image_embedding stage: checked pictures to ``embeddings.parquet``, decoded by tasks and encoded by actors on Ray Data.

The pictures table is read group by group on the machine that has it, decoded and resized wherever there is a CPU, and encoded by a pool of
actors; Ray holds back readers and decoders while the encoders are busy, so memory does not grow with the catalogue. Every finished part is
kept until the stage is published, so a killed run goes on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from dig_ray.base import Inputs, Stage
from dig_ray.embedding.clip import SETTING, check_weights, decode, describe, encode, load_tower, preprocessing
from dig_ray.embedding.config import ImageEmbeddingConfig
from dig_ray.embedding.streaming import check_room
from dig_ray.embedding.vector_parts import part_name, read_part, write_part
from dig_ray.embedding.vectors import check_finite, known_vectors, write_vectors
from dig_ray.errors import UserError
from dig_ray.on_ray.progress import Progress
from dig_ray.on_ray.session import actor_pool, join_ray, processors
from dig_ray.on_ray.telemetry import named

IN_FLIGHT = 512 << 20
"""Bytes of pictures, encoded and decoded, that Ray may hold between the steps."""


def run(config: Any, stage: Stage, inputs: Inputs) -> None:
    """The stage ``image_embedding`` of a run: features of the checked pictures, or vectors that are brought along."""
    embed_pictures(config.image_embedding, stage, inputs["catalog"], inputs.get("pictures"))


def embed_pictures(
    config: ImageEmbeddingConfig, stage: Stage, catalog_dir: Path, pictures_dir: Path | None
) -> None:
    """Write ``embeddings.parquet`` (item_id, vector, known) in catalogue order; a row that is not known holds zeros.

    Args:
        config: which tower sees the pictures, on which actors.
        stage: the artifact that is made.
        catalog_dir: the catalogue artifact.
        pictures_dir: the pictures artifact; None is allowed where ``config.path`` brings vectors along.

    Raises:
        UserError: no weights, no item has a picture, no room for an actor, or a vector is NaN or infinite.
    """
    import pyarrow.parquet as pq

    started = time.monotonic()
    item_ids = pq.read_table(Path(catalog_dir) / "items.parquet", columns=["item_id"])["item_id"].to_pylist()
    if config.path is not None:
        vectors, known = known_vectors(config.path, item_ids)
    else:
        assert pictures_dir is not None
        vectors, known = _encode(config, stage, Path(pictures_dir) / "pictures.parquet", item_ids)
    write_vectors(stage.out / "embeddings.parquet", item_ids, vectors, known)
    stage.stats.update(
        rows=len(item_ids),
        dimensions=int(vectors.shape[1]),
        items_without_picture=int((~known).sum()),
        model=describe(config),
        feature=config.feature,
        seconds=round(time.monotonic() - started, 2),
    )
    if stage.stats["items_without_picture"]:
        stage.log(
            f"{stage.name}: {stage.stats['items_without_picture']:,} of {len(item_ids):,} items have no picture"
        )


def _encode(
    config: ImageEmbeddingConfig, stage: Stage, path: Path, item_ids: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """(float32 (N, D), bool (N,)): features and which items have one."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    digests = [
        file.read_row_group(group, columns=["sha256"])["sha256"].to_pylist()
        for group in range(file.num_row_groups)
    ]
    hashes = [digest for group in digests for digest in group]
    known = np.array([bool(digest) for digest in hashes])
    if not known.any():
        raise UserError(
            f"{SETTING}: no item of this catalogue has a usable picture; the log of the pictures stage says why"
        )
    check_weights(config)
    settings = preprocessing(config)
    decides = config.model_dump_json(include={"model", "pretrained", "feature", "dtype"})
    names = [part_name(decides, [digest for digest in group if digest]) for group in digests]
    counts = [sum(map(bool, group)) for group in digests]
    parts = [
        read_part(stage.work, name, count) if count else None
        for name, count in zip(names, counts, strict=True)
    ]
    todo = [n for n, part in enumerate(parts) if part is None and counts[n]]
    before = sum(counts) - sum(counts[n] for n in todo)
    stage.log(
        f"{stage.name}: {sum(counts):,} pictures with {describe(config)}"
        + (f"; {before:,} were done before" if before else "")
    )
    line = Progress(stage, "pictures", sum(counts), before)
    for number, vectors in _encode_on_ray(config, path, settings, todo):
        rows = [
            item
            for item, digest in zip(_items_of(item_ids, digests, number), digests[number], strict=True)
            if digest
        ]
        check_finite(vectors, rows, f"{SETTING}.model={config.model!r}", f"try {SETTING}.dtype=float32")
        write_part(stage.work, names[number], vectors)
        parts[number] = (vectors, np.zeros(len(vectors), np.int32))
        line.done(len(vectors))
    found = np.concatenate([part[0] for part in parts if part is not None])
    out = np.zeros((len(item_ids), found.shape[1]), np.float32)
    out[known] = found
    stage.stats["resumed_pictures"] = before
    return out, known


def _items_of(item_ids: Sequence[str], digests: Sequence[Sequence[str]], number: int) -> Sequence[str]:
    start = sum(map(len, digests[:number]))
    return item_ids[start : start + len(digests[number])]


def read_group(batch: dict[str, np.ndarray], path: str) -> dict[str, Any]:
    """Row groups of the pictures table, in a task where the file is."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    columns = [file.read_row_group(int(part), columns=["image"])["image"] for part in batch["part"]]
    return {
        "part": batch["part"],
        "raw": [[one for one in column.to_pylist() if one is not None] for column in columns],
    }


def decode_group(batch: dict[str, np.ndarray], settings: dict[str, Any]) -> dict[str, Any]:
    """Pictures to pixels, in a task on any machine."""
    return {"part": batch["part"], "pixels": [decode(list(raw), settings) for raw in batch["raw"]]}


class Encoder:
    """Pixels to features. A UserError travels back as data: Ray would wrap it until nobody finds its sentence."""

    def __init__(self, config: dict[str, Any], threads: int) -> None:
        self.config = ImageEmbeddingConfig(**config)
        self.threads = threads
        self.tower: Any = None

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        out: dict[str, Any] = {"part": [], "dimensions": [], "vectors": [], "error": []}
        for part, pixels in zip(batch["part"], batch["pixels"], strict=True):
            vectors, error = np.zeros((0, 0), np.float32), ""
            try:
                if self.tower is None:
                    self.tower, self.settings = load_tower(self.config, threads=self.threads)
                vectors = encode(np.asarray(pixels), self.tower, self.settings, self.config.batch_size)
            except UserError as failure:
                error = str(failure)
            out["part"].append(int(part))
            out["dimensions"].append(vectors.shape[1])
            out["vectors"].append(np.ascontiguousarray(vectors, dtype="<f4").tobytes())
            out["error"].append(error)
        return out


def _encode_on_ray(
    config: ImageEmbeddingConfig, path: Path, settings: dict[str, Any], todo: Sequence[int]
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (row group, features of its pictures) in the order they come back."""
    if not todo:
        return
    import ray
    from ray.data import DataContext, TaskPoolStrategy

    resources = join_ray()
    check_room(SETTING, config, resources)
    actors = min(config.num_actors, len(todo))
    threads = max(1, int(resources.get("CPU", 1)) // actors)
    options = DataContext.get_current().execution_options
    before = options.resource_limits
    options.resource_limits = before.copy(object_store_memory=IN_FLIGHT * actors)
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    try:
        parts = ray.data.from_items([{"part": part} for part in todo], override_num_blocks=len(todo))
        pictures = parts.map_batches(
            cast(Any, read_group),
            fn_kwargs={"path": str(path)},
            compute=TaskPoolStrategy(size=1),
            batch_size=1,
            num_cpus=0.1,
            label_selector=here,
        )
        decoded = pictures.map_batches(
            cast(Any, decode_group),
            fn_kwargs={"settings": settings},
            # each is a process; more than processors only take memory
            compute=TaskPoolStrategy(size=max(1, min(len(todo), processors()))),
            batch_size=1,
            num_cpus=config.decode_cpus,
        )
        encoded = decoded.map_batches(
            named(Encoder, "EncodePictures"),
            fn_constructor_kwargs={"config": config.model_dump(), "threads": threads},
            compute=actor_pool(actors, config.num_cpus, config.num_gpus),
            batch_size=1,
            num_cpus=config.num_cpus,
            num_gpus=config.num_gpus or None,
        )
        encoded.set_name("image_embedding")
        for row in encoded.iter_rows():
            if row["error"]:
                raise UserError(row["error"])
            yield (
                int(row["part"]),
                np.frombuffer(row["vectors"], dtype="<f4").reshape(-1, int(row["dimensions"])).copy(),
            )
    finally:
        options.resource_limits = before
