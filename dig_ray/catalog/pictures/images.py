"""One picture at a time: where its bytes lie, and what is kept of them.

A picture is opened with care: a few formats, a limit on bytes before reading and on pixels before decoding. What is kept is
upright, on white, RGB and of modest size; what is that already is kept bit for bit. The same bytes give the same bytes.
"""

from __future__ import annotations

import io
import os
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dig_ray.catalog.config import ImagesConfig
from dig_ray.catalog.pictures.pixels import eight_bits, on_white
from dig_ray.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # none that starts another program, as EPS would
MEDIA = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
KEPT_BYTES = 1 << 20  # a longer file is written anew however small its picture is
ORIENTATION = 0x0112  # tag of EXIF

NO_IMAGE = "no_image"
NOT_FOUND = "image_not_found"
OUTSIDE_ROOT = "image_outside_root"
URL = "image_url"
PRIVATE = "image_private_address"
UNREACHABLE = "image_unreachable"
TOO_LARGE = "image_too_large"
TOO_SMALL = "image_too_small"
UNREADABLE = "image_unreadable"


@dataclass(frozen=True)
class Picture:
    """A picture as it is kept.

    Attributes:
        image: its bytes.
        media: ``image/jpeg``, ``image/png`` or ``image/webp``.
        width, height: pixels of the source, upright.
        notes: what it was made from: ``animated`` (its first frame), ``cmyk``, ``transparent`` (put on white), ``stretched`` (deep grey
            of no known range, from its lowest value to its highest).
    """

    image: bytes
    media: str
    width: int
    height: int
    notes: tuple[str, ...] = ()


def open_picture(raw: bytes, images: ImagesConfig) -> Picture | str:
    """What is kept of a picture's bytes, or the reason why nothing is; never raises."""
    from PIL import Image

    if len(raw) > images.max_bytes:
        return TOO_LARGE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(raw), formats=FORMATS) as opened:
                return _checked(opened, raw, images)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return TOO_LARGE
    except Exception:  # a damaged picture can raise nearly anything, and is never fatal
        return UNREADABLE


def _checked(opened: Any, raw: bytes, images: ImagesConfig) -> Picture | str:
    from PIL import Image

    width, height = opened.size
    if width * height > images.max_pixels:
        return TOO_LARGE
    if min(width, height) < images.min_side:
        return TOO_SMALL
    kind, mode = opened.format, opened.mode
    notes = []
    if kind != "MPO" and getattr(opened, "is_animated", False):  # an MPO is a photograph and its preview
        notes.append("animated")
    if mode == "CMYK":
        notes.append("cmyk")
    small = _size(width, height, images.side)
    if small != (width, height):
        opened.draft("RGB", (2 * small[0], 2 * small[1]))  # a JPEG is decoded at a fraction of its size
    opened.load()
    turn = _turn(opened)
    if kind == "TIFF":
        width, height = opened.size  # turned when it was loaded
        small = _size(width, height, images.side)
    image, clear, said = eight_bits(opened, raw)
    notes.extend(said)
    as_it_is = (mode == "RGB" and kind in MEDIA) or (mode == "P" and kind == "PNG")
    if (
        as_it_is
        and not (clear or notes or turn is not None)
        and small == (width, height)
        and len(raw) <= KEPT_BYTES
    ):
        return Picture(raw, MEDIA[kind], width, height)
    factor = min(image.width // (2 * small[0]), image.height // (2 * small[1]))
    if clear:
        if image.mode not in ("RGBA", "LA"):
            image = image.convert("RGBA")
        lowest = image.getchannel("A").getextrema()[0]
        if isinstance(lowest, (int, float)) and lowest < 255:
            notes.append("transparent")
    if factor > 1 and image.mode in ("L", "LA", "RGB", "RGBA", "CMYK"):
        image = image.reduce(factor)
    image = on_white(image, clear)
    if image.size != small:
        image = image.resize(small, Image.Resampling.LANCZOS)
    if turn is not None:
        image = image.transpose(turn)
        if turn not in (
            Image.Transpose.ROTATE_180,
            Image.Transpose.FLIP_LEFT_RIGHT,
            Image.Transpose.FLIP_TOP_BOTTOM,
        ):
            width, height = height, width
    out = io.BytesIO()
    image.save(out, "JPEG", quality=95, subsampling=0)
    return Picture(out.getvalue(), "image/jpeg", width, height, tuple(notes))


def _size(width: int, height: int, side: int) -> tuple[int, int]:
    """The largest size of the same shape that is kept."""
    scale = min(1.0, side / min(width, height), 4 * side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _turn(opened: Any) -> Image.Transpose | None:
    """What turns a loaded picture upright; tags that cannot be read say nothing."""
    from PIL import Image

    try:
        said = opened.getexif().get(ORIENTATION, 1)
    except Exception:
        return None
    turns = Image.Transpose
    return {
        2: turns.FLIP_LEFT_RIGHT,
        3: turns.ROTATE_180,
        4: turns.FLIP_TOP_BOTTOM,
        5: turns.TRANSPOSE,
        6: turns.ROTATE_270,
        7: turns.TRANSVERSE,
        8: turns.ROTATE_90,
    }.get(said)


# --- where the bytes lie -----------------------------------------------------------------------------------


def is_address(image: str) -> bool:
    """Whether an image column's text is an address rather than a path."""
    return "://" in image


def can_fetch(image: str) -> bool:
    """Whether it is an address on the web."""
    return image.lower().startswith(("http://", "https://"))


def read_bytes(image: str, images: ImagesConfig, base: str) -> bytes | str:
    """The bytes that a path or an archive's member holds, or the reason why there are none.

    Args:
        image: what stands in the image column; no address.
        images: the settings.
        base: the driver's working directory, since a worker may have another one.

    Raises:
        UserError: the archive cannot be used.
    """
    if images.archive is not None:
        read = open_archive(str(Path(base, images.archive)))
        try:
            return read(image, images.max_bytes)
        except Exception:  # a damaged, encrypted or oddly packed member
            return UNREADABLE
    try:
        path = Path(base, images.root or "", image)
        if images.root is not None:
            path = path.resolve()
            if not path.is_relative_to(Path(base, images.root).resolve()):
                return OUTSIDE_ROOT
        if not path.is_file():
            return NOT_FOUND
        with open(path, "rb") as file:
            return _at_most(file, images.max_bytes)
    except (OSError, ValueError, RuntimeError):  # no permission; a NUL; a circle of links
        return UNREADABLE


def _at_most(file: Any, limit: int) -> bytes | str:
    raw = file.read(limit + 1)
    return TOO_LARGE if len(raw) > limit else raw


Reader = Callable[[str, int], "bytes | str"]


@lru_cache(maxsize=2)
def open_archive(path: str) -> Reader:
    """``read(member, limit)`` for a .zip or .tar: its bytes or the reason why there are none; the index is read once a process.

    Raises:
        UserError: it is missing or of another kind.
    """
    try:
        with open(path, "rb") as file:
            packed = file.read(6)
        if zipfile.is_zipfile(path):
            return _zip_reader(path)
        return _tar_reader(path)
    except OSError as error:
        said = error.strerror or "no archive"
        raise UserError(f"catalog.images.archive={path} cannot be read ({said}); correct the path") from None
    except (tarfile.TarError, zipfile.BadZipFile, ValueError, EOFError):
        compressed = packed.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"))
        said = "is a compressed archive" if compressed else "is no whole .zip or .tar"
        raise UserError(f"catalog.images.archive={path} {said}; repack it as .zip or plain .tar") from None


def _zip_reader(path: str) -> Reader:
    archive = zipfile.ZipFile(path)
    index = {_member(info.filename): info for info in archive.infolist() if not info.is_dir()}

    def read(name: str, limit: int) -> bytes | str:
        info = index.get(_member(name))
        if info is None:
            return NOT_FOUND
        if info.file_size > limit:
            return TOO_LARGE
        with archive.open(info) as file:
            return _at_most(file, limit)

    return read


def _tar_reader(path: str) -> Reader:
    with tarfile.open(path, "r:") as archive:
        index = {
            _member(info.name): (info.offset_data, info.size)
            for info in archive
            if info.isreg() and not info.issparse()
        }
    descriptor = os.open(path, os.O_RDONLY)  # as long as the process lives

    def read(name: str, limit: int) -> bytes | str:
        where = index.get(_member(name))
        if where is None:
            return NOT_FOUND
        start, size = where
        if size > limit:
            return TOO_LARGE
        raw = os.pread(descriptor, size, start)
        return raw if len(raw) == size else UNREADABLE

    return read


def _member(name: str) -> str:
    return name.removeprefix("./")
