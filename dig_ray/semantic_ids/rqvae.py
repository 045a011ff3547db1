"""RQ-VAE: an autoencoder whose latent is coded level by level, trained jointly with its codebooks.

Loss (METHOD.md section 4; Zeghidour et al. 2021, Rajput et al. 2023): mean squared reconstruction error plus the mean
over levels of ``|sg[r] - c|^2 + commitment * |r - sg[c]|^2``, with gradients passed straight through the quantizer.
Codebooks start as residual k-means of the first latents, and codes nobody uses are put back on latents, both against
collapse. Training is deterministic by seed and resumes from its last kept state to the same result.
"""

from __future__ import annotations

import io
import json
import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from dig_ray.artifacts.folders import read_bytes, write_bytes
from dig_ray.errors import UserError
from dig_ray.semantic_ids.residual_kmeans import check_vectors, encode, fit_residual_kmeans

if TYPE_CHECKING:
    from dig_ray.semantic_ids.config import RQVAEConfig

STATE = "rqvae_state.pt"
INIT_ROWS = 16_384  # latents the codebooks start from; our choice


class RQVAE(nn.Module):
    """Encoder MLP, residual quantizer, mirror decoder.

    Args:
        width: D of the input rows.
        sizes: codes per level.
        hidden: encoder layer widths; the decoder mirrors them.
        latent: dimension the codebooks live in.
        commitment: weight of the commitment term.
    """

    def __init__(
        self, width: int, sizes: Sequence[int], hidden: Sequence[int], latent: int, commitment: float
    ) -> None:
        super().__init__()
        self.encoder = _mlp([width, *hidden, latent])
        self.decoder = _mlp([latent, *reversed(hidden), width])
        self.codebooks = nn.ParameterList([nn.Parameter(torch.randn(size, latent) * 0.02) for size in sizes])
        self.commitment = commitment

    def quantize(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Quantized latents (n, d) without gradient tricks, codes (n, L), and the mean codebook + commitment loss."""
        residual = z
        total = torch.zeros_like(z)
        codes, loss = [], z.new_zeros(())
        for book in self.codebooks:
            with torch.no_grad():
                code = (residual @ book.T - 0.5 * (book * book).sum(1)).argmax(1)
            chosen = book[code]
            loss = loss + nn.functional.mse_loss(chosen, residual.detach())
            loss = loss + self.commitment * nn.functional.mse_loss(residual, chosen.detach())
            residual = residual - chosen.detach()
            total = total + chosen
            codes.append(code)
        return total, torch.stack(codes, 1), loss / len(self.codebooks)

    def forward(
        self, x: torch.Tensor, seen: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Reconstruction loss, quantizer loss (both scalar) and codes (n, L) of rows (n, D).

        ``seen`` is what the encoder gets of them, (n, D); all by default.
        """
        z = self.encoder(x if seen is None else seen)
        quantized, codes, loss = self.quantize(z)
        straight = z + (quantized - z).detach()
        return nn.functional.mse_loss(self.decoder(straight), x), loss, codes

    @torch.no_grad()
    def latents(self, x: np.ndarray, batch: int = 4096) -> np.ndarray:
        """Encoder outputs of (N, D) rows: float32 (N, d)."""
        device = self.codebooks[0].device
        rows = [
            self.encoder(torch.from_numpy(x[i : i + batch]).to(device)).cpu() for i in range(0, len(x), batch)
        ]
        return torch.cat(rows).numpy()

    @torch.no_grad()
    def decode(self, latents: np.ndarray, batch: int = 4096) -> np.ndarray:
        """Decoder outputs of (N, d) latents: float32 (N, D)."""
        device = self.codebooks[0].device
        rows = [
            self.decoder(torch.from_numpy(latents[i : i + batch]).to(device)).cpu()
            for i in range(0, len(latents), batch)
        ]
        return torch.cat(rows).numpy()

    def books(self) -> list[np.ndarray]:
        """Codebooks as float32 (K_l, d) arrays."""
        return [book.detach().cpu().numpy().copy() for book in self.codebooks]


def _hidden(rows: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor | None:
    """Rows with a share of their values at 0 and the others larger by as much, like dropout; None where nothing is hidden."""
    if not share:
        return None
    kept = torch.rand(rows.shape, generator=generator) >= share
    return rows * kept.to(rows.device) / (1 - share)


def fit_rqvae(
    x: np.ndarray,
    sizes: Sequence[int],
    seed: int,
    config: RQVAEConfig,
    device: str = "cpu",
    work: str | None = None,
    log: Callable[[str], None] | None = None,
    report: Callable[[Mapping[str, float]], None] | None = None,
) -> tuple[RQVAE, np.ndarray]:
    """Train an RQ-VAE on float32 (N, D) rows and return it with the codes int32 (N, L).

    Args:
        x: rows as they are to be reconstructed; standardise unit-norm vectors first, or the codebooks may collapse.
        sizes: codes per level.
        seed: decides the first weights, the order of rows and where unused codes restart.
        config: the network, its loss and its training.
        device: torch device.
        work: folder (or URI) where training state is kept every ``checkpoint_seconds`` and found again after a kill.
        log: gets a line every ten seconds; None says nothing.
        report: gets ``epoch``, ``loss``, ``error_over_variance``, ``collision_rate`` and ``share_used`` of an epoch, as training saw them.

    Raises:
        UserError: unusable vectors (see `check_vectors`), or the loss became NaN or infinite.
    """
    x = check_vectors(x, sizes)
    torch.manual_seed(seed)
    model = RQVAE(x.shape[1], sizes, config.hidden, config.latent, config.commitment).to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    key = json.dumps([list(x.shape), list(sizes), seed, config.model_dump(), float(np.float64(x).sum())])
    first, unused = 0, [torch.zeros(size, dtype=torch.int64, device=device) for size in sizes]
    state = _load_state(work, key, log)
    if state is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        unused = [u.to(device) for u in state["unused"]]
        first = int(state["epoch"])
        if log is not None:
            log(f"rqvae: going on after epoch {first}/{config.epochs}")
    elif config.kmeans_init:
        _start_codebooks(model, x, sizes, seed)
    data = torch.from_numpy(x).to(device)
    variance = float(data.var(dim=0, correction=0).mean())
    started = said = kept = time.monotonic()
    for epoch in range(first, config.epochs):
        # every epoch's order and restarts come from (seed, epoch), so a resumed run needs no generator state
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        order = torch.randperm(len(x), generator=generator)
        used = [torch.zeros(size, dtype=torch.int64, device=device) for size in sizes]
        sums = torch.zeros(2, dtype=torch.float64)
        seen: list[torch.Tensor] = []
        for start in range(0, len(x), config.batch_size):
            rows = data[order[start : start + config.batch_size].to(device)]
            reconstruction, quantization, codes = model(rows, _hidden(rows, config.input_dropout, generator))
            loss = reconstruction + quantization
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            sums += torch.stack([reconstruction, quantization]).detach().double().cpu() * len(rows)
            for level, count in enumerate(used):
                count += torch.bincount(codes[:, level], minlength=len(count))
            if report is not None:
                seen.append(codes.cpu())
        mean = sums / len(x)
        if not bool(torch.isfinite(mean).all()):
            raise UserError(
                f"semantic_ids.rqvae: the loss became {float(mean.sum())} in epoch {epoch + 1}; lower "
                f"semantic_ids.rqvae.learning_rate={config.learning_rate} or use scale=standardise"
            )
        unused = [torch.where(count > 0, 0, age + 1) for count, age in zip(used, unused, strict=True)]
        if config.restart_after and epoch + 1 < config.epochs:
            _restart_dead(model, optimizer, data, unused, config.restart_after, generator)
        if report is not None:
            _, count = torch.cat(seen).unique(dim=0, return_counts=True)
            report(
                {
                    "epoch": epoch + 1,
                    "loss": float(mean.sum()),
                    "error_over_variance": float(mean[0]) / variance,
                    "collision_rate": float(count[count > 1].sum()) / len(x),
                    "share_used": float(np.mean([float((level > 0).float().mean()) for level in used])),
                }
            )
        now = time.monotonic()
        if log is not None and (now - said > 10 or epoch + 1 == config.epochs):
            said, done = now, epoch + 1 - first
            left = (now - started) / done * (config.epochs - epoch - 1)
            share = ", ".join(f"{int((count > 0).sum())}/{len(count)}" for count in used)
            log(
                f"rqvae: epoch {epoch + 1}/{config.epochs}, reconstruction {mean[0]:.5f}, quantizer {mean[1]:.5f}, "
                f"codes used {share}, {done * len(x) / (now - started):.0f} rows/s, about {left:.0f} s left"
            )
        if work is not None and now - kept > config.checkpoint_seconds and epoch + 1 < config.epochs:
            kept = now
            _save_state(
                work,
                {
                    "key": key,
                    "epoch": epoch + 1,
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "unused": unused,
                },
            )
    model.eval()
    return model, encode(model.latents(x), model.books(), device)


def _mlp(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index, (width, following) in enumerate(zip(widths, widths[1:], strict=False)):
        layers.append(nn.Linear(width, following))
        nn.init.xavier_normal_(layers[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(layers[-1].bias)  # type: ignore[arg-type]
        if index + 2 < len(widths):
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def _start_codebooks(model: RQVAE, x: np.ndarray, sizes: Sequence[int], seed: int) -> None:
    """Residual k-means of the untrained encoder's latents, so every code starts with latents of its own."""
    rows = np.random.default_rng(seed).permutation(len(x))[:INIT_ROWS]
    latents = model.latents(np.ascontiguousarray(x[rows]))
    for book, centroids in zip(model.codebooks, fit_residual_kmeans(latents, sizes, seed), strict=True):
        book.data.copy_(torch.from_numpy(centroids))


@torch.no_grad()
def _restart_dead(
    model: RQVAE,
    optimizer: torch.optim.Optimizer,
    data: torch.Tensor,
    unused: list[torch.Tensor],
    after: int,
    generator: torch.Generator,
) -> None:
    """Put codes unused for ``after`` epochs onto residuals of random rows, and forget their optimizer moments."""
    if not any(bool((age >= after).any()) for age in unused):
        return
    rows = torch.randperm(len(data), generator=generator)[:8192]
    residual = model.encoder(data[rows.to(data.device)])
    for book, age in zip(model.codebooks, unused, strict=True):
        dead = torch.nonzero(age >= after).flatten()
        if dead.numel():
            pick = torch.randint(len(residual), (dead.numel(),), generator=generator).to(data.device)
            book[dead] = residual[pick]
            for moment in optimizer.state.get(book, {}).values():
                if torch.is_tensor(moment) and moment.shape == book.shape:
                    moment[dead] = 0.0
            age[dead] = 0
        code = (residual @ book.T - 0.5 * (book * book).sum(1)).argmax(1)
        residual = residual - book[code]


def _save_state(work: str, state: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_bytes(work, STATE, buffer.getbuffer())


def _load_state(
    work: str | None, key: str, log: Callable[[str], None] | None = None
) -> dict[str, Any] | None:
    """Kept training state of the very same job, or None (also when it is damaged: training then starts over, and says so)."""
    raw = read_bytes(work, STATE) if work is not None else None
    if raw is None:
        return None
    try:
        state = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError):
        if log is not None:
            log(
                f"rqvae: the checkpoint {work}/{STATE} {'is damaged' if raw else 'is empty'}; training begins again from step 0"
            )
        return None
    return state if isinstance(state, dict) and state.get("key") == key else None
