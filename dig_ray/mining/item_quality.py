"""Item quality from a judge's labels (DeepInterestGR-2, the quality that QARM's reward is gated on)."""

from __future__ import annotations

from collections.abc import Sequence


def item_quality(labels: Sequence[int], confidences: Sequence[float | None] | None = None) -> float:
    """``q = sum(c * y) / sum(c)`` over an item's descriptors, in [0, 1].

    Args:
        labels: the judge's 0 or 1 per descriptor, at least one.
        confidences: c per descriptor, each >= 0. When none is known (None, or all None) every weight is 1.

    Raises:
        ValueError: no label, a label that is not 0 or 1, lengths that differ, some confidences known and others not, or
            confidences that are negative or sum to 0.
    """
    if not labels:
        raise ValueError("quality needs at least one judged descriptor")
    if any(isinstance(y, bool) or y not in (0, 1) for y in labels):
        raise ValueError(f"labels are 0 or 1, not {list(labels)}")
    known = [c for c in confidences or () if c is not None]
    if not known:
        return sum(labels) / len(labels)
    assert confidences is not None
    if len(confidences) != len(labels):
        raise ValueError(f"{len(labels)} labels for {len(confidences)} confidences")
    if len(known) < len(labels):
        raise ValueError(
            f"{len(labels) - len(known)} of {len(labels)} confidences are missing; give all or none"
        )
    if any(not 0 <= c < float("inf") for c in known):
        raise ValueError(f"confidences are numbers of at least 0, not {known}")
    total = sum(known)
    if total == 0:
        raise ValueError("confidences sum to 0, so no descriptor has a weight")
    return sum(c * y for c, y in zip(known, labels, strict=True)) / total
