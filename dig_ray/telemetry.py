"""Counters for the Ray dashboard, named ``dig_<stage>_<noun>_<unit>``, with few and short tags.

Ray adds ``ray_`` in front, and ``_total`` behind. Item ids, texts and paths are no tags.
"""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def counter(name: str, description: str, tags: tuple[str, ...]) -> Any:
    """The counter of this name in this process."""
    from ray.util.metrics import Counter

    return Counter(name, description=description, tag_keys=tags)
