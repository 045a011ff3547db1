"""The demo world: deterministic, plausible, and worth mining."""

import hashlib
import io

import numpy as np
import pytest

from dig_ray.catalog.build import build
from dig_ray.catalog.config import CatalogConfig, DemoConfig
from dig_ray.catalog.demo.demo_words import CATEGORIES, INTENTS
from dig_ray.catalog.demo.world import demo_world, product_list
from dig_ray.catalog.text import item_text
from dig_ray.numerics.ranking import hit_rate, rank_of_target, top_k

SMALL = DemoConfig(n_items=60, n_users=50, n_intents=8)


@pytest.fixture(scope="module")
def world():
    config = CatalogConfig()
    raw = demo_world(config.demo, 0)
    return raw, build(raw, config)


def fingerprint(raw):
    digest = hashlib.sha256()
    for table in (raw.items, raw.interactions, *raw.truth.values()):
        digest.update(repr(table.to_pylist()).encode())
    return digest.hexdigest()


def test_the_seed_decides_every_byte():
    assert fingerprint(demo_world(SMALL, 1)) == fingerprint(demo_world(SMALL, 1))
    assert fingerprint(demo_world(SMALL, 1)) != fingerprint(demo_world(SMALL, 2))
    pinned = SMALL.model_copy(update={"seed": 1})
    assert fingerprint(demo_world(pinned, 2)) == fingerprint(demo_world(SMALL, 1))


def test_sizes_are_exact(world):
    _, dataset = world
    assert (dataset.n_items, dataset.n_users) == (500, 2000)
    assert np.diff(dataset.offsets).min() >= 5
    assert np.diff(dataset.offsets).mean() == pytest.approx(9.0, abs=0.3)
    assert len(dataset.cases("test")) == 2000
    assert dataset.stats["repeats_share"] < 0.03 and dataset.stats["ties_share"] == 0


def test_truth_is_consistent(world):
    raw, dataset = world
    names = {name for name, _ in INTENTS.values()}
    intents = dict(zip(dataset.item_ids.tolist(), dataset.items.column("intents").to_pylist(), strict=True))
    assert all(1 <= len(set(row)) == len(row) <= 3 and set(row) <= names for row in intents.values())
    held = {row["user_id"]: row for row in raw.truth["truth_users"].to_pylist()}
    assert all(
        1 <= len(row["last_intents"]) <= 3 and set(row["last_intents"]) <= set(row["intents"])
        for row in held.values()
    )
    noise = 0
    for row in raw.truth["truth_events"].to_pylist():
        if row["intent"] is None:
            noise += 1
        else:
            assert (
                row["intent"] in intents[row["item_id"]] and row["intent"] in held[row["user_id"]]["intents"]
            )
    assert noise / dataset.n_events == pytest.approx(0.15, abs=0.02)


def test_every_intent_crosses_categories():
    products = product_list(len(INTENTS))
    for at, key in enumerate(INTENTS):
        serving = [p for p in products if at in p.intents]
        assert len(serving) >= 8, key
        assert len({p.category for p in serving}) >= 4, key
    assert {p.category for p in products} == set(CATEGORIES)


def test_no_text_names_an_intent(world):
    _, dataset = world
    texts = [text.lower() for text in item_text(dataset.items)]
    names = [name.lower() for name, _ in INTENTS.values()]
    assert not any(name in text for text in texts for name in names)
    for name, phrases in INTENTS.values():
        assert len(set(phrases)) >= 7
        assert not any(name.lower() in phrase.lower() for phrase in phrases)


def test_pictures_are_small_pngs_that_decode(world):
    from PIL import Image

    _, dataset = world
    pictures = dataset.items.column("image_bytes").to_pylist()
    assert 80 < np.mean([len(p) for p in pictures]) < 600 and len(set(pictures)) > 300
    for data in pictures[:50]:
        image = Image.open(io.BytesIO(data))
        assert image.format == "PNG" and image.size == (32, 32)
        assert len(image.convert("RGB").getcolors()) >= 2


# --- is there something to learn, and does knowing the intents help? --------------------------------------


def recall(dataset, cases, scores):
    seen = np.zeros(scores.shape, dtype=bool)
    for case, (start, end) in enumerate(zip(cases.start, cases.end, strict=True)):
        seen[case, dataset.events[start:end]] = True
    recs, _ = top_k(np.where(seen, -np.inf, scores).astype(np.float32), 10)
    return hit_rate(rank_of_target(recs, cases.target), 10).mean()


def recency(dataset, cases, decay=0.8):
    weights = np.zeros((len(cases), dataset.n_items), dtype=np.float32)
    for case, (start, end) in enumerate(zip(cases.start, cases.end, strict=True)):
        np.add.at(weights[case], dataset.events[start:end], decay ** np.arange(end - start)[::-1])
    return weights


def surface_vectors(dataset):
    """Words of the text, tf-idf, unit length."""
    words = [set(text.lower().replace(".", "").replace(",", "").split()) for text in item_text(dataset.items)]
    vocabulary = {word: i for i, word in enumerate(sorted(set().union(*words)))}
    matrix = np.zeros((len(words), len(vocabulary)), dtype=np.float32)
    for row, bag in enumerate(words):
        matrix[row, [vocabulary[w] for w in bag]] = 1
    matrix *= np.log(len(words) / matrix.sum(0))
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def test_intents_beat_co_occurrence_beats_text_beats_popularity(world):
    raw, dataset = world
    cases = dataset.cases("test")
    offsets, items = dataset.train_sequences()
    counts = np.bincount(items, minlength=dataset.n_items).astype(np.float32)
    history = recency(dataset, cases)

    popularity = recall(dataset, cases, np.tile(counts, (len(cases), 1)))

    vectors = surface_vectors(dataset)
    text = recall(dataset, cases, (history @ vectors) @ vectors.T * np.sqrt(counts))

    bought = np.zeros((dataset.n_users, dataset.n_items), dtype=np.float32)
    bought[np.repeat(np.arange(dataset.n_users), np.diff(offsets)), items] = 1
    together = bought.T @ bought
    np.fill_diagonal(together, 0)
    together /= np.sqrt(np.outer(counts + 1, counts + 1))
    knn = recall(dataset, cases, history @ together)

    names = {name: i for i, (name, _) in enumerate(INTENTS.values())}
    serves = np.zeros((dataset.n_items, len(names)), dtype=np.float32)
    for item, row in enumerate(dataset.items.column("intents").to_pylist()):
        serves[item, [names[name] for name in row]] = 1
    holds = np.full((len(cases), len(names)), 0.0, dtype=np.float32)
    last = {row["user_id"]: row["last_intents"] for row in raw.truth["truth_users"].to_pylist()}
    for case, user in enumerate(cases.user):
        holds[case, [names[name] for name in last[dataset.user_ids[user]]]] = 1
    served = history @ (serves / serves.sum(1, keepdims=True))
    belief = holds * (served / served.sum(1, keepdims=True) + 0.05) ** 1.5
    share = serves * (counts + 0.5)[:, None]
    oracle = recall(dataset, cases, belief @ (share / share.sum(0)).T)

    print(f"HR@10: popularity {popularity:.3f}, text {text:.3f}, item-KNN {knn:.3f}, intents {oracle:.3f}")
    assert popularity < 0.13
    assert knn > 2.5 * popularity
    assert oracle > 1.1 * knn
    assert popularity < text < knn


def test_size_is_a_setting():
    raw = demo_world(DemoConfig(n_items=3000, n_users=5000), 0)
    assert raw.items.num_rows == 3000 and len(set(raw.interactions.column("user_id").to_pylist())) == 5000
