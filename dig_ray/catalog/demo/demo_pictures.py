"""Small product pictures for the demo world: a shape on a ground, hundreds of bytes of PNG each.

What can be seen: the shape is the category, the fill is the colour in the title. The ground's tint and pattern hint at
an intent, so that an image model has something to find that the text may not say.
"""

from __future__ import annotations

import io
from functools import cache

import numpy as np

GROUNDS = (
    (224, 234, 240),
    (244, 230, 214),
    (228, 240, 222),
    (240, 224, 232),
    (246, 242, 210),
    (230, 226, 244),
    (214, 238, 236),
    (236, 236, 236),
)
N_PATTERNS = 6
N_SHAPES = 12
N_SIZES = 4


def _coordinates(side: int) -> tuple[np.ndarray, np.ndarray]:
    axis = (np.arange(side) + 0.5) / side * 2 - 1
    return np.meshgrid(axis, axis)


def _shape(kind: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """bool mask of one of ``N_SHAPES`` shapes on ``[-1, 1]`` squared."""
    r, a = np.hypot(x, y), np.arctan2(y, x)
    shapes = (
        lambda: (y > -0.8) & (np.abs(x) < (y + 0.8) * 0.55) & (y < 0.7),  # tent
        lambda: (
            ((np.abs(x) < 0.5) & (np.abs(y) < 0.6)) | (np.abs(np.hypot(x - 0.55, y) - 0.27) < 0.09)
        ),  # mug
        lambda: (np.abs(x) < 0.7) & (y > -0.1) & (y < 0.7) | ((y <= -0.1) & (np.abs(x) < y + 0.8)),  # house
        lambda: (np.abs(x) < 0.4) & (np.abs(y) < 0.75),  # device
        lambda: (
            (np.abs(y) < 0.12) & (np.abs(x) < 0.6) | ((np.abs(np.abs(x) - 0.65) < 0.13) & (np.abs(y) < 0.45))
        ),  # bar
        lambda: (
            (np.abs(x) < 0.42) & (np.abs(y) < 0.7) | ((np.abs(x) < 0.8) & (np.abs(y + 0.5) < 0.2))
        ),  # shirt
        lambda: (np.hypot(x, y - 0.25) < 0.45) | (np.hypot(x, y + 0.4) < 0.3),  # figure
        lambda: (np.hypot(x, y - 0.25) < 0.4) | (np.hypot(np.abs(x) - 0.4, y + 0.35) < 0.2),  # paw
        lambda: r < 0.35 + 0.4 * np.abs(np.cos(1.5 * a)),  # leaf
        lambda: (np.hypot(x, np.maximum(y, 0)) < 0.5) & (np.abs(x) < 0.55 * (y + 0.9)),  # drop
        lambda: r < 0.45 + 0.25 * np.cos(5 * a),  # star
        lambda: (
            (np.abs(x) < 0.14) & (np.abs(y) < 0.75) | ((np.abs(x) < 0.5) & (np.abs(y + 0.55) < 0.2))
        ),  # hammer
    )
    return shapes[kind % N_SHAPES]()


def _pattern(kind: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """bool mask of one of ``N_PATTERNS`` ground patterns."""
    wave = (
        lambda: np.zeros(x.shape, dtype=bool),
        lambda: np.sin(x * 14) > 0.6,
        lambda: np.sin(y * 14) > 0.6,
        lambda: np.sin((x + y) * 11) > 0.6,
        lambda: (np.sin(x * 14) > 0.5) & (np.sin(y * 14) > 0.5),
        lambda: np.sin(np.hypot(x, y) * 18) > 0.6,
    )
    return wave[kind % N_PATTERNS]()


@cache
def picture(
    shape: int, colour: tuple[int, int, int], ground: int, pattern: int, size: int, side: int
) -> bytes:
    """A PNG of ``side`` by ``side`` pixels with four colours.

    Args:
        shape: 0 to ``N_SHAPES - 1``.
        colour: fill, RGB.
        ground: index into ``GROUNDS``.
        pattern: 0 to ``N_PATTERNS - 1``.
        size: 0 to ``N_SIZES - 1``, how large the shape is.
        side: pixels.
    """
    from PIL import Image

    x, y = _coordinates(side)
    scale = 0.8 + 0.1 * size
    pixels = _pattern(pattern, x, y).astype(np.uint8)
    inner = _shape(shape, x / scale, y / scale)
    outer = _shape(shape, x / (scale * 1.12), y / (scale * 1.12))
    pixels[outer] = 3
    pixels[inner] = 2
    light = GROUNDS[ground % len(GROUNDS)]
    palette = [*light, *(c - 26 for c in light), *colour, *(c // 2 for c in colour)]
    image = Image.fromarray(pixels, mode="P")
    image.putpalette(palette)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=False, bits=2)
    return buffer.getvalue()
