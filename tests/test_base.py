"""What of a config decides a result."""

from __future__ import annotations

from dig_ray.base import Config, free


class Inner(Config):
    rate: float = 0.1
    workers: int = free(1)


class Outer(Config):
    changes: dict[int, dict[str, float]] = {}
    by_time: dict[int, Inner] = {}
    several: tuple[Inner, ...] = ()


def test_all_counts_but_what_is_marked_as_free_also_under_numbers() -> None:
    config = Outer(
        changes={2: {"rate": 0.5}, 4: {}}, by_time={3: Inner(workers=9)}, several=(Inner(), Inner(rate=0.2))
    )
    assert config.counted() == {
        "changes": {"2": {"rate": 0.5}, "4": {}},
        "by_time": {"3": {"rate": 0.1}},
        "several": [{"rate": 0.1}, {"rate": 0.2}],
    }
