"""What a finished training left of its validations: the figures that every trained policy and model keeps in ``curves.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

NDCG, HR = "eval_ndcg@10", "eval_hr@10"
"""A validation's figures in a training's log, each a mean over the validation users, between 0 and 1."""
CURVES = "curves.json"


def validations(log: Sequence[Mapping[str, float]], time: str) -> list[dict[str, float]]:
    """The validations of a training's log, in its order.

    Args:
        log: the entries of a log, of validations and of steps.
        time: the entry that says when one was written: ``epoch`` or ``step``.

    Returns:
        The time and both figures of every entry that has all three.
    """
    names = (time, NDCG, HR)
    return [{name: entry[name] for name in names} for entry in log if all(name in entry for name in names)]


def read_validations(directory: Path, time: str) -> list[dict[str, float]]:
    """The validations that an artifact of SFT, GRPO or a multi-interest model keeps.

    Args:
        directory: the artifact's.
        time: ``epoch`` or ``step``.

    Raises:
        OSError: there is no ``curves.json``.
        ValueError: it is no JSON.
        LookupError: it holds no validation, although every training has one.
    """
    found = validations(json.loads((directory / CURVES).read_text(encoding="utf-8")), time)
    if not found:
        raise LookupError(
            f"{directory / CURVES}: no entry has {time}, {NDCG} and {HR}, which every training leaves"
        )
    return found
