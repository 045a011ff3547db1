"""What a picture's numbers show: every mode that Pillow opens, as 8 bits of grey or colour, on white where it is clear.

Grey of more than 8 bits has no one meaning. Ours, in this order: the range that the file states (TIFF's SMinSampleValue and
SMaxSampleValue); for whole numbers of up to 16 bits all that so many bits hold; for floats and wider whole numbers the first of 0 to 1
(floats), 0 to 255, 0 to 65,535 and 0 to 2^32 - 1 that holds all values; else lowest to highest, which is noted as ``stretched``. Values
that are no number are the lowest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

STRETCHED = "stretched"
BITS, PHOTOMETRIC, FORMAT, LOWEST, HIGHEST = 258, 262, 339, 340, 341  # tags of TIFF
WHITE_IS_ZERO, UNSIGNED, SIGNED = 0, 1, 2
RANGES = (255.0, 65_535.0, 2.0**32)  # the last one as float32 rounds it
CLEAR = ("RGBA", "RGBa", "LA", "La", "PA")
"""Modes with a channel that says how clear a pixel is."""


def eight_bits(opened: Any, raw: bytes) -> tuple[Image.Image, bool, tuple[str, ...]]:
    """A loaded picture without deep grey.

    Args:
        opened: the picture as Pillow loaded it.
        raw: the file it was loaded from.

    Returns:
        the picture, of a mode that ``on_white`` takes; whether it may be clear somewhere; and notes.
    """
    mode = opened.mode
    if mode.startswith("I") or mode == "F":
        return _grey(opened)
    if mode in ("La", "RGBa"):  # colours that were multiplied by how clear they are
        return opened.convert("LA" if mode == "La" else "RGBA"), True, ()
    key = opened.info.get("transparency")
    if opened.format == "PNG" and key is not None and mode in ("1", "L", "RGB"):
        opened.info["transparency"] = _key(key, mode, png_bits(raw))
    return opened, mode in CLEAR or key is not None, ()


def on_white(image: Image.Image, clear: bool) -> Image.Image:
    """As RGB; what is clear shows white."""
    from PIL import Image

    if clear:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def png_bits(raw: bytes) -> int:
    """Bits of a channel, which a PNG's first chunk states."""
    return raw[24] if len(raw) > 24 else 8


def _key(key: Any, mode: str, bits: int) -> Any:
    """The grey or colour that is clear, in the 8 bits that Pillow reads; it leaves the file's own number there."""
    if mode == "1" or isinstance(key, bytes):
        return key
    most = (1 << bits) - 1
    if isinstance(key, tuple):
        return tuple(int(channel) >> 8 for channel in key) if bits == 16 else key
    return round(int(key) * 255 / most)


def _grey(opened: Any) -> tuple[Image.Image, bool, tuple[str, ...]]:
    from PIL import Image

    values = np.asarray(opened)
    tags = getattr(opened, "tag_v2", {})
    bits, kind = (
        _first(tags.get(BITS), 16 if ";16" in opened.mode else 32),
        _first(tags.get(FORMAT), UNSIGNED),
    )
    if opened.mode == "I" and bits == 32 and kind == UNSIGNED and opened.format == "TIFF":
        values = values.astype(np.int32).view(np.uint32)  # Pillow has no unsigned 32 bits
    numbers = values.astype(np.float32)  # 8 bits are kept of it
    finite = np.isfinite(numbers)
    low, high, stretched = _range(numbers[finite], opened.mode == "F", bits, kind, tags)
    shown = np.where(finite, (np.where(finite, numbers, low) - low) / (high - low), 0.0).clip(0.0, 1.0)
    if np.isposinf(numbers).any():
        shown[np.isposinf(numbers)] = 1.0
    if opened.format == "TIFF" and _first(tags.get(PHOTOMETRIC), 1) == WHITE_IS_ZERO:
        shown = 1.0 - shown
    grey = Image.fromarray((shown * 255.0 + 0.5).astype(np.uint8))
    key = opened.info.get("transparency")
    if isinstance(key, int):
        grey.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    return grey, isinstance(key, int), (STRETCHED,) if stretched else ()


def _range(numbers: np.ndarray, floats: bool, bits: int, kind: int, tags: Any) -> tuple[float, float, bool]:
    """What is black, what is white, and whether that was read off the picture itself."""
    stated = [_number(tags.get(name)) for name in (LOWEST, HIGHEST)]
    if stated[0] is not None and stated[1] is not None and stated[0] < stated[1]:
        return stated[0], stated[1], False
    if not floats and kind == UNSIGNED and bits <= 16:
        return 0.0, float((1 << bits) - 1), False
    low, high = (float(numbers.min()), float(numbers.max())) if numbers.size else (0.0, 0.0)
    if low >= 0:
        most = next((most for most in ((1.0,) if floats else ()) + RANGES if high <= most), None)
        if most is not None:
            return 0.0, most, False
    return low, high if high > low else low + 1.0, True


def _first(value: Any, otherwise: int) -> int:
    value = value[0] if isinstance(value, (tuple, list)) and value else value
    return value if isinstance(value, int) else otherwise


def _number(value: Any) -> float | None:
    value = value[0] if isinstance(value, (tuple, list)) and value else value
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError, ZeroDivisionError):
        return None
    return number if np.isfinite(number) else None
