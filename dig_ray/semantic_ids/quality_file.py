"""The quality report of Semantic IDs as other rooms read it: figures by name in place of keys of ``sid_quality.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

QUALITY = "sid_quality.json"


@dataclass(frozen=True)
class LevelQuality:
    """One level of the codes.

    Attributes:
        share_used: codes that some item has, as a share of the level's codebook.
        perplexity: two to the power of the codes' entropy in bits; as many as there are codes where all are used alike.
        error_over_variance: squared error of what the codes up to here reconstruct, over the vectors' variance; None where nothing
            reconstructs them.
        neighbour_recall: share of an item's nearest neighbours by vector that share its codes up to here; None without vectors.
    """

    share_used: float
    perplexity: float
    error_over_variance: float | None
    neighbour_recall: float | None


@dataclass(frozen=True)
class SidQuality:
    """What is known of the Semantic IDs of a catalogue.

    Attributes:
        items: how many there are.
        sharing: items whose full code another item has too.
        collision_rate: the same as a share of all items.
        codebook_sizes: codes of every level.
        levels: first to last.
    """

    items: int
    sharing: int
    collision_rate: float
    codebook_sizes: tuple[int, ...]
    levels: tuple[LevelQuality, ...]


def read_quality(directory: Path) -> SidQuality:
    """The quality report of an artifact of the stage ``semantic_ids``.

    Raises:
        OSError: there is no ``sid_quality.json``.
        ValueError: it is no JSON.
        LookupError: it lacks a figure that the stage always writes.
    """
    path = directory / QUALITY
    report = json.loads(path.read_text(encoding="utf-8"))
    try:
        return _quality(report)
    except KeyError as error:
        raise LookupError(f"{path}: there is no {error}, which the stage always writes") from None


def _quality(report: Mapping[str, Any]) -> SidQuality:
    collisions = report["collisions"]
    return SidQuality(
        items=report["items"],
        sharing=collisions["items_sharing_full_code"],
        collision_rate=collisions["collision_rate"],
        codebook_sizes=tuple(report["codebook_sizes"]),
        levels=tuple(
            LevelQuality(
                usage["share_used"],
                usage["perplexity"],
                prefix.get("error_over_variance"),
                prefix.get("neighbour_recall"),
            )
            for usage, prefix in zip(report["levels"], report["prefixes"], strict=True)
        ),
    )
