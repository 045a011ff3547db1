"""CMSA's fusion: the published equations, an exact reconstruction, a contrast that learns, and no collapse."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from dig_ray.base import Stage
from dig_ray.catalog.dataset import Dataset
from dig_ray.embedding.collaborative import join_evidence
from dig_ray.embedding.config import FusionConfig
from dig_ray.embedding.fusion import (
    Fusion,
    cooccurrence,
    near_pairs,
    reconstruction,
    spread_figures,
    stand_in,
)
from dig_ray.embedding.fusion_stage import fuse
from dig_ray.embedding.vectors import load_vectors, write_vectors


def blocks(n: int, d_text: int, d_vis: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    text = rng.normal(size=(n, d_text)).astype(np.float32)
    image = 30 + 5 * rng.normal(size=(n, d_vis)).astype(
        np.float32
    )  # as raw features are: far from zero, another scale
    return text, image


def distances(x: np.ndarray) -> np.ndarray:
    return np.linalg.norm(x[:, None].astype(np.float64) - x[None], axis=2)


def test_the_equations_are_the_published_ones():
    rng = np.random.default_rng(0)
    w_v, w_f = rng.normal(size=(4, 6)).astype(np.float32), rng.normal(size=(3, 8)).astype(np.float32)
    text, image = rng.normal(size=(5, 4)).astype(np.float32), rng.normal(size=(5, 6)).astype(np.float32)
    by_hand = np.stack([w_f @ np.concatenate([t, w_v @ f]) for t, f in zip(text, image, strict=True)])
    np.testing.assert_allclose(Fusion(w_v, w_f).apply(text, image), by_hand, rtol=1e-5, atol=1e-5)
    assert not Fusion(w_v, w_f).apply(np.zeros((1, 4)), np.zeros((1, 6))).any()  # no bias anywhere


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 8), st.integers(2, 12), st.integers(0, 5))
def test_with_room_for_everything_distances_are_those_of_the_joined_blocks(d_text, d_vis, seed):
    text, image = blocks(40, d_text, d_vis, seed)
    fusion = reconstruction(text, image, d_text + d_vis, image_weight=0.7)
    if d_vis > d_text:
        return  # e_vis has d_text dimensions, so not all of the picture passes
    joined = join_evidence([(1.0, text), (0.7, image)])
    np.testing.assert_allclose(distances(fusion.apply(text, image)), distances(joined), atol=2e-3)


def test_what_is_kept_is_the_most_that_fits():
    text, image = blocks(400, 16, 24)
    image[:, 0] += 40 * text[:, 0]  # one strong common direction
    joined = join_evidence([(1.0, text), (1.0, image)])
    best = np.sort(np.linalg.eigvalsh(np.cov(joined.T, bias=True)))[::-1]
    fused = reconstruction(text, image, 8).apply(text, image)
    assert fused.shape == (400, 8)
    assert spread_figures(fused)["mean_square"] == pytest.approx(best[:8].sum(), rel=1e-3)


def test_neither_block_drowns_the_other():
    text, image = blocks(300, 16, 16)
    fused = reconstruction(text, image * 1000, 32).apply(text, image * 1000)
    moved = reconstruction(text, image, 32).apply(text, image)
    np.testing.assert_allclose(distances(fused), distances(moved), rtol=1e-3, atol=1e-3)


def pairs_of_groups(n: int, groups: int, rng: np.random.Generator, count: int = 20_000):
    group = np.arange(n) % groups
    first = rng.integers(0, n, count)
    second = (first + groups * rng.integers(1, n // groups, count)) % n
    assert (group[first] == group[second]).all()
    return group, (first.astype(np.int32), second.astype(np.int32))


def test_a_contrast_learns_what_people_do_and_does_not_collapse():
    rng = np.random.default_rng(0)
    n, groups = 240, 12
    text, image = blocks(n, 24, 32)
    group, pairs = pairs_of_groups(n, groups, rng)
    hint = rng.normal(size=(groups, 32)).astype(np.float32)
    image += 2 * hint[group]  # a weak sign of the group in the picture
    start = reconstruction(text, image, 24)
    lines: list[str] = []
    config = FusionConfig(target="cooccurrence", steps=200, batch_size=128)
    fusion, figures = cooccurrence(start, text, image, pairs, config, 0, lines.append)
    assert figures["loss_after"] < figures["loss_before"] - 0.3 and lines

    def same_group(vectors: np.ndarray) -> float:
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        scores = unit @ unit.T
        np.fill_diagonal(scores, -1)
        near = np.argsort(-scores, axis=1)[:, :5]
        return float((group[near] == group[:, None]).mean())

    before, after = start.apply(text, image), fusion.apply(text, image)
    assert same_group(after) > same_group(before) + 0.2
    spread = spread_figures(after)
    assert spread["mean_square"] > 0.1 * spread_figures(before)["mean_square"]
    assert spread["effective_rank"] > 5
    again, _ = cooccurrence(start, text, image, pairs, config, 0, lines.append)
    assert np.array_equal(again.w_f, fusion.w_f)


def test_training_together_with_its_own_target_collapses_and_ours_does_not():
    """Why the target is fixed: a reconstruction of what the matrices themselves put out is best at zero."""
    import torch

    text, image = (torch.from_numpy(x) for x in blocks(200, 8, 8))
    w_v, w_f = (
        torch.nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.3)
        for shape in ((8, 8), (8, 16))
    )
    book = torch.nn.Parameter(torch.zeros(4, 8))
    optimizer = torch.optim.Adam([w_v, w_f, book], lr=1e-2)

    def fused():
        return torch.cat([text, (image - image.mean(0)) @ w_v.T], 1) @ w_f.T

    before = float(fused().detach().square().sum(1).mean())
    for _ in range(800):
        vectors = fused()
        loss = torch.cdist(vectors, book).min(dim=1).values.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(fused().detach().square().sum(1).mean()) < 0.01 * before
    ours = reconstruction(text.numpy(), image.numpy(), 8).apply(text.numpy(), image.numpy())
    assert spread_figures(ours)["mean_square"] > 0.5


def test_pairs_are_near_different_and_never_cross_users():
    offsets = np.array([0, 3, 3, 6])
    events = np.array([1, 2, 1, 7, 8, 9], np.int32)
    first, second = near_pairs(offsets, events, 2, np.random.default_rng(0))
    found = {tuple(sorted(pair)) for pair in zip(first.tolist(), second.tolist(), strict=True)}
    assert found == {(1, 2), (7, 8), (8, 9), (7, 9)}


def test_too_few_pairs_keep_the_start():
    text, image = blocks(10, 4, 4)
    start = reconstruction(text, image, 4)
    nothing = (np.zeros(0, np.int32), np.zeros(0, np.int32))
    lines: list[str] = []
    same, figures = cooccurrence(start, text, image, nothing, FusionConfig(), 0, lines.append)
    assert same is start and figures["steps"] == 0 and "too few pairs" in lines[0]


def test_what_stands_in_for_a_missing_picture():
    image = np.array([[1.0, 3.0], [3.0, 5.0], [9.0, 9.0]], np.float32)
    known = np.array([True, True, False])
    assert stand_in(image, known, "text").tolist() == [[1, 3], [3, 5], [2, 4]]
    assert stand_in(image, known, "zero").tolist() == [[1, 3], [3, 5], [0, 0]]


@pytest.mark.parametrize("missing", ["text", "zero"])
def test_the_stage_writes_vectors_and_matrices_that_belong_together(tmp_path, missing):
    n = 30
    ids = [f"i{row}" for row in range(n)]
    items = pa.table({"item_id": ids, "title": ["x"] * n})
    users = np.array([f"u{u}" for u in range(10)])
    events = np.arange(30, dtype=np.int32)
    Dataset(items, users, np.arange(0, 31, 3), events, np.tile(np.array([0, 1, 2], np.int8), 10)).save(
        tmp_path / "catalog"
    )
    text, image = blocks(n, 6, 8)
    known = np.arange(n) % 5 > 0
    for name, vectors, flag in (("text", text, None), ("image", image * known[:, None], known)):
        (tmp_path / name).mkdir()
        write_vectors(tmp_path / name / "embeddings.parquet", ids, vectors, flag)
    (tmp_path / "out").mkdir()
    stage = Stage("fusion", "f" * 8, 0, tmp_path / "out", str(tmp_path / "work"), log=lambda line: None)
    fuse(FusionConfig(missing=missing), stage, tmp_path / "catalog", tmp_path / "text", tmp_path / "image")
    fused = load_vectors(stage.out / "embeddings.parquet", ids)
    matrices = load_file(stage.out / "fusion.safetensors")
    by_hand = Fusion(matrices["w_v"], matrices["w_f"]).apply(text, stand_in(image, known, missing))
    np.testing.assert_array_equal(fused, by_hand)
    assert stage.stats["items_without_picture"] == 6 and stage.stats["effective_rank"] > 2
    assert pq.read_schema(stage.out / "embeddings.parquet").names == ["item_id", "vector"]
