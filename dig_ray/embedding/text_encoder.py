"""Text to vectors, the plain part: which encoder, in what order texts are read, and what makes a vector unusable.

Equal texts are encoded once, texts are sorted by length so that a batch pads little, and blank texts become zero vectors
(the caller counts them). Nothing here knows Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dig_ray.embedding.config import TextEmbeddingConfig
from dig_ray.errors import UserError
from dig_ray.numerics import encoder

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

SETTING = "embedding.model"
MAX_CHARS = 20_000  # no encoder here reads further; a 1 MB description would only burn tokenizer time
ROWS_AT_ONCE = 8_192


def load_encoder(
    config: TextEmbeddingConfig, device: str | None = None, threads: int | None = None
) -> SentenceTransformer:
    """The sentence-transformers model named by ``config``, in its dtype.

    Args:
        config: which model, in which dtype, and how many tokens of a text it reads.
        device: where torch computes; by default a GPU where it sees one.
        threads: how many torch takes in this process from now on; None leaves it alone.

    Raises:
        UserError: the directory or id cannot be loaded.
    """
    model = encoder.load_encoder(
        config.model, SETTING, config.dtype, device, config.trust_remote_code, threads
    )
    if config.max_seq_length is not None:
        model.max_seq_length = config.max_seq_length
    return model


def embed_texts(
    texts: Sequence[str],
    config: TextEmbeddingConfig,
    model: SentenceTransformer | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Encode texts: float32 (N, D), row i for ``texts[i]``; a blank text is a zero vector.

    Args:
        texts: N of them.
        config: the encoder and how it is used.
        model: an encoder from `load_encoder`; loaded when not given.
        progress: called with (texts done, texts to do), distinct non-blank ones.

    Raises:
        UserError: the model cannot be loaded, or a vector comes out with NaN or infinity.
    """
    model = load_encoder(config) if model is None else model
    cleaned = [clean_text(text) for text in texts]
    distinct = distinct_texts(cleaned)
    if not distinct:
        return np.zeros((len(cleaned), int(model.get_embedding_dimension() or 0)), dtype=np.float32)
    vectors = encode_batches(distinct, config, model, progress)
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise UserError(
            f"embedding.model={config.model!r}: the text {distinct[int(bad[0])][:60]!r} became NaN or infinity; "
            f"try embedding.dtype=float32"
        )
    return spread(vectors, distinct, cleaned)


def distinct_texts(cleaned: Sequence[str]) -> list[str]:
    """Every non-blank text once, longest first: neighbours in a batch are then of one length."""
    return sorted({text for text in cleaned if text}, key=lambda text: (-len(text), text))


def spread(vectors: np.ndarray, distinct: Sequence[str], cleaned: Sequence[str]) -> np.ndarray:
    """Vectors of distinct texts back in the order of ``cleaned``, zero where a text is blank: float32 (N, D)."""
    row_of = {text: row for row, text in enumerate(distinct)}
    source = np.fromiter((row_of[text] if text else -1 for text in cleaned), np.int64, len(cleaned))
    out = np.zeros((len(cleaned), vectors.shape[1]), dtype=np.float32)
    for start in range(0, len(cleaned), ROWS_AT_ONCE):  # a copy of a few rows at a time, not of all of them
        rows = source[start : start + ROWS_AT_ONCE]
        out[start : start + ROWS_AT_ONCE][rows >= 0] = vectors[rows[rows >= 0]]
    return out


def encode_batches(
    texts: Sequence[str],
    config: TextEmbeddingConfig,
    model: SentenceTransformer,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Encode texts as they come, ``batch_size`` at a time: float32 (N, D), unchecked."""
    parts = []
    for start in range(0, len(texts), config.batch_size):
        batch = [config.prompt + text for text in texts[start : start + config.batch_size]]
        encoded = model.encode(
            batch,
            batch_size=config.batch_size,
            convert_to_tensor=True,
            normalize_embeddings=config.normalize,
            show_progress_bar=False,
        )
        parts.append(encoded.float().cpu().numpy())
        if progress is not None:
            progress(min(start + config.batch_size, len(texts)), len(texts))
    return np.concatenate(parts)


def count_tokens(texts: Sequence[str], config: TextEmbeddingConfig, model: SentenceTransformer) -> np.ndarray:
    """int32 (n,): tokens of each text before the encoder cuts it; zeros where its tokenizer cannot be asked."""
    try:
        ids = model.tokenizer([config.prompt + text for text in texts], truncation=False, verbose=False)
        return np.array([len(row) for row in ids["input_ids"]], np.int32)
    except (AttributeError, TypeError, KeyError):
        return np.zeros(len(texts), np.int32)


def clean_text(text: str | None) -> str:
    """What the encoder sees: no NUL bytes or lone surrogates, no outer blanks, at most MAX_CHARS characters."""
    if not text:
        return ""
    text = str(text)[:MAX_CHARS].replace("\x00", " ")
    return text.encode("utf-8", errors="replace").decode("utf-8").strip()
