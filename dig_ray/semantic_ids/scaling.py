"""What is done to vectors before they are quantized: nothing, centring, standardising, or PCA whitening.

A linear map fitted once and stored beside the codebooks, so new items can be coded later.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dig_ray.errors import UserError

TINY = 1e-6  # standard deviations below this fraction of the largest are noise, not signal


@dataclass(frozen=True)
class Scaling:
    """``(x - mean) @ matrix``, or ``(x - mean) * matrix`` where ``matrix`` is a vector: (D,) and (D, d) or (D,)."""

    mean: np.ndarray
    matrix: np.ndarray

    def apply(self, x: np.ndarray) -> np.ndarray:
        """Scaled copy of (N, D) rows, float32."""
        centred = np.asarray(x, dtype=np.float32) - self.mean
        scaled = centred @ self.matrix if self.matrix.ndim == 2 else centred * self.matrix
        return np.ascontiguousarray(scaled, dtype=np.float32)


def fit_scaling(x: np.ndarray, kind: str, whiten_dim: int | None = None) -> Scaling:
    """Fit a `Scaling` to rows.

    Args:
        x: float32 (N, D).
        kind: ``none``, ``center``, ``standardise`` or ``whiten``; see SemanticIdConfig.
        whiten_dim: how many dimensions whitening keeps; D when None.

    Raises:
        UserError: another kind, or more dimensions than there are.
    """
    width = x.shape[1]
    ones = np.ones(width, dtype=np.float32)
    if kind == "none":
        return Scaling(np.zeros(width, dtype=np.float32), ones)
    mean = x.mean(axis=0, dtype=np.float64)
    if kind == "center":
        return Scaling(mean.astype(np.float32), ones)
    if kind == "standardise":
        deviation = x.std(axis=0, dtype=np.float64)
        keep = deviation > TINY * deviation.max()
        scale = np.where(keep, 1.0 / np.where(keep, deviation, 1.0), 0.0)
        return Scaling(mean.astype(np.float32), scale.astype(np.float32))
    if kind != "whiten":
        raise UserError(f"semantic_ids.scale={kind!r}: choose none, center, standardise or whiten")
    if whiten_dim is not None and whiten_dim > min(x.shape):
        raise UserError(
            f"semantic_ids.whiten_dim={whiten_dim}: at most {min(x.shape)} for {x.shape[0]} vectors of {width}"
        )
    centred = x.astype(np.float64) - mean
    variance, axes = np.linalg.eigh(centred.T @ centred / len(x))
    order = np.argsort(variance)[::-1][: whiten_dim or width]
    order = order[variance[order] > TINY**2 * variance[order[0]]]
    axes = (
        axes[:, order] * np.where(axes[np.abs(axes).argmax(axis=0), np.arange(width)] < 0, -1.0, 1.0)[order]
    )
    return Scaling(mean.astype(np.float32), (axes / np.sqrt(variance[order])).astype(np.float32))
