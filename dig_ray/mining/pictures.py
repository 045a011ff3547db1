"""Pictures as a vision-language model gets them: opened with care, turned upright, made small, and sent as JPEG."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

LONGEST_FILE = 50 << 20  # bytes
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # none that starts another program, as EPS would
MOST_PIXELS = 50_000_000  # a picture that unfolds to more is not opened


def load_pictures(items: pa.Table, side: int) -> tuple[dict[str, tuple[bytes, str]], Counter[str]]:
    """Item id -> (JPEG bytes, media type), and why items have none: ``no_image``, ``image_url``, ``image_unreadable``, ``image_too_large``.

    Args:
        items: the catalogue's table, with ``image_bytes`` or ``image`` (a path; an address on the web is not fetched).
        side: longest side in pixels.
    """
    names = [name for name in ("image_bytes", "image") if name in items.column_names]
    pictures: dict[str, tuple[bytes, str]] = {}
    missing: Counter[str] = Counter()
    for batch in items.select(["item_id", *names]).to_batches(max_chunksize=256):
        for row in batch.to_pylist():
            raw, path = row.get("image_bytes"), row.get("image")
            if raw is None and path:
                if "://" in path:
                    missing["image_url"] += 1
                    continue
                raw = _read(path)
            if not raw or len(raw) > LONGEST_FILE:
                missing["image_unreadable" if path else "no_image"] += 1
                continue
            small, reason = shrink(raw, side)
            if small is None:
                missing[reason] += 1
            else:
                pictures[row["item_id"]] = (small, "image/jpeg")
    return pictures, missing


def _read(path: str) -> bytes | None:
    try:
        file = Path(path)
        return file.read_bytes() if file.is_file() and file.stat().st_size <= LONGEST_FILE else None
    except OSError:
        return None


def shrink(raw: bytes, side: int) -> tuple[bytes | None, str]:
    """A picture's bytes as a JPEG of at most ``side`` pixels a side, or (None, why not). The same bytes give the same bytes."""
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(raw), formats=FORMATS) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                return None, "image_too_large"
            opened.draft("RGB", (side, side))
            image: Image.Image = ImageOps.exif_transpose(opened)
            if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                behind = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(behind, image.convert("RGBA"))
            image = image.convert("RGB")
            image.thumbnail((side, side))
            out = io.BytesIO()
            image.save(out, "JPEG", quality=90)
            return out.getvalue(), ""
    except Exception:  # a damaged picture can raise nearly anything, and is never fatal
        return None, "image_unreadable"
