"""Item quality: the published check values and the three edge rules."""

from __future__ import annotations

import pytest

from dig_ray.mining.item_quality import item_quality


def test_published_values() -> None:
    assert item_quality([1, 0, 1], [0.6, 0.3, 0.1]) == pytest.approx(0.7)
    assert item_quality([1, 0, 1]) == pytest.approx(2 / 3)
    assert item_quality([1, 0, 1], [None, None, None]) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    "labels, confidences, message",
    [
        ([1, 0], [0.5, None], "1 of 2 confidences are missing"),
        ([1, 0], [0.0, 0.0], "sum to 0"),
        ([], None, "at least one"),
        ([1, 2], None, "0 or 1"),
        ([True, 0], None, "0 or 1"),
        ([1, 0], [0.5], "2 labels for 1"),
        ([1, 0], [0.5, -0.5], "at least 0"),
        ([1, 0], [0.5, float("nan")], "at least 0"),
    ],
)
def test_edge_rules(labels, confidences, message) -> None:
    with pytest.raises(ValueError, match=message):
        item_quality(labels, confidences)
