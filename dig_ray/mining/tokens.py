"""Tokens of a request and its answer without the model's tokenizer: for the dry run, and where an endpoint does not say what it used."""

from __future__ import annotations

import io
from functools import lru_cache

from dig_ray.mining.answers import Kind, json_schema
from dig_ray.mining.evidence import count_tokens

PICTURE_TOKENS = 28 * 28
"""Pixels a token of a picture, as Qwen2.5-VL counts; others take more or less."""
CHAT_TOKENS = 8
"""What chat templates add around two messages."""
UNKNOWN_SIDE = 1024  # pixels of a picture that cannot be opened


@lru_cache
def shared_tokens(kind: Kind, most: int, system: str, schema: bool) -> int:
    """Of all rows alike: the instructions, the chat's frame, and the answer's JSON schema where it is sent."""
    return count_tokens(system) + CHAT_TOKENS + (count_tokens(str(json_schema(kind, most))) if schema else 0)


def picture_tokens(image: bytes) -> int:
    """Of one picture, by its size in pixels."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(image)) as opened:
            wide, high = opened.size
    except (OSError, ValueError, Image.DecompressionBombError):
        wide = high = UNKNOWN_SIDE
    return wide * high // PICTURE_TOKENS
