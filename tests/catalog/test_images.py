"""Opening pictures: what is kept bit for bit, what is written anew, what is refused and why; and where their bytes lie."""

from __future__ import annotations

import io
import os
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from dig_ray.catalog.config import ImagesConfig
from dig_ray.catalog.demo.demo_pictures import picture as demo_picture
from dig_ray.catalog.pictures.images import Picture, open_archive, open_picture, read_bytes
from dig_ray.errors import UserError

IMAGES = ImagesConfig()


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def noise(width: int = 40, height: int = 30) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def opened(raw: bytes, images: ImagesConfig = IMAGES) -> tuple[Picture, Image.Image]:
    found = open_picture(raw, images)
    assert isinstance(found, Picture), found
    image = Image.open(io.BytesIO(found.image))
    image.load()
    assert found.media == f"image/{str(image.format).lower()}"
    return found, image


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_small_plain_picture_is_kept_bit_for_bit(kind: str) -> None:
    raw = encoded(noise(), kind)
    found, _ = opened(raw)
    assert found.image == raw and (found.width, found.height, found.notes) == (40, 30, ())


def test_palettes_are_kept_and_so_is_the_demo_world() -> None:
    for raw in (encoded(noise().quantize(16)), demo_picture(0, (200, 10, 10), 0, 1, 1, 32)):
        assert opened(raw)[0].image == raw


@pytest.mark.parametrize(
    ("size", "kept"), [((2000, 1000), (1024, 512)), ((4000, 40), (2048, 20)), ((512, 2048), (512, 2048))]
)
def test_large_pictures_are_kept_small_with_their_source_s_size(
    size: tuple[int, int], kept: tuple[int, int]
) -> None:
    found, image = opened(encoded(noise(*size), "JPEG"))
    assert (found.width, found.height) == size and image.size == kept


def test_the_same_bytes_give_the_same_bytes() -> None:
    raw = encoded(noise(1500, 1100), "JPEG", quality=80)
    assert open_picture(raw, IMAGES) == open_picture(raw, IMAGES)


def test_a_long_file_of_a_small_picture_is_written_anew() -> None:
    raw = encoded(noise()) + b"\0" * (2 << 20)
    assert len(opened(raw)[0].image) < 20_000


def test_a_turned_photograph_is_kept_upright() -> None:
    image = Image.new("RGB", (40, 20), "white")
    image.paste((255, 0, 0), (0, 0, 20, 20))  # red on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise: red on top
    for kind in ("JPEG", "PNG", "TIFF"):
        found, upright = opened(encoded(image, kind, exif=exif))
        assert (found.width, found.height) == upright.size == (20, 40), kind
        top, bottom = upright.getpixel((10, 8)), upright.getpixel((10, 32))
        assert isinstance(top, tuple) and isinstance(bottom, tuple)
        assert top[0] > 200 > 60 > top[1] and bottom[1] > 200


def test_transparency_shows_white_and_is_noted() -> None:
    image = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    for raw in (encoded(image), encoded(image.quantize(4)), encoded(image, "WEBP", lossless=True)):
        found, shown = opened(raw)
        assert found.notes == ("transparent",) and shown.getpixel((5, 5)) == (255, 255, 255)
    assert opened(encoded(Image.new("RGBA", (20, 20), "red")))[0].notes == ()


def test_an_animation_is_its_first_frame() -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue", "green")]
    raw = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    found, image = opened(raw)
    assert found.notes == ("animated",) and image.mode == "RGB"
    assert image.getpixel((5, 5))[0] > 240  # type: ignore[index]


def test_ink_colours_become_rgb() -> None:
    found, image = opened(encoded(Image.new("CMYK", (20, 20), (0, 255, 255, 0)), "JPEG"))
    red, green, _ = image.getpixel((5, 5))  # type: ignore[misc]
    assert found.notes == ("cmyk",) and image.mode == "RGB" and red > 200 and green < 60


def test_sixteen_bits_keep_their_shades() -> None:
    ramp = np.tile(np.linspace(0, 65535, 64, dtype=np.uint16), (8, 1))
    _, image = opened(encoded(Image.fromarray(ramp)))
    shades = np.asarray(image)[4, :, 0].astype(int)
    assert shades[0] < 8 and shades[-1] > 247 and 110 < shades[32] < 146


def tiff(values: np.ndarray, **tags: Any) -> bytes:
    """A grey TIFF of these numbers, as a microscope or a depth camera writes it; tags by name, before the pixels."""
    named = {"photometric": 262, "lowest": 340, "highest": 341}
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    entries: list[tuple[int, int, Any]] = [  # tag, type (3 short, 4 long, 11 float), value
        (256, 4, values.shape[1]),
        (257, 4, values.shape[0]),
        (258, 3, values.itemsize * 8),
        (259, 3, 1),
        (262, 3, tags.pop("photometric", 1)),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, values.shape[0]),
        (279, 4, values.nbytes),
        (339, 3, kind),
        *((named[name], 11, value) for name, value in sorted(tags.items(), reverse=True)),
    ]
    directory = struct.pack("<H", len(entries))
    for tag, of, value in sorted(entries):
        packed = struct.pack("<f", value) if of == 11 else struct.pack("<I", value)
        directory += struct.pack("<HHI", tag, of, 1) + packed
    pixels = values.astype(values.dtype.newbyteorder("<")).tobytes()
    return struct.pack("<2sHI", b"II", 42, 8 + len(pixels)) + pixels + directory + struct.pack("<I", 0)


RAMP = np.tile(np.linspace(0, 1, 64), (8, 1))


@pytest.mark.parametrize(
    ("values", "notes"),
    [
        ((RAMP * 65_535).astype(np.uint16), ()),
        (RAMP.astype(np.float32), ()),
        ((RAMP * 255).astype(np.float32), ()),
        ((RAMP * 65_535).astype(np.float32), ()),
        ((RAMP * 9e6 - 4e6).astype(np.float32), ("stretched",)),
        ((RAMP * 255).astype(np.uint32), ()),
        ((RAMP * 65_535).astype(np.int32), ()),
        ((RAMP * (2**32 - 1)).astype(np.uint32), ()),
        ((RAMP * 2000 - 1000).astype(np.int16), ("stretched",)),
    ],
)
@pytest.mark.parametrize("inverted", [False, True])
def test_deep_grey_keeps_what_it_shows(values: np.ndarray, notes: tuple[str, ...], inverted: bool) -> None:
    raw = tiff(values, photometric=0 if inverted else 1)
    try:
        with Image.open(io.BytesIO(raw)) as image:
            image.load()
    except OSError:
        pytest.skip("Pillow knows no such TIFF")
    found, shown = opened(raw)
    shades = np.asarray(shown)[4, :, 0].astype(int)
    if inverted:
        shades = shades[::-1]
    assert np.abs(shades - np.linspace(0, 255, 64)).max() < 8
    assert found.notes == notes


def test_a_stated_range_and_values_that_are_no_numbers() -> None:
    values = (RAMP * 30).astype(np.float32)
    values[0, 0], values[0, 1] = np.nan, np.inf
    _, shown = opened(tiff(values, lowest=10.0, highest=20.0))
    shades = np.asarray(shown)[4, :, 0].astype(int)
    assert shades[10] < 8 and 110 < shades[31] < 146 and shades[50] > 247


def test_grey_that_is_clear_shows_white_whatever_its_depth() -> None:
    for bits, kind in ((1, ">u1"), (2, ">u1"), (4, ">u1"), (8, ">u1"), (16, ">u2")):
        most = (1 << bits) - 1
        half = np.zeros((20, 20), kind)
        half[:, 10:] = (
            most  # black on the left, which is clear, and white on the right, or the other way round
        )
        for clear in (0, most):
            found, shown = opened(png(half, bits, 0, struct.pack(">H", clear)))
            left, right = (np.asarray(shown)[10, x, 0] for x in (3, 16))
            assert right > 250 and (left > 250) == (clear == 0), (bits, clear)
            assert found.notes == ("transparent",)
    third = np.full((20, 20), 0x5555, ">u2")
    _, shown = opened(png(third, 16, 0, struct.pack(">H", 0x5556)))  # not clear: one of 65,536 shades away
    assert abs(int(np.asarray(shown)[5, 5, 0]) - 0x55) < 3


def test_one_colour_of_sixteen_bits_that_is_clear_shows_white() -> None:
    pixels = np.zeros((20, 20, 3), ">u2")
    pixels[:, :10] = (0x1234, 0xABCD, 0x00FF)
    found, shown = opened(png(pixels, 16, 2, struct.pack(">3H", 0x1234, 0xABCD, 0x00FF)))
    assert np.asarray(shown)[5, 3].min() > 250 and np.asarray(shown)[5, 16].max() < 5
    assert found.notes == ("transparent",)


def png(pixels: np.ndarray, bits: int, colour: int, clear: bytes) -> bytes:
    """A PNG of exactly these numbers, which Pillow would not write."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    height, width = pixels.shape[:2]
    if bits < 8:
        flags = np.unpackbits(pixels[..., None], axis=-1)[..., 8 - bits :].reshape(height, -1)
        rows = np.packbits(flags, axis=1)
    else:
        rows = pixels.reshape(height, -1)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"tRNS", clear)
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "F", "I", "YCbCr", "LAB"])
def test_other_modes_come_out_as_pictures(mode: str) -> None:
    kind = "PNG" if mode in ("1", "L", "LA", "P") else "TIFF"
    raw = encoded(Image.new(mode, (20, 20)), kind)
    assert opened(raw)[1].mode in ("RGB", "P")


def test_the_extension_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "really.jpg").write_bytes(encoded(noise()))
    raw = read_bytes("really.jpg", IMAGES, str(tmp_path))
    assert isinstance(raw, bytes) and opened(raw)[0].media == "image/png"


def test_what_is_no_usable_picture_says_why() -> None:
    jpeg = encoded(noise(300, 300), "JPEG")
    huge = encoded(Image.new("1", (10_000, 10_000)))
    assert len(huge) < 50_000
    cases = [
        (jpeg[: len(jpeg) // 2], "image_unreadable"),
        (b"", "image_unreadable"),
        (b"<html>no such page</html>", "image_unreadable"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "image_unreadable"),
        (encoded(noise(1, 1)), "image_too_small"),
        (encoded(noise(1, 50)), "image_too_small"),
        (huge, "image_too_large"),
        (encoded(Image.new("1", (8_000, 8_000))), "image_too_large"),
    ]
    for raw, reason in cases:
        assert open_picture(raw, IMAGES) == reason
    assert open_picture(encoded(noise(1, 1)), ImagesConfig(min_side=1)) != "image_too_small"
    assert open_picture(jpeg, ImagesConfig(max_bytes=1000)) == "image_too_large"


@given(
    st.binary(max_size=300),
    st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]),
    st.integers(0, 400),
)
def test_arbitrary_bytes_never_raise(junk: bytes, kind: str, at: int) -> None:
    good = encoded(noise(12, 9), kind)
    for raw in (junk, good[:at] + junk, good[:at] + junk + good[at + len(junk) :]):
        found = open_picture(raw, IMAGES)
        assert isinstance(found, Picture) or found.startswith("image_")


# --- where the bytes lie -----------------------------------------------------------------------------------


def test_paths_stay_below_their_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "deep").mkdir(parents=True)
    (root / "in.png").write_bytes(b"inside")
    (tmp_path / "out.png").write_bytes(b"outside")
    (root / "link.png").symlink_to(tmp_path / "out.png")
    images = ImagesConfig(root="root")
    for path in ("in.png", "./deep/../in.png", str(root / "in.png")):
        assert read_bytes(path, images, str(tmp_path)) == b"inside"
    for path in ("../out.png", "deep/../../out.png", str(tmp_path / "out.png"), "link.png", "/etc/passwd"):
        assert read_bytes(path, images, str(tmp_path)) == "image_outside_root", path
    assert read_bytes("../tmp_out.png", IMAGES, str(tmp_path)) == "image_not_found"
    assert read_bytes("out.png", IMAGES, str(tmp_path)) == b"outside"


def test_files_that_are_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "long").write_bytes(b"x" * 2000)
    (tmp_path / "circle").symlink_to("circle")
    small = ImagesConfig(max_bytes=1000)
    for path, reason in (
        ("missing.png", "image_not_found"),
        ("pipe", "image_not_found"),
        (".", "image_not_found"),
        ("long", "image_too_large"),
        ("a\0b", "image_unreadable"),
        ("n" * 5000, "image_unreadable"),
    ):
        found = read_bytes(path, small, str(tmp_path))
        assert found == reason or (reason == "image_unreadable" and found == "image_not_found"), path
    assert read_bytes("circle", ImagesConfig(root="."), str(tmp_path)) in (
        "image_unreadable",
        "image_not_found",
    )


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_members_of_an_archive(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"pictures.{kind}"
    members = {"a.png": b"first", "./deep/b.png": b"second", "long.png": b"x" * 2000}
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, raw in members.items():
                archive.writestr(name, raw)
    else:
        with tarfile.open(path, "w") as archive:
            for name, raw in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(raw)
                archive.addfile(info, io.BytesIO(raw))
            link = tarfile.TarInfo("link.png")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
    images = ImagesConfig(archive=path.name, max_bytes=1000)
    for name, found in (
        ("a.png", b"first"),
        ("deep/b.png", b"second"),
        ("./a.png", b"first"),
        ("long.png", "image_too_large"),
        ("link.png", "image_not_found"),
        ("../a.png", "image_not_found"),
        ("/etc/passwd", "image_not_found"),
    ):
        assert read_bytes(name, images, str(tmp_path)) == found, name


def test_a_damaged_member_is_one_picture(tmp_path: Path) -> None:
    path = tmp_path / "p.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", b"A" * 100)
        archive.writestr("b.png", b"B" * 100)
    path.write_bytes(path.read_bytes().replace(b"A" * 100, b"X" * 100))
    images = ImagesConfig(archive=str(path))
    assert read_bytes("a.png", images, "/") == "image_unreadable"
    assert read_bytes("b.png", images, "/") == b"B" * 100


def test_archives_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="repack it"):
        ImagesConfig(archive="pictures.tar.gz")
    with pytest.raises(ValidationError, match="keep one of them"):
        ImagesConfig(archive="pictures.zip", root="pictures")
    packed = tmp_path / "packed.tar"
    with tarfile.open(packed, "w:gz") as archive:
        archive.add(__file__, "a.png")
    with pytest.raises(UserError, match=r"packed\.tar is a compressed archive; repack"):
        open_archive(str(packed))
    (tmp_path / "text.zip").write_bytes(b"PK no archive")
    with pytest.raises(UserError, match=r"text\.zip is no whole \.zip or \.tar"):
        open_archive(str(tmp_path / "text.zip"))
    with pytest.raises(UserError, match="No such file"):
        open_archive(str(tmp_path / "none.zip"))
