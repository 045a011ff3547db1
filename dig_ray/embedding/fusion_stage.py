"""The fusion stage: text vectors and image features to one vector an item, with the matrices kept."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from dig_ray.base import Inputs, Stage
from dig_ray.embedding.config import FusionConfig
from dig_ray.embedding.fusion import cooccurrence, near_pairs, reconstruction, spread_figures, stand_in
from dig_ray.embedding.vectors import known_vectors, load_vectors, write_vectors
from dig_ray.errors import UserError


def run(config: Any, stage: Stage, inputs: Inputs) -> None:
    """The stage ``fusion`` of a run: the vectors of the embedding and the features of the pictures, fused."""
    fuse(config.fusion, stage, inputs["catalog"], inputs["embedding"], inputs["image_embedding"])


def fuse(config: FusionConfig, stage: Stage, catalog_dir: Path, text_dir: Path, image_dir: Path) -> None:
    """Write ``embeddings.parquet`` and ``fusion.safetensors`` (``w_v``, ``w_f``).

    Args:
        config: target and dimensions.
        stage: the artifact that is made.
        catalog_dir: the catalogue artifact; ``cooccurrence`` reads its training histories.
        text_dir: the embedding artifact.
        image_dir: the image_embedding artifact.

    Raises:
        UserError: a file cannot be used, or the fused vectors are all the same.
    """
    import numpy as np
    from safetensors.numpy import save_file

    from dig_ray.catalog.dataset import Dataset

    begun = time.monotonic()
    dataset = Dataset.load(catalog_dir)
    ids = dataset.item_ids.tolist()
    text = load_vectors(text_dir / "embeddings.parquet", ids)
    image, known = known_vectors(image_dir / "embeddings.parquet", ids)
    image = stand_in(image, known, config.missing)
    dimensions = config.dimensions or text.shape[1]
    fusion = reconstruction(text, image, dimensions, config.image_weight)
    stage.log(
        f"fusion: text {text.shape[1]} and image {image.shape[1]} dimensions to {dimensions}; "
        f"{int((~known).sum()):,} items without a picture, {config.missing} in its place"
    )
    if config.target == "cooccurrence":
        offsets, events = dataset.train_sequences()
        rng = np.random.default_rng(stage.seed)
        pairs = near_pairs(offsets, events, config.window, rng)
        fusion, figures = cooccurrence(fusion, text, image, pairs, config, stage.seed, stage.log)
        stage.stats["training"] = figures
    fused = fusion.apply(text, image)
    spread = spread_figures(fused)
    if spread["mean_square"] <= 0:
        raise UserError(
            "fusion: text and image vectors are the same for all items, so nothing is left to fuse"
        )
    write_vectors(stage.out / "embeddings.parquet", ids, fused)
    save_file(
        {"w_v": fusion.w_v, "w_f": fusion.w_f},
        stage.out / "fusion.safetensors",
        metadata={"target": config.target},
    )
    stage.stats.update(
        rows=len(ids),
        dimensions=dimensions,
        target=config.target,
        items_without_picture=int((~known).sum()),
        missing=config.missing,
        seconds=round(time.monotonic() - begun, 2),
        **{key: round(value, 4) for key, value in spread.items()},
    )
