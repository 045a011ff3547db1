"""RQ-VAE: resumes to the same result, does not collapse, and treats a damaged checkpoint as none."""

from __future__ import annotations

import numpy as np
import pytest

from dig_ray.errors import UserError
from dig_ray.semantic_ids import rqvae
from dig_ray.semantic_ids.config import RQVAEConfig

CONFIG = RQVAEConfig(hidden=(32,), latent=8, epochs=8, batch_size=64, checkpoint_seconds=1e-6)


def rows() -> np.ndarray:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((12, 16))[rng.integers(12, size=400)] + 0.3 * rng.standard_normal((400, 16))
    return x.astype(np.float32)


class Killed(Exception):
    pass


def killed_after(epochs: int, monkeypatch, work: str, config: RQVAEConfig = CONFIG) -> None:
    saves = []
    keep = rqvae._save_state

    def save(folder, state):
        keep(folder, state)
        saves.append(state["epoch"])
        if len(saves) == epochs:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(rqvae, "_save_state", save)
        rqvae.fit_rqvae(rows(), (16, 16), 3, config, work=work)


@pytest.mark.parametrize("hidden", [0.0, 0.3])
def test_interrupted_is_uninterrupted(tmp_path, monkeypatch, hidden):
    config = CONFIG.model_copy(update={"input_dropout": hidden})
    _, whole = rqvae.fit_rqvae(rows(), (16, 16), 3, config)
    killed_after(3, monkeypatch, str(tmp_path), config)
    lines: list[str] = []
    _, resumed = rqvae.fit_rqvae(rows(), (16, 16), 3, config, work=str(tmp_path), log=lines.append)
    assert "after epoch 3/8" in lines[0]
    assert np.array_equal(whole, resumed)


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[: len(raw) // 2], lambda raw: b"", lambda raw: b"\x80\x04N."]
)
def test_damaged_state_is_not_used(tmp_path, monkeypatch, damage):
    killed_after(3, monkeypatch, str(tmp_path))
    path = tmp_path / rqvae.STATE
    path.write_bytes(damage(path.read_bytes()))
    _, codes = rqvae.fit_rqvae(rows(), (16, 16), 3, CONFIG, work=str(tmp_path))
    assert np.array_equal(codes, rqvae.fit_rqvae(rows(), (16, 16), 3, CONFIG)[1])


def test_state_of_another_job_is_not_used(tmp_path, monkeypatch):
    killed_after(3, monkeypatch, str(tmp_path))
    lines: list[str] = []
    rqvae.fit_rqvae(rows() + 1, (16, 16), 3, CONFIG, work=str(tmp_path), log=lines.append)
    assert "going on" not in lines[0]


def test_codes_stay_in_use_and_reconstruction_beats_the_mean():
    x = rows()
    model, codes = rqvae.fit_rqvae(x, (16, 16), 3, CONFIG.model_copy(update={"epochs": 40}))
    assert all(len(np.unique(codes[:, level])) >= 13 for level in range(2))
    from dig_ray.semantic_ids.residual_kmeans import reconstruct

    rebuilt = model.decode(reconstruct(codes, model.books()))
    assert ((x - rebuilt) ** 2).sum() < 0.5 * ((x - x.mean(0)) ** 2).sum()


def test_training_hides_evidence_from_the_encoder_and_still_rebuilds_it(monkeypatch):
    import torch

    seen = []
    forward = rqvae.RQVAE.forward

    def watched(self, x, given=None):
        seen.append((x, given))
        return forward(self, x, given)

    monkeypatch.setattr(rqvae.RQVAE, "forward", watched)
    config = CONFIG.model_copy(update={"epochs": 40, "input_dropout": 0.3})
    model, codes = rqvae.fit_rqvae(rows(), (16, 16), 3, config)
    whole, given = (torch.cat(parts) for parts in zip(*seen, strict=True))
    kept = given != 0
    assert abs(float(kept.float().mean()) - 0.7) < 0.01
    torch.testing.assert_close(given[kept], whole[kept] / 0.7)

    from dig_ray.semantic_ids.residual_kmeans import reconstruct

    x = rows()
    rebuilt = model.decode(reconstruct(codes, model.books()))
    assert ((x - rebuilt) ** 2).sum() < 0.5 * ((x - x.mean(0)) ** 2).sum()


def test_a_loss_that_explodes_is_said():
    with pytest.raises(UserError, match="learning_rate=1e"):
        rqvae.fit_rqvae(rows(), (16, 16), 3, CONFIG.model_copy(update={"learning_rate": 1e30}))
