"""The embedding stage: catalogue text to ``embeddings.parquet``, on a Ray Data actor pool, resumable by part files.

Distinct texts are cut into parts of ``rows_per_part``; parts already in ``stage.work`` are not encoded again, the others
stream through the pool and are written as they come back. The driver writes them, so a pool spread over machines that
share no disk works too. After a kill at most the parts in flight are encoded twice.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dig_ray.base import Inputs, Stage
from dig_ray.embedding.config import TextEmbeddingConfig
from dig_ray.embedding.enriched import item_texts
from dig_ray.embedding.streaming import check_room
from dig_ray.embedding.text_encoder import (
    SETTING,
    clean_text,
    count_tokens,
    distinct_texts,
    encode_batches,
    load_encoder,
    spread,
)
from dig_ray.embedding.vector_parts import part_name, read_part, write_part
from dig_ray.embedding.vectors import check_finite, load_vectors, write_vectors
from dig_ray.errors import UserError
from dig_ray.numerics.encoder import model_path
from dig_ray.on_ray.progress import Progress
from dig_ray.on_ray.session import actor_pool, join_ray
from dig_ray.on_ray.telemetry import named


def run(config: Any, stage: Stage, inputs: Inputs) -> None:
    """The stage ``embedding`` of a run: texts are made of the catalogue and of what mining found for the fields that are read."""
    embed_items(
        config.embedding,
        stage,
        inputs["catalog"],
        inputs.get("captions"),
        inputs.get("item_interests"),
        inputs.get("judgements"),
    )


def embed_items(
    config: TextEmbeddingConfig,
    stage: Stage,
    catalog_dir: Path,
    captions_dir: Path | None = None,
    interests_dir: Path | None = None,
    judgements_dir: Path | None = None,
) -> None:
    """Embed the items of ``catalog_dir`` and write ``stage.out/embeddings.parquet`` in catalogue order.

    The fields ``caption`` and ``interests`` are what mining found; see :mod:`dig_ray.embedding.enriched`. With ``config.path`` the vectors
    come from that file.

    An item without text gets a zero vector and is counted in ``stage.stats["items_without_text"]``; a text that is longer than the encoder
    reads in ``texts_cut``.

    Args:
        config: the encoder, what it reads, and on which actors.
        stage: the artifact that is made.
        catalog_dir: the catalogue artifact.
        captions_dir: the captions artifact, where ``caption`` is read.
        interests_dir: the item_interests artifact, where ``interests`` is read.
        judgements_dir: the judgements artifact, where interests are curated.

    Raises:
        UserError: unknown text column, no item has text, the encoder cannot be loaded, or a vector is NaN or infinite.
    """
    import pyarrow.parquet as pq

    started = time.monotonic()
    items = pq.read_table(Path(catalog_dir) / "items.parquet")
    item_ids = items.column("item_id").to_pylist()
    if config.path is not None:
        given = load_vectors(config.path, item_ids)
        write_vectors(stage.out / "embeddings.parquet", item_ids, given)
        stage.stats.update(rows=len(given), dimensions=int(given.shape[1]), model=Path(config.path).name)
        stage.log(f"embedding: {len(given):,} vectors of {given.shape[1]} dimensions from {config.path}")
        return
    raw, notes = item_texts(items, config, captions_dir, interests_dir, judgements_dir)
    cleaned = [clean_text(text) for text in raw]
    blank = sum(not text for text in cleaned)
    if blank == len(cleaned):
        raise UserError(
            f"embedding.fields={list(config.fields)}: no item has any text in these columns; name others"
        )
    _say_what_is_read(stage, notes, blank, len(cleaned))
    distinct = distinct_texts(cleaned)
    owner = dict(zip(reversed(cleaned), reversed(item_ids), strict=True))  # text -> first item that has it
    encoded, tokens, resumed = _encode(config, stage, distinct, owner)
    write_vectors(stage.out / "embeddings.parquet", item_ids, spread(encoded, distinct, cleaned))
    limit = stage.stats.get("token_limit")
    length = dict(zip(distinct, tokens.tolist(), strict=True))
    cut = sum(length.get(text, 0) > limit for text in cleaned) if limit else 0
    if cut:
        stage.log(
            f"embedding: {cut:,} of {len(cleaned):,} items have more text than the {limit} tokens that {config.model} reads; "
            f"what stands last, {config.fields[-1]}, is cut first"
        )
    stage.stats.update(
        rows=len(cleaned),
        dimensions=int(encoded.shape[1]),
        distinct_texts=len(distinct),
        items_without_text=blank,
        texts_cut=cut,
        tokens_mean=round(float(tokens.mean()), 1),
        tokens_max=int(tokens.max()),
        notes={key: count for key, count in sorted(notes.items()) if count},
        resumed_texts=resumed,
        seconds=round(time.monotonic() - started, 2),
        model=config.model,
    )


def _say_what_is_read(stage: Stage, notes: Counter[str], blank: int, items: int) -> None:
    absent = [key.partition(":")[2] for key in notes if key.startswith("column_absent:")]
    if absent:
        stage.log(f"embedding: the catalogue has no {', '.join(absent)}; reading the other columns")
    if blank:
        stage.log(f"embedding: {blank:,} of {items:,} items have no text and get a zero vector")
    if notes["interests_read"]:
        left_out = [
            f"{notes[key]:,} {key.replace('_', ' ')}"
            for key in ("interests_not_positive", "interests_not_judged", "items_of_low_quality")
            if notes[key]
        ]
        stage.log(
            f"embedding: {notes['interests_read']:,} interests are read"
            + (f"; left out: {', '.join(left_out)}" if left_out else "")
        )


def _encode(
    config: TextEmbeddingConfig, stage: Stage, distinct: Sequence[str], owner: dict[str, str]
) -> tuple[np.ndarray, np.ndarray, int]:
    """Vectors float32 (n, D) and tokens int (n,) of the distinct texts, and how many an earlier run had left."""
    model_path(config.model, SETTING)  # a missing package is said before Ray starts an actor
    step = config.rows_per_part
    texts = [list(distinct[start : start + step]) for start in range(0, len(distinct), step)]
    settings = config.model_dump_json(
        include={"model", "dtype", "normalize", "max_seq_length", "prompt", "batch_size", "trust_remote_code"}
    )
    names = [part_name(settings, part) for part in texts]
    encoded = _Rows([len(part) for part in texts])
    todo = []
    for index, (name, part) in enumerate(zip(names, texts, strict=True)):
        done = read_part(stage.work, name, len(part))
        if done is None:
            todo.append(index)
        else:
            encoded.put(index, *done)
    resumed = len(distinct) - sum(len(texts[index]) for index in todo)
    stage.log(
        f"embedding: {len(owner):,} distinct texts with {config.model}"
        + (f"; {resumed:,} were done before" if resumed else "")
    )
    letters = [sum(map(len, part)) for part in texts]  # long texts come first
    line = Progress(stage, "texts", len(distinct), resumed, sum(letters[index] for index in todo))
    for index, vectors, tokens, limit in _encode_on_ray(config, texts, todo):
        if vectors.shape[0] != len(texts[index]):
            raise RuntimeError(f"part {index}: {vectors.shape[0]} vectors for {len(texts[index])} texts")
        check_finite(
            vectors,
            [owner[text] for text in texts[index]],
            f"embedding.model={config.model!r}",
            "try embedding.dtype=float32 or look at the item's text",
        )
        write_part(stage.work, names[index], vectors, tokens)
        encoded.put(index, vectors, tokens)
        stage.stats["token_limit"] = limit
        line.done(len(texts[index]), letters[index])
    if "token_limit" not in stage.stats:  # everything was there
        stage.stats["token_limit"] = token_limit(config)
    return encoded.vectors, encoded.tokens, resumed


class _Rows:
    """The rows of all parts in one place, filled as parts come in any order: the driver holds every vector once.

    Attributes:
        vectors: float32 (N, D), from the first part on.
        tokens: int32 (N,), how many each text has.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).tolist()
        self.vectors = np.zeros((0, 0), np.float32)
        self.tokens = np.zeros(self._starts[-1], np.int32)

    def put(self, part: int, vectors: np.ndarray, tokens: np.ndarray) -> None:
        """Fill in a part's (n, D) vectors and (n,) tokens."""
        if not self.vectors.size:
            self.vectors = np.empty((self._starts[-1], vectors.shape[1]), np.float32)
        rows = slice(self._starts[part], self._starts[part + 1])
        self.vectors[rows], self.tokens[rows] = vectors, tokens


def token_limit(config: TextEmbeddingConfig) -> int | None:
    """Tokens of a text that the encoder reads; None where it does not say."""
    limit: int | None = load_encoder(config, device="cpu").max_seq_length
    return limit


class Encoder:
    """The Ray Data worker: loads the model at its first batch and encodes parts.

    A UserError travels back as data: Ray would wrap it until nobody finds its sentence.
    """

    def __init__(self, config: dict[str, Any], threads: int) -> None:
        self.config = TextEmbeddingConfig(**config)
        self.threads = threads
        self.model: Any = None

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        out: dict[str, Any] = {
            key: [] for key in ("part", "dimensions", "vectors", "tokens", "limit", "error")
        }
        for part, texts in zip(batch["part"], batch["texts"], strict=True):
            vectors, tokens, error = np.zeros((0, 0), np.float32), np.zeros(0, np.int32), ""
            try:
                model = self._load()
                vectors = encode_batches(list(texts), self.config, model)
                tokens = count_tokens(list(texts), self.config, model)
            except UserError as failure:
                error = str(failure)
            out["part"].append(int(part))
            out["dimensions"].append(vectors.shape[1])
            out["vectors"].append(np.ascontiguousarray(vectors, dtype="<f4").tobytes())
            out["tokens"].append(np.ascontiguousarray(tokens, dtype="<i4").tobytes())
            out["limit"].append(int(getattr(self.model, "max_seq_length", None) or 0))
            out["error"].append(error)
        return out

    def _load(self) -> Any:
        if self.model is None:
            self.model = load_encoder(self.config, threads=self.threads)
        return self.model


def _encode_on_ray(
    config: TextEmbeddingConfig, texts: list[list[str]], todo: list[int]
) -> Iterator[tuple[int, np.ndarray, np.ndarray, int | None]]:
    """Yield (part index, vectors, tokens, the encoder's token limit) in the order parts come back from the pool."""
    if not todo:
        return
    import ray

    total = join_ray()
    check_room("embedding", config, total)
    actors = min(config.num_actors, len(todo))
    threads = max(1, int(total.get("CPU", 1)) // actors)
    rows = [{"part": index, "texts": texts[index]} for index in todo]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        named(Encoder, "EncodeTexts"),
        fn_constructor_kwargs={"config": config.model_dump(), "threads": threads},
        compute=actor_pool(actors, config.num_cpus, config.num_gpus),
        batch_size=1,
        num_cpus=config.num_cpus,
        num_gpus=config.num_gpus or None,
    )
    dataset.set_name("embedding")
    for row in dataset.iter_rows():
        if row["error"]:
            raise UserError(row["error"])
        yield (
            int(row["part"]),
            np.frombuffer(row["vectors"], dtype="<f4").reshape(-1, int(row["dimensions"])).copy(),
            np.frombuffer(row["tokens"], dtype="<i4").copy(),
            int(row["limit"]) or None,
        )
