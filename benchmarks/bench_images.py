"""Bench: the image path against its encoder alone, its memory from 1,000 to 50,000 pictures, and fusion for 100,000 items.

    python benchmarks/bench_images.py [--pictures 768] [--most 50000]

1. The memory of all processes (proportional set size, Ray's own and its object store among them) at its highest, for 1,000 and for 50,000
   pictures: opening and checking them, and encoding them with a tiny tower, so that decoding is what takes the time. Each in a Ray that
   starts for it.
2. Photo-like JPEGs of 500 x 400 pixels through the whole path (read, decode, resize and crop, encode, on Ray Data) against the encoder
   alone on pixels that lie in memory, ViT-B/32 with random weights, the same threads: pictures a second, by turns.
3. Fusion of 384 text and 1,024 image dimensions for 100,000 items with 500,000 pairs, towards both targets.

Two CPU cores are enough, about 12 minutes, 2 GB of disk. Exit code 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from common import conclude, family_memory

from dig_ray.base import Stage
from dig_ray.errors import UserError

TARGETS = {  # figure: (direction, limit)
    "path_over_encoder": (">=", 0.8),
    "open_memory_growth": ("<=", 1.25),
    "encode_memory_growth": ("<=", 1.25),
    "fusion_reconstruction_seconds": ("<=", 120.0),
    "fusion_cooccurrence_seconds": ("<=", 120.0),
}
GROUP = 64  # pictures in a row group, and so in a part


def photo(seed: int, width: int = 500, height: int = 400) -> bytes:
    """A JPEG that costs as much to decode as a product photo: smooth areas with edges and some grain."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (10, 12, 3), dtype=np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    pixels = np.asarray(coarse, np.int16) + rng.integers(-8, 9, (height, width, 1), dtype=np.int16)
    out = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=88)
    return out.getvalue()


def write_pictures(folder: Path, count: int, distinct: int) -> Path:
    """A catalogue with pictures in a column, and a pictures artifact, of ``count`` rows.

    They are made from so many distinct photos; a few bytes after the end tell equal ones apart.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    base = [photo(seed) for seed in range(distinct)]
    plain = pa.schema([("item_id", pa.string()), ("image_bytes", pa.binary())])
    checked = pa.schema([("item_id", pa.string()), ("image", pa.binary()), ("sha256", pa.string())])
    with (
        pq.ParquetWriter(folder / "items.parquet", plain, compression="none") as items,
        pq.ParquetWriter(folder / "pictures.parquet", checked, compression="none") as pictures,
    ):
        for start in range(0, count, GROUP):
            rows = range(start, min(start + GROUP, count))
            ids = [f"i{n}" for n in rows]
            raw = [base[n % distinct] + b"%d" % n for n in rows]
            digests = [hashlib.sha256(one).hexdigest() for one in raw]
            items.write_table(pa.table({"item_id": ids, "image_bytes": raw}, plain), row_group_size=GROUP)
            pictures.write_table(
                pa.table({"item_id": ids, "image": raw, "sha256": digests}, checked), row_group_size=GROUP
            )
    return folder


def run_stage(config: Any, folder: Path, out: Path) -> float:
    """Pictures a second of the stage, from its first finished part to its last: without the start of its processes."""
    from dig_ray.embedding import image_stage

    times: list[tuple[float, int]] = []
    write = image_stage.write_part

    def timed(where: str, name: str, vectors: np.ndarray) -> None:
        write(where, name, vectors)
        times.append((time.perf_counter(), len(vectors)))

    out.mkdir(parents=True, exist_ok=True)
    stage = Stage("image_embedding", "bench", 0, out, str(out / "work"), log=lambda line: None)
    image_stage.write_part = timed  # type: ignore[assignment]
    try:
        image_stage.embed_pictures(config, stage, folder, folder)
    finally:
        image_stage.write_part = write
    return sum(rows for _, rows in times[1:]) / (times[-1][0] - times[0][0])


def open_pictures(folder: Path, out: Path) -> float:
    """Pictures a second of the pictures stage, its processes' start included."""
    from dig_ray.catalog.config import CatalogConfig
    from dig_ray.catalog.pictures.picture_stage import keep_pictures

    alone = out / "catalog"  # without the pictures artifact beside it
    alone.mkdir(parents=True)
    (alone / "items.parquet").hardlink_to(folder / "items.parquet")
    (out / "pictures").mkdir()
    begun = time.perf_counter()
    stage = Stage("pictures", "bench", 0, out / "pictures", str(out / "pictures-work"), log=lambda line: None)
    keep_pictures(CatalogConfig(), stage, alone)
    return float(stage.stats["pictures"]) / (time.perf_counter() - begun)


def encoder_alone(config: Any, pixels: np.ndarray, threads: int) -> float:
    """Pictures a second of the tower on pixels that are there."""
    from dig_ray.embedding.clip import encode, load_tower

    tower, settings = load_tower(config, threads=threads)
    encode(pixels[: config.batch_size], tower, settings, config.batch_size)
    begun = time.perf_counter()
    encode(pixels, tower, settings, config.batch_size)
    return len(pixels) / (time.perf_counter() - begun)


def speed(pictures: int, rounds: int, scratch: Path) -> dict[str, Any]:
    """The path and the encoder alone, by turns."""
    import pyarrow.parquet as pq

    from dig_ray.embedding.clip import decode, preprocessing
    from dig_ray.embedding.config import ImageEmbeddingConfig

    config = ImageEmbeddingConfig(model="ViT-B-32", pretrained="random")
    folder = write_pictures(scratch / "speed", pictures, min(pictures, 128))
    raw = pq.ParquetFile(folder / "pictures.parquet").read_row_group(0)["image"].to_pylist()
    settings = preprocessing(config)
    begun = time.perf_counter()
    pixels = decode(raw, settings)
    decoding = len(raw) / (time.perf_counter() - begun)
    threads = os.cpu_count() or 1
    path, alone = [], []
    for turn in range(rounds):
        alone.append(encoder_alone(config, np.concatenate([pixels] * 3), threads))
        path.append(run_stage(config, folder, scratch / f"speed{turn}"))
        print(
            f"round {turn + 1}/{rounds}: path {path[-1]:.1f}, encoder alone {alone[-1]:.1f} pictures/s",
            flush=True,
        )
    return {
        "path_pictures_per_second": round(statistics.median(path), 2),
        "encoder_pictures_per_second": round(statistics.median(alone), 2),
        "decode_pictures_per_second_one_core": round(decoding, 1),
        "path_over_encoder": round(statistics.median(path) / statistics.median(alone), 3),
    }


@contextmanager
def own_ray() -> Iterator[None]:
    """A Ray as a run starts it, and its end."""
    from dig_ray.config import RunConfig
    from dig_ray.on_ray.session import RaySession

    with RaySession(RunConfig().ray, lambda line: None) as session:
        session.start()
        yield


class Watch:
    """The highest proportional set size of this process and all below it, looked at twice a second."""

    def __init__(self) -> None:
        self.highest = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.5):
            self.highest = max(self.highest, family_memory())


def tiny_tower(folder: Path) -> Path:
    """A folder as open_clip saves one, with a tower that takes no time."""
    from dig_ray.embedding.clip import import_open_clip

    import_open_clip()
    import open_clip
    from safetensors.torch import save_file

    vision = {"image_size": 224, "layers": 1, "width": 64, "head_width": 32, "patch_size": 56}
    text = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
    folder.mkdir(parents=True)
    model = open_clip.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    settings = {"model_cfg": {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(settings))
    return folder


def memory(most: int, scratch: Path) -> dict[str, Any]:
    """The highest memory for a thousand pictures, and for many."""
    from dig_ray.embedding.config import ImageEmbeddingConfig

    config = ImageEmbeddingConfig(model=f"local-dir:{tiny_tower(scratch / 'tiny')}")
    found: dict[str, Any] = {}
    for count in (1000, most):
        folder = write_pictures(scratch / f"memory{count}", count, 256)
        for what in ("open", "encode"):
            out = scratch / f"memory{count}-{what}"
            with own_ray(), Watch() as watch:
                rate = open_pictures(folder, out) if what == "open" else run_stage(config, folder, out)
            gib = watch.highest / (1 << 30)
            found[f"{what}_gib_at_{count}"] = round(gib, 3)
            found[f"{what}_rate_at_{count}"] = round(rate, 1)
            print(f"{what} {count:,} pictures: {gib:.2f} GiB at most, {rate:.0f} pictures/s", flush=True)
            shutil.rmtree(out)
        shutil.rmtree(folder)
    for what in ("open", "encode"):
        growth = found[f"{what}_gib_at_{most}"] / found[f"{what}_gib_at_1000"]
        found[f"{what}_memory_growth"] = round(growth, 3)
    return found


def fusion(rows: int) -> dict[str, Any]:
    """Seconds of both targets."""
    from dig_ray.embedding.config import FusionConfig
    from dig_ray.embedding.fusion import cooccurrence, reconstruction, spread_figures

    rng = np.random.default_rng(0)
    kinds = rows // 20  # something to learn, so that training does not stop early
    text = rng.standard_normal((kinds, 384), dtype=np.float32)[np.arange(rows) % kinds]
    text = 0.3 * text + rng.standard_normal((rows, 384), dtype=np.float32)
    image = 20 + rng.standard_normal((rows, 1024), dtype=np.float32)
    first = rng.integers(0, rows, 500_000).astype(np.int32)
    second = ((first + kinds * rng.integers(1, 20, len(first))) % rows).astype(np.int32)
    begun = time.perf_counter()
    start = reconstruction(text, image, 384)
    exact = time.perf_counter() - begun
    found, figures = cooccurrence(
        start, text, image, (first, second), FusionConfig(target="cooccurrence"), 0, lambda line: None
    )
    trained = time.perf_counter() - begun
    spread = spread_figures(found.apply(text, image))
    return {
        "fusion_items": rows,
        "fusion_reconstruction_seconds": round(exact, 1),
        "fusion_cooccurrence_seconds": round(trained, 1),
        "fusion_steps": figures["steps"],
        "fusion_effective_rank": round(spread["effective_rank"], 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=int, default=768, help="of the speed part")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--most", type=int, default=50_000, help="pictures of the memory part")
    parser.add_argument("--items", type=int, default=100_000, help="of the fusion part")
    args = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            figures = memory(args.most, Path(scratch))  # first, while this process holds nothing else
            with own_ray():
                figures |= speed(args.pictures, args.rounds, Path(scratch))
        figures |= fusion(args.items)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return conclude("images", figures, TARGETS)


if __name__ == "__main__":
    sys.exit(main())
