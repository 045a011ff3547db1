"""The semantic_ids stage: vectors to ``semantic_ids.parquet``, codebooks and a quality report with its picture."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dig_ray.base import Inputs, Stage
from dig_ray.errors import UserError
from dig_ray.on_ray.telemetry import put
from dig_ray.semantic_ids.config import SemanticIdConfig
from dig_ray.semantic_ids.quality import draw_quality, quality_report, report_lines
from dig_ray.semantic_ids.quality_file import QUALITY
from dig_ray.semantic_ids.sid_catalog import NO_SUFFIX, SidCatalog, collision_suffix

EPOCH = {
    "dig_rqvae_epochs": "epoch",
    "dig_rqvae_loss": "loss",
    "dig_rqvae_error_ratio": "error_over_variance",
    "dig_rqvae_collision_ratio": "collision_rate",
    "dig_rqvae_codes_used_ratio": "share_used",
}
"""What the dashboard shows of an RQ-VAE's epochs: metric -> figure."""


def run(config: Any, stage: Stage, inputs: Inputs) -> None:
    """The stage ``semantic_ids`` of a run: quantized are the vectors of LDMI where they are read, else fused ones, else the text's."""
    vectors = next(
        (inputs[name] for name in ("multi_interest", "fusion", "embedding") if name in inputs), None
    )
    make_semantic_ids(
        config.semantic_ids,
        stage,
        None if vectors is None else vectors / "embeddings.parquet",
        inputs["catalog"],
    )


def make_semantic_ids(
    config: SemanticIdConfig, stage: Stage, embeddings_path: Path | None, catalog_dir: Path
) -> None:
    """Make Semantic IDs for the items of ``catalog_dir`` and write them with their report into ``stage.out``.

    Args:
        config: the quantizer and its settings.
        stage: the artifact that is made.
        embeddings_path: embeddings Parquet (item_id, vector); None is allowed with ``method=file``.
        catalog_dir: the catalogue artifact; its ``items.parquet`` gives the item order.

    Writes:
        semantic_ids.parquet, sid_quality.json, sid_quality.png and, unless the SIDs were brought along,
        codebooks.safetensors.

    Raises:
        UserError: unusable vectors or SIDs, or a catalogue smaller than a codebook.
    """
    import pyarrow.parquet as pq

    from dig_ray.embedding.vectors import load_vectors

    started = time.monotonic()
    item_ids = pq.read_table(Path(catalog_dir) / "items.parquet", columns=["item_id"]).column(0).to_pylist()
    vectors = None if embeddings_path is None else load_vectors(embeddings_path, item_ids)
    reconstruction: list[float] | None = None
    if vectors is not None and config.collaborative.weight > 0:
        vectors = with_collaborative(vectors, config, catalog_dir, stage)
    if config.method == "file":
        catalog, without = sids_from_file(str(config.path), item_ids, config)
        if without:
            stage.log(
                f"semantic_ids: {without} of {len(item_ids)} items have no codes in {config.path} and share one of their own"
            )
        stage.stats.update(items_without_given_codes=without)
    else:
        if vectors is None:
            raise UserError(
                f"semantic_ids.method={config.method}: needs embeddings; run the embedding stage, or use method=file"
            )
        codes, reconstruction, tensors = quantize(vectors, config, stage)
        catalog = SidCatalog.from_codes(item_ids, codes, config.sizes)
        _save_tensors(stage.out / "codebooks.safetensors", tensors, config)
    catalog.save(stage.out / "semantic_ids.parquet")
    report = quality_report(
        catalog, vectors, reconstruction, config.neighbours, config.neighbour_sample, seed=stage.seed
    )
    (stage.out / QUALITY).write_text(json.dumps(report, indent=1), encoding="utf-8")
    draw_quality(report, stage.out / "sid_quality.png", f"Semantic IDs ({config.method.replace('_', ' ')})")
    for line in report_lines(report):
        stage.log(line)
    stage.stats.update(
        rows=len(catalog),
        method=config.method,
        sid_fingerprint=catalog.fingerprint,
        n_tokens=catalog.n_tokens,
        collisions=report["collisions"],
        codes_used=[usage["used"] for usage in report["levels"]],
        perplexity=[round(usage["perplexity"], 2) for usage in report["levels"]],
        seconds=round(time.monotonic() - started, 2),
    )


def with_collaborative(
    vectors: np.ndarray, config: SemanticIdConfig, catalog_dir: Path, stage: Stage
) -> np.ndarray:
    """Vectors float32 (N, D) joined with collaborative ones, made from the catalogue's training events: float32 (N, D + dimensions)."""
    from dig_ray.catalog.dataset import Dataset
    from dig_ray.embedding.collaborative import collaborative_vectors, join_evidence

    settings = config.collaborative
    together = collaborative_vectors(
        Dataset.load(catalog_dir), settings.dimensions, settings.window, settings.distance_power, stage.seed
    )
    alone = int((~together.any(axis=1)).sum())
    stage.log(
        f"semantic_ids: collaborative evidence of weight {settings.weight:g} joined; {alone} items have none"
    )
    stage.stats.update(items_without_collaborative_evidence=alone)
    return join_evidence([(1.0, vectors), (settings.weight, together)])


def quantize(
    vectors: np.ndarray, config: SemanticIdConfig, stage: Stage
) -> tuple[np.ndarray, list[float], dict[str, np.ndarray]]:
    """Code vectors with the quantizer of the config.

    Args:
        vectors: float32 (N, D).
        config: the quantizer and its settings.
        stage: whose seed, work folder and lines are used.

    Returns:
        codes int32 (N, L), squared error over variance with 1..L codes, and the arrays to keep in ``codebooks.safetensors``.

    Raises:
        UserError: vectors that cannot be quantized.
    """
    from dig_ray.semantic_ids import residual_kmeans as rk
    from dig_ray.semantic_ids.scaling import fit_scaling

    vectors = rk.check_vectors(vectors, config.sizes, "embeddings")
    device = pick_device(config.device)
    scaling = fit_scaling(vectors, scale_kind(config), config.whiten_dim)
    x = scaling.apply(vectors)
    tensors = {"scaling.mean": scaling.mean, "scaling.matrix": scaling.matrix}

    def log(line: str) -> None:
        stage.log(f"semantic_ids: {line}")

    def report(figures: Mapping[str, float]) -> None:
        for name, figure in EPOCH.items():
            put(name, figures[figure])
        stage.report(figures)

    if config.method == "residual_kmeans":
        settings = config.kmeans
        books = rk.fit_residual_kmeans(
            x, config.sizes, stage.seed, settings.iterations, settings.sample, settings.init, device, log
        )
        codes = rk.encode(x, books, device)
        if config.spread_last_level:
            codes = _spread(x, codes, books, stage)
        partial = [rk.reconstruct(codes, books, length) for length in range(1, config.levels + 1)]
    else:
        from dig_ray.semantic_ids.rqvae import fit_rqvae

        model, codes = fit_rqvae(x, config.sizes, stage.seed, config.rqvae, device, stage.work, log, report)
        books = model.books()
        if config.spread_last_level:
            codes = _spread(model.latents(x), codes, books, stage)
        partial = [
            model.decode(rk.reconstruct(codes, books, length)) for length in range(1, config.levels + 1)
        ]
        tensors.update({f"model.{name}": value.cpu().numpy() for name, value in model.state_dict().items()})
    tensors.update({f"codebook.{level}": book for level, book in enumerate(books)})
    variance = float(((x - x.mean(axis=0)) ** 2).sum(axis=1, dtype=np.float64).mean())
    error = [float(((x - part) ** 2).sum(axis=1, dtype=np.float64).mean()) / variance for part in partial]
    return codes, error, tensors


def _spread(rows: np.ndarray, codes: np.ndarray, books: list[np.ndarray], stage: Stage) -> np.ndarray:
    from dig_ray.semantic_ids.spread import spread_last_level

    before = int((collision_suffix(codes) != NO_SUFFIX).sum())
    spread = spread_last_level(rows, codes, books)
    moved = int((spread[:, -1] != codes[:, -1]).sum())
    stage.stats.update(items_sharing_before_spread=before, items_moved_by_spread=moved)
    stage.log(
        f"semantic_ids: {before} items shared a full code; {moved} moved to another code of the last level"
    )
    return spread


def sids_from_file(path: str, item_ids: Sequence[str], config: SemanticIdConfig) -> tuple[SidCatalog, int]:
    """SIDs brought along, in the order of ``item_ids``; items the catalogue does not have are left out.

    The file's codes are kept. Its suffixes are kept when it holds exactly our items, else they are numbered again.

    Args:
        path: the Parquet file.
        item_ids: N ids of the catalogue.
        config: its codebook sizes, where they are given, the column of the codes, and what becomes of items without codes.

    Returns:
        the SIDs, and how many items the file has no codes for (0 unless ``missing_items`` allows them).

    Raises:
        UserError: an unusable file, or one that lacks items.
    """
    sizes = config.codebook_size if isinstance(config.codebook_size, tuple) else None
    given = SidCatalog.load(path, sizes, config.codes_column, skip_uncoded=True)
    row_of = {item: row for row, item in enumerate(given.item_ids.tolist())}
    rows = np.asarray([row_of.get(str(item), -1) for item in item_ids])
    missing = rows < 0
    if not missing.any():
        if len(rows) < len(given):
            return SidCatalog.from_codes(item_ids, given.codes[rows], given.sizes), 0
        return SidCatalog.checked(item_ids, given.codes[rows], given.suffix[rows], given.sizes, path), 0
    count = int(missing.sum())
    if config.missing_items == "error" or count == len(rows):
        raise UserError(
            f"{path}: no Semantic ID for {count} of {len(item_ids)} catalogue items, the first is {item_ids[int(np.argmax(missing))]!r}; "
            + (
                "are these the ids of this catalogue?"
                if count == len(rows)
                else "add them, or set semantic_ids.missing_items=own_code"
            )
        )
    codes = np.where(missing[:, None], np.asarray(given.sizes, np.int32), given.codes[rows])
    return SidCatalog.from_codes(item_ids, codes, [size + 1 for size in given.sizes]), count


def _save_tensors(path: Path, tensors: dict[str, np.ndarray], config: SemanticIdConfig) -> None:
    from safetensors.numpy import save_file

    settings = {"config": config.model_dump_json()}  # one key: several are written in any order
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, path, metadata=settings)


def scale_kind(config: SemanticIdConfig) -> str:
    """``scale`` with ``auto`` resolved. Our choice: an RQ-VAE gets standardised vectors, k-means takes them as they are."""
    if config.scale != "auto":
        return config.scale
    return "standardise" if config.method == "rqvae" else "none"


def pick_device(device: str) -> str:
    """``auto`` resolved to cuda or cpu."""
    import torch

    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"
