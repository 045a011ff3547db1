"""A setting changes the fingerprint of what it decides: each one counts for some stage, or is marked as free where it is defined."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dig_ray.base import Config, free, is_free
from dig_ray.config import RunConfig, known_keys
from dig_ray.config.config_keys import config_classes
from dig_ray.pipeline import counted_settings, select
from dig_ray.stages import STAGES

sys.path.insert(0, str(Path(__file__).parents[1]))
import recipes

OF_EVERY_STAGE = {"seed", "name"}
"""The seed has a place of its own in a recipe; a run's name stands on its report alone, which takes all that counts."""


def free_keys(model: type[Config]) -> Iterator[str]:
    """The dotted keys that are free themselves or lie in something free."""
    for key in known_keys(model):
        *above, name = key.split(".")
        classes = [model]
        for part in (*above, name):
            fields = [one.model_fields[part] for one in classes if part in one.model_fields]
            if fields and all(map(is_free, fields)):
                yield key
                break
            classes = [kind for field in fields for kind in config_classes(field.annotation)]


def counted_keys(leaves: list[str]) -> set[str]:
    """Those of ``leaves`` that some stage but the report counts under some named config."""
    found: set[str] = set()
    for _, config in recipes.runs():
        used = config.catalog.has_interactions
        for spec in select(config) if used else select(config, until="semantic_ids"):
            if spec.name == "report":
                continue
            for leaf in leaves:
                said = [
                    key
                    for key in spec.settings_of(config)
                    if leaf == key.lstrip("-") or leaf.startswith(f"{key.lstrip('-')}.")
                ]
                if said and not said[-1].startswith("-"):
                    found.add(leaf)
    return found


def test_every_setting_counts_for_a_stage_or_is_marked_as_free() -> None:
    keys = known_keys(RunConfig)
    leaves = [key for key in keys if not any(other.startswith(f"{key}.") for other in keys)]
    marked = set(free_keys(RunConfig))
    counted = counted_keys(leaves)
    forgotten = [key for key in leaves if key not in counted | marked | OF_EVERY_STAGE]
    assert not forgotten, (
        f"{forgotten}: no stage's `settings` name them; name them there, or mark them free()"
    )
    assert len(leaves) > 500 and {"ray.address", "store", "mining.max_failed"} <= marked


def test_a_forgotten_setting_would_be_seen() -> None:
    class Room(Config):
        seen: int = 1
        place: str = free("here")

    class Run(Config):
        room: Room = Room()
        beside: int = free(2)

    assert set(free_keys(Run)) == {"room.place", "beside"}
    assert counted_settings(Run(), ("room",)) == {"room": {"seen": 1}}


@pytest.mark.parametrize("key, other", [("store", "elsewhere"), ("ray", {"num_cpus": 7})])
def test_what_is_free_is_not_on_the_page_that_two_runs_share(key: str, other: Any) -> None:
    report = next(spec for spec in STAGES if spec.name == "report")
    one, two = RunConfig(), RunConfig.model_validate({key: other})
    assert counted_settings(one, report.settings_of(one)) == counted_settings(two, report.settings_of(two))
    assert one.counted() == two.counted()
