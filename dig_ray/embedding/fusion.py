"""CMSA's fusion of text and picture: ``e_vis = W_v f_vis``, ``e_mm = W_f [e_text; e_vis]``, without bias, activation or normalization.

The two matrices are published (DeepInterestGR-2); what they are fitted to is not, and is our choice. They are fitted first and then frozen:
an RQ-VAE that trained them together with itself would reconstruct a target of its own making, which is smallest at zero. Since there is no
activation, the whole is one linear map of ``[e_text; f_vis]``, and a target is all that tells one fusion from another:

``reconstruction``: the directions in which text and picture together differ most. Each block is centred and scaled to mean squared norm 1,
so that neither drowns the other, and the map is their principal components, found exactly. Distances between fused vectors are then those
between the joined blocks, as far as the dimensions reach. (A free decoder beside the map would leave those distances to chance.)

``cooccurrence``: starts there and goes on with a contrast of pairs that stand near each other in training histories against the other items
of the batch (InfoNCE on cosines, corrected for how often an item is drawn), until held-out pairs get no better.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dig_ray.embedding.collaborative import join_evidence
from dig_ray.embedding.config import FusionConfig

LOOK_EVERY = 50
"""Steps between looks at the held-out pairs."""
PATIENCE = 5
"""Looks without a gain before training stops."""
HELD_OUT = 0.05
MOST_PAIRS = 20_000_000


@dataclass(frozen=True)
class Fusion:
    """The two matrices, float32.

    Attributes:
        w_v: (d_text, d_vis), from an image feature to the text's dimensions.
        w_f: (d, 2 d_text), from both side by side to the fused vector.
    """

    w_v: np.ndarray
    w_f: np.ndarray

    def apply(self, text: np.ndarray, image: np.ndarray) -> np.ndarray:
        """Fused vectors float32 (N, d) of text (N, d_text) and image features (N, d_vis)."""
        return np.asarray(np.concatenate([text, image @ self.w_v.T], axis=1) @ self.w_f.T, np.float32)


def stand_in(image: np.ndarray, known: np.ndarray, missing: str) -> np.ndarray:
    """Image features with something in the place of those that are not there.

    Args:
        image: float32 (N, d_vis).
        known: bool (N,), which of them are there.
        missing: ``text`` puts the mean of the known ones in their place, ``zero`` zeros.

    Returns:
        float32 (N, d_vis).
    """
    out = np.array(image, np.float32)
    out[~known] = image[known].mean(axis=0) if missing == "text" and known.any() else 0.0
    return out


def reconstruction(text: np.ndarray, image: np.ndarray, dimensions: int, image_weight: float = 1.0) -> Fusion:
    """The fusion that keeps most of both blocks.

    Args:
        text: float32 (N, d_text).
        image: float32 (N, d_vis), without gaps.
        dimensions: d, how many numbers a fused vector has.
        image_weight: share of the picture beside the text's 1.

    Returns:
        Exact where d is at most d_text; else the best that passes through ``e_vis``'s d_text dimensions.
    """
    joined = join_evidence([(1.0, text), (image_weight, image)])
    spread = joined.astype(np.float64).T @ joined.astype(np.float64)
    values, vectors = np.linalg.eigh(spread)
    chosen = np.argsort(values)[::-1][:dimensions]
    components = np.zeros((joined.shape[1], dimensions))
    components[:, : len(chosen)] = vectors[:, chosen]
    # eigenvectors have no sign of their own; without one the same data could give mirrored vectors
    largest = np.abs(components).argmax(axis=0)
    components *= np.where(components[largest, np.arange(dimensions)] < 0, -1.0, 1.0)
    d_text = text.shape[1]
    of_text = components[:d_text].T * _scale(text)
    of_image = components[d_text:].T * (image_weight * _scale(image))
    left, size, right = np.linalg.svd(of_image, full_matrices=False)
    rank = min(d_text, len(size))
    w_v = np.zeros((d_text, image.shape[1]))
    back = np.zeros((dimensions, d_text))
    w_v[:rank] = np.sqrt(size[:rank])[:, None] * right[:rank]
    back[:, :rank] = left[:, :rank] * np.sqrt(size[:rank])
    return Fusion(w_v.astype(np.float32), np.concatenate([of_text, back], axis=1).astype(np.float32))


def _scale(block: np.ndarray) -> float:
    """What ``join_evidence`` multiplies a block of weight 1 with."""
    centred = block - block.mean(axis=0)
    return 1.0 / max(float(np.sqrt((centred.astype(np.float64) ** 2).sum(axis=1).mean())), 1e-12)


def near_pairs(
    offsets: np.ndarray, events: np.ndarray, window: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of different items at most ``window`` events apart in one training history, in random order; int32 (P,) each.

    Args:
        offsets: int64 (U + 1,), where each user's events begin.
        events: int32 (E,) item numbers of the training split.
        window: events apart at most.
        rng: draws which pairs stay where there are more than fit, and their order.
    """
    user = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    one, two = [], []
    for distance in range(1, window + 1):
        together = user[distance:] == user[:-distance]
        a, b = events[distance:][together], events[:-distance][together]
        one.append(a[a != b])
        two.append(b[a != b])
    first, second = np.concatenate(one), np.concatenate(two)
    order = rng.permutation(len(first))[:MOST_PAIRS]
    return first[order].astype(np.int32), second[order].astype(np.int32)


def cooccurrence(
    start: Fusion,
    text: np.ndarray,
    image: np.ndarray,
    pairs: tuple[np.ndarray, np.ndarray],
    config: FusionConfig,
    seed: int,
    say: Callable[[str], None] = print,
) -> tuple[Fusion, dict[str, Any]]:
    """Go on from ``start`` until pairs are told from other items; the best matrices on held-out pairs, and figures.

    Args:
        start: the matrices to begin with.
        text: float32 (N, d_text).
        image: float32 (N, d_vis), without gaps.
        pairs: int32 (P,) twice, as ``near_pairs`` draws them; one in twenty is held out.
        config: steps, batch size, learning rate and temperature are read.
        seed: decides which pairs a step draws.
        say: prints one line.

    Returns:
        (fusion, {steps, pairs, loss_before, loss_after}): losses are means over the held-out pairs.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    first, second = (torch.from_numpy(side.astype(np.int64)) for side in pairs)
    held = max(1, int(len(first) * HELD_OUT))
    batch = min(config.batch_size, len(first) - held)
    if batch < 2:
        say(
            "fusion: too few pairs of items stand near each other in the training histories; reconstruction stays"
        )
        return start, {"steps": 0, "pairs": len(first), "loss_before": None, "loss_after": None}
    often = torch.bincount(torch.cat([first, second]), minlength=len(text)).float()
    log_often = torch.log(often.clamp(min=1) / often.sum())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    e_text, f_vis = (
        torch.from_numpy(np.ascontiguousarray(text)),
        torch.from_numpy(np.ascontiguousarray(image)),
    )
    w_v = torch.nn.Parameter(torch.from_numpy(start.w_v.copy()).to(device))
    w_f = torch.nn.Parameter(torch.from_numpy(start.w_f.copy()).to(device))
    # a matrix's entries are as large as its block's scale asks; steps go along with that
    groups = [
        {"params": [w], "lr": config.learning_rate * max(float(w.detach().abs().mean()), 1e-8) * 10}
        for w in (w_v, w_f)
    ]
    optimizer = torch.optim.Adam(groups)

    def loss_of(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        def fused(rows: torch.Tensor) -> torch.Tensor:
            whole = torch.cat([e_text[rows].to(device), f_vis[rows].to(device) @ w_v.T], dim=1) @ w_f.T
            return torch.nn.functional.normalize(whole, dim=1)

        scores = fused(a) @ fused(b).T / config.temperature - log_often[b].to(device)
        same = (b[None, :] == b[:, None]) | (a[:, None] == b[None, :])
        same.fill_diagonal_(False)
        scores = scores.masked_fill(same.to(device), float("-inf"))
        return torch.nn.functional.cross_entropy(scores, torch.arange(len(a), device=device))

    def held_out() -> float:
        with torch.no_grad():
            sizes = [
                (float(loss_of(first[low : low + batch], second[low : low + batch])), min(batch, held - low))
                for low in range(0, min(held, 8 * batch), batch)
                if min(batch, held - low) > 1 or held == 1
            ]
        return sum(loss * rows for loss, rows in sizes) / max(sum(rows for _, rows in sizes), 1)

    best = before = held_out()
    kept = (w_v.detach().clone(), w_f.detach().clone())
    stale = steps = 0
    for step in range(1, config.steps + 1):
        rows = held + torch.randint(len(first) - held, (batch,), generator=generator)
        optimizer.zero_grad()
        loss_of(first[rows], second[rows]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % LOOK_EVERY == 0 or step == config.steps:
            now = held_out()
            say(
                f"fusion: step {step:,}/{config.steps:,}, held-out loss {now:.4f} (at the start {before:.4f})"
            )
            if now < best:
                best, steps, stale = now, step, 0
                kept = (w_v.detach().clone(), w_f.detach().clone())
            else:
                stale += 1
                if stale >= PATIENCE:
                    break
    return Fusion(*(w.cpu().numpy() for w in kept)), {
        "steps": steps,
        "pairs": len(first),
        "loss_before": round(before, 4),
        "loss_after": round(best, 4),
    }


def spread_figures(vectors: np.ndarray) -> dict[str, float]:
    """Whether vectors have collapsed.

    Returns:
        ``mean_square``: squared distance from their mean, on average; 0 when all are the same. ``effective_rank``: the exponential of the
        entropy of the covariance's eigenvalues (Roy and Vetterli, 2007), 1 when all differences lie on one line.
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    values = np.clip(np.linalg.eigvalsh(centred.T @ centred / max(len(centred), 1)), 0, None)
    total = float(values.sum())
    if total <= 0:
        return {"mean_square": 0.0, "effective_rank": 0.0}
    share = values[values > 0] / total
    return {"mean_square": total, "effective_rank": float(np.exp(-(share * np.log(share)).sum()))}
