"""The embedding stage: catalogue text to ``embeddings.parquet``, on a Ray Data actor pool, resumable by part files.

Distinct texts are cut into parts of ``rows_per_part``; parts already in ``stage.work`` are not encoded again, the others
stream through the pool and are written as they come back. The driver writes them, so a pool spread over machines that
share no disk works too. After a kill at most the parts in flight are encoded twice.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dig_ray.base import Stage
from dig_ray.embedding.config import TextEmbeddingConfig
from dig_ray.embedding.parts import part_name, read_part, write_part
from dig_ray.embedding.text import (
    SETTING,
    clean_text,
    distinct_texts,
    encode_batches,
    load_encoder,
    spread,
)
from dig_ray.embedding.vectors import check_finite, write_vectors
from dig_ray.encoder import model_path
from dig_ray.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

SECONDS_BETWEEN_LINES = 10.0


def run(
    config: TextEmbeddingConfig,
    stage: Stage,
    catalog_dir: Path,
    captions_dir: Path | None = None,
    interests_dir: Path | None = None,
) -> None:
    """Embed the items of ``catalog_dir`` and write ``stage.out/embeddings.parquet`` in catalogue order.

    The fields ``caption`` and ``interests`` are what mining found: the picture's caption, and the merged interests in their order,
    without confidences.

    An item without text gets a zero vector and is counted in ``stage.stats["items_without_text"]``.

    Raises:
        UserError: unknown text column, no item has text, the encoder cannot be loaded, or a vector is NaN or infinite.
    """
    import pyarrow.parquet as pq

    from dig_ray.catalog.text import item_text

    started = time.monotonic()
    items = pq.read_table(Path(catalog_dir) / "items.parquet")
    item_ids = items.column("item_id").to_pylist()
    items = _with_mined(items, captions_dir, interests_dir)
    absent = [field for field in config.fields if field not in items.column_names]
    if len(absent) == len(config.fields):
        raise UserError(
            f"embedding.fields={list(config.fields)}: the catalogue has none of these columns; "
            f"it has {', '.join(items.column_names)}"
        )
    cleaned = [clean_text(t) for t in item_text(items, [f for f in config.fields if f not in absent])]
    blank = sum(not text for text in cleaned)
    if blank == len(cleaned):
        raise UserError(
            f"embedding.fields={list(config.fields)}: no item has any text in these columns; name others"
        )
    if absent:
        stage.log(f"embedding: the catalogue has no {', '.join(absent)}; reading the other columns")
    if blank:
        stage.log(f"embedding: {blank} of {len(cleaned)} items have no text and get a zero vector")

    distinct = distinct_texts(cleaned)
    model_path(config.model, SETTING)  # a missing package is said before Ray starts an actor
    step = config.rows_per_part
    texts = [distinct[start : start + step] for start in range(0, len(distinct), step)]
    settings = config.model_dump_json(exclude={"num_actors", "num_cpus", "num_gpus", "rows_per_part"})
    names = [part_name(settings, part) for part in texts]
    vectors: list[np.ndarray | None] = [
        read_part(stage.work, name, len(part)) for name, part in zip(names, texts, strict=True)
    ]
    todo = [index for index, done in enumerate(vectors) if done is None]
    resumed = sum(len(texts[index]) for index, done in enumerate(vectors) if done is not None)
    stage.log(
        f"embedding: {len(cleaned)} items, {len(distinct)} distinct texts with {config.model}"
        + (f"; {resumed} were done before" if resumed else "")
    )
    owner = dict(zip(reversed(cleaned), reversed(item_ids), strict=True))  # text -> first item that has it
    line = _Progress(
        stage, [sum(map(len, texts[index])) for index in todo], [len(texts[index]) for index in todo]
    )
    for index, part in _encode_on_ray(config, texts, todo):
        if part.shape[0] != len(texts[index]):
            raise RuntimeError(f"part {index}: {part.shape[0]} vectors for {len(texts[index])} texts")
        check_finite(
            part,
            [owner[text] for text in texts[index]],
            f"embedding.model={config.model!r}",
            "try embedding.dtype=float32 or look at the item's text",
        )
        write_part(stage.work, names[index], part)
        vectors[index] = part
        line.done(todo.index(index))
    out = spread(np.concatenate([part for part in vectors if part is not None]), distinct, cleaned)
    write_vectors(stage.out / "embeddings.parquet", item_ids, out)
    stage.stats.update(
        rows=len(out),
        dimensions=int(out.shape[1]),
        distinct_texts=len(distinct),
        items_without_text=blank,
        resumed_texts=resumed,
        seconds=round(time.monotonic() - started, 2),
        model=config.model,
    )


def _with_mined(items: pa.Table, captions_dir: Path | None, interests_dir: Path | None) -> pa.Table:
    """The items with the columns ``caption`` and ``interests`` where they were mined; columns of that name step aside."""
    import pyarrow as pa

    from dig_ray.mining.read import read_captions, read_interests

    ids = items.column("item_id").to_pylist()
    columns: dict[str, pa.Array] = {}
    if captions_dir is not None:
        captions = read_captions(captions_dir)
        columns["caption"] = pa.array([captions.get(item) for item in ids], pa.string())
    if interests_dir is not None:
        interests = read_interests(interests_dir)
        lines = ["\n".join(i["text"] for i in interests.get(item) or []) for item in ids]
        columns["interests"] = pa.array(lines, pa.string())
    for name, column in columns.items():
        if name in items.column_names:
            items = items.drop_columns(name)
        items = items.append_column(name, column)
    return items


class Encoder:
    """The Ray Data worker: loads the model at its first batch and encodes parts.

    A UserError travels back as data: Ray would wrap it until nobody finds its sentence.
    """

    def __init__(self, config: dict[str, Any], threads: int) -> None:
        self.config = TextEmbeddingConfig(**config)
        self.threads = threads
        self.model: Any = None

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        index, size, raw, errors = [], [], [], []
        for part, texts in zip(batch["part"], batch["texts"], strict=True):
            vectors, error = np.zeros((0, 0), dtype=np.float32), ""
            try:
                vectors = encode_batches(list(texts), self.config, self._load())
            except UserError as failure:
                error = str(failure)
            index.append(int(part))
            size.append(vectors.shape[1])
            raw.append(np.ascontiguousarray(vectors, dtype="<f4").tobytes())
            errors.append(error)
        return {"part": index, "dimensions": size, "vectors": raw, "error": errors}

    def _load(self) -> Any:
        if self.model is None:
            self.model = load_encoder(self.config, threads=self.threads)
        return self.model


def _encode_on_ray(
    config: TextEmbeddingConfig, texts: list[list[str]], todo: list[int]
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (part index, vectors) in the order parts come back from the pool."""
    if not todo:
        return
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    if not ray.is_initialized():
        ray.init(address="local", include_dashboard=False, log_to_driver=False)
    total = ray.cluster_resources()
    for key, need in (("CPU", config.num_cpus), ("GPU", config.num_gpus)):
        if need > total.get(key, 0):
            raise UserError(
                f"embedding.num_{key.lower()}s={need}: the cluster has {total.get(key, 0):g} {key}s, so no actor can start; lower it"
            )
    actors = min(config.num_actors, len(todo))
    threads = max(1, int(total.get("CPU", 1)) // actors)
    context = DataContext.get_current()
    bars, logger = context.enable_progress_bars, logging.getLogger("ray.data")
    level = logger.level
    context.enable_progress_bars = False  # the stage prints its own lines
    logger.setLevel(logging.ERROR)
    try:
        rows = [{"part": index, "texts": texts[index]} for index in todo]
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            Encoder,
            fn_constructor_kwargs={"config": config.model_dump(), "threads": threads},
            # a range, never a fixed size: a pool that waits for CPUs its own input needs hangs without a word
            compute=ActorPoolStrategy(min_size=1, max_size=actors),
            batch_size=1,
            num_cpus=config.num_cpus,
            num_gpus=config.num_gpus or None,
        )
        for row in dataset.iter_rows():
            if row["error"]:
                raise UserError(row["error"])
            yield (
                int(row["part"]),
                np.frombuffer(row["vectors"], dtype="<f4").reshape(-1, int(row["dimensions"])).copy(),
            )
    finally:
        context.enable_progress_bars = bars
        logger.setLevel(level)


class _Progress:
    """One line now and then: texts done, texts per second, time left (by characters: long texts come first)."""

    def __init__(self, stage: Stage, characters: list[int], rows: list[int]) -> None:
        self.stage, self.characters, self.rows = stage, characters, rows
        self.started = self.last = time.monotonic()
        self.characters_done = self.rows_done = 0

    def done(self, position: int) -> None:
        self.characters_done += self.characters[position]
        self.rows_done += self.rows[position]
        now = time.monotonic()
        finished = self.rows_done == sum(self.rows)
        if now - self.last < SECONDS_BETWEEN_LINES and not finished:
            return
        self.last = now
        elapsed = max(now - self.started, 1e-6)
        left = elapsed * (sum(self.characters) - self.characters_done) / max(self.characters_done, 1)
        self.stage.log(
            f"embedding: {self.rows_done}/{sum(self.rows)} texts, {self.rows_done / elapsed:.0f} texts/s"
            + ("" if finished else f", about {left:.0f} s left")
        )
