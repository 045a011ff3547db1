"""RLDI's light classifier: is a mined interest positive, that is specific, actionable and grounded?

It is trained on the judge's labels, so that only a sample needs the judge. That there is one is published; its features, its form and its
training are our choice: standardised [interest vector, evidence vector, their cosine, support, confidence, length in words] into one hidden
layer of rectified units (or none: logistic regression). Saved as safetensors with a JSON header beside it, never pickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dig_ray.errors import UserError

BINS = 10
WEIGHTS, HEADER = "rldi.safetensors", "rldi.json"


@dataclass(frozen=True)
class Rldi:
    """A trained classifier.

    Attributes:
        layers: (weight (in, out), bias (out,)) pairs, float32.
        mean: (F,) mean of the features that it was trained on.
        scale: (F,) what they are divided by.
        threshold: probability from which an interest is positive.
    """

    layers: tuple[tuple[np.ndarray, np.ndarray], ...]
    mean: np.ndarray
    scale: np.ndarray
    threshold: float

    def probability(self, features: np.ndarray) -> np.ndarray:
        """(N,) probability of label 1 for features (N, F)."""
        rows = (features - self.mean) / self.scale
        for number, (weight, bias) in enumerate(self.layers):
            rows = rows @ weight + bias
            if number + 1 < len(self.layers):
                rows = np.maximum(rows, 0)
        return 1 / (1 + np.exp(-np.clip(rows[:, 0], -60, 60)))

    def save(self, directory: Path, facts: Mapping[str, Any]) -> None:
        """Write ``rldi.safetensors`` and ``rldi.json``; ``facts`` go into the latter."""
        from safetensors.numpy import save_file

        tensors = {"mean": self.mean, "scale": self.scale}
        for number, (weight, bias) in enumerate(self.layers):
            tensors |= {f"weight{number}": weight, f"bias{number}": bias}
        save_file({k: np.ascontiguousarray(v, np.float32) for k, v in tensors.items()}, directory / WEIGHTS)
        header = {"layers": len(self.layers), "threshold": self.threshold, **facts}
        (directory / HEADER).write_text(json.dumps(header, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> Rldi:
        """What ``save`` wrote.

        Raises:
            UserError: a file is missing or damaged, or they do not fit each other.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            header = json.loads((directory / HEADER).read_text(encoding="utf-8"))
            tensors = load_file(directory / WEIGHTS)
            layers = tuple(
                (tensors[f"weight{number}"], tensors[f"bias{number}"]) for number in range(header["layers"])
            )
            width = len(tensors["mean"])
            for weight, bias in layers:
                if weight.shape != (width, len(bias)):
                    raise ValueError(f"a layer has the shape {weight.shape}")
                width = len(bias)
            return cls(layers, tensors["mean"], tensors["scale"], float(header["threshold"]))
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise UserError(
                f"{directory}: no RLDI classifier can be read ({str(error)[:120]}); run the judgements stage again"
            ) from None


def features(
    interests: np.ndarray,
    evidence: np.ndarray,
    support: np.ndarray,
    confidence: np.ndarray,
    texts: Sequence[str],
) -> np.ndarray:
    """float32 (N, 2 D + 4): see the module. Vectors are unit rows (N, D); support is a share of the miners."""
    cosine = (interests * evidence).sum(axis=1)
    words = np.array([len(text.split()) for text in texts], np.float32)
    return np.concatenate(
        [interests, evidence, np.stack([cosine, support, confidence, words], axis=1)], axis=1
    ).astype(np.float32)


def train(rows: np.ndarray, labels: np.ndarray, hidden: int, threshold: float, seed: int) -> Rldi:
    """Fit the classifier.

    Args:
        rows: (N, F) features.
        labels: (N,) of 0 and 1, both present.
        hidden: units of the hidden layer; 0 for logistic regression.
        threshold: probability from which an interest is positive; it is kept with the model.
        seed: draws the hidden layer's first weights.
    """
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier

    mean, scale = rows.mean(axis=0), rows.std(axis=0)
    scale = np.where(scale > 1e-6, scale, 1).astype(np.float32)
    scaled = (rows - mean) / scale
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        if hidden:
            net = MLPClassifier((hidden,), alpha=1.0, max_iter=200, random_state=seed).fit(scaled, labels)
            layers = tuple(zip(net.coefs_, net.intercepts_, strict=True))
        else:
            line = LogisticRegression(C=0.1, max_iter=1000).fit(scaled, labels)
            layers = ((line.coef_.T, line.intercept_),)
    return Rldi(
        tuple((np.asarray(w, np.float32), np.asarray(b, np.float32)) for w, b in layers),
        mean.astype(np.float32),
        scale,
        threshold,
    )


def assess(probability: np.ndarray, labels: np.ndarray, threshold: float) -> dict[str, Any]:
    """How good probabilities are on labels that were held out: AUC, accuracy, calibration.

    Returns:
        ``auc`` (None where only one label occurs), ``accuracy``, ``expected_calibration_error``, ``positive``, ``rows``, ``rarer`` (rows of
        the label that occurs less), and ``calibration``: per bin of probability its mean, the share of label 1, and its rows.
    """
    from sklearn.metrics import roc_auc_score

    bins = np.minimum((probability * BINS).astype(int), BINS - 1)
    calibration = [
        {
            "probability": round(float(probability[bins == b].mean()), 4),
            "positive": round(float(labels[bins == b].mean()), 4),
            "rows": int((bins == b).sum()),
        }
        for b in range(BINS)
        if (bins == b).any()
    ]
    off = sum(abs(b["probability"] - b["positive"]) * b["rows"] for b in calibration) / len(labels)
    both = 0 < labels.sum() < len(labels)
    return {
        "auc": round(float(roc_auc_score(labels, probability)), 4) if both else None,
        "accuracy": round(float(((probability >= threshold) == labels).mean()), 4),
        "expected_calibration_error": round(off, 4),
        "positive": round(float(labels.mean()), 4),
        "rows": len(labels),
        "rarer": int(min(labels.sum(), len(labels) - labels.sum())),
        "calibration": calibration,
    }
