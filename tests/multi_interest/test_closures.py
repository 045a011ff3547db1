"""Which code a stage's fingerprint depends on: a change of mining must not train the model again."""

from __future__ import annotations

import pytest

from dig_ray.artifacts.code_version import modules_behind
from dig_ray.stages import STAGES

ENTRIES = {spec.name: spec.run.partition(":")[0] for spec in STAGES if isinstance(spec.run, str)}


@pytest.mark.parametrize("stage, most", [("multi_interest", 30), ("crowd", 12), ("user_clusters", 35)])
def test_a_stage_depends_on_little_code(stage: str, most: int) -> None:
    """Engines, which a stage that asks miners names as its ``code``, come on top."""
    behind = modules_behind([ENTRIES[stage]])
    assert len(behind) <= most, behind


def test_the_model_does_not_depend_on_how_clusters_are_made() -> None:
    behind = set(modules_behind([ENTRIES["multi_interest"]]))
    assert "dig_ray.mining.miner" not in behind
    assert not {name for name in behind if name.startswith(("dig_ray.mining", "dig_ray.training"))}


def test_synthesized_users_need_neither_an_llm_nor_training() -> None:
    behind = modules_behind([ENTRIES["crowd"]])
    assert not [name for name in behind if name.startswith(("dig_ray.mining", "dig_ray.training"))]


def test_every_worker_and_label_of_the_model_is_its_code() -> None:
    wanted = {"loop", "losses", "model", "examples", "cluster_labels", "infer", "users", "retrieved"}
    assert {f"dig_ray.multi_interest.{name}" for name in wanted} <= set(
        modules_behind([ENTRIES["multi_interest"]])
    )
