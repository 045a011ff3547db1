"""The arithmetic of a run on paper."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dig_ray.console.scale import ScaleConfig, costs, parse, table
from dig_ray.errors import UserError

ROOT = Path(__file__).parents[2]


def test_mining_by_hand() -> None:
    config = ScaleConfig(
        items=1e6,
        miners=2,
        mining_parameters=7e9,
        mining_tokens_in=500,
        mining_tokens_out=100,
        gpu_flops=1e15,
        utilisation=0.4,
        gpu_hour=2.0,
        core_hour=0.1,
        ray_us_per_answer=360,
    )
    found = costs(config)["mining"]
    assert found.flops == pytest.approx(2 * 7e9 * 600 * 2e6)  # 1.68e19
    assert found.gpu_hours == pytest.approx(1.68e19 / 4e14 / 3600)  # 11.7
    assert found.core_hours == pytest.approx(2e6 * 360e-6 / 3600)  # 0.2
    assert found.money == pytest.approx(found.gpu_hours * 2.0 + 0.2 * 0.1)
    assert found.bytes_out == 2e6 * config.answer_bytes


def test_training_and_decoding_by_hand() -> None:
    config = ScaleConfig(
        users=1_000, events_per_user=30, latest=20, levels=3, beam=10, policy_parameters=1e6, epochs=2
    )
    found = costs(config)
    assert found["sft"].flops == pytest.approx(6 * 1e6 * 1_000 * 30 * 4 * 2)
    assert found["decoding"].flops == pytest.approx(2 * 1e6 * (20 * 4 + 10 * 3) * 1_000)


def test_items_and_users_scale_their_own_stages_linearly() -> None:
    one, more_items, more_users = (
        costs(ScaleConfig(items=items, users=users)) for items, users in ((1e6, 1e6), (1e8, 1e6), (1e6, 1e8))
    )
    for name in ("caption", "mining", "embedding", "semantic_ids", "prefix_table"):
        assert more_items[name].money == pytest.approx(100 * one[name].money)
        assert more_users[name].money == one[name].money
    for name in ("sft", "decoding"):
        assert more_users[name].money == pytest.approx(100 * one[name].money)
        assert more_items[name].money == one[name].money
    assert one["catalog"].money < more_items["catalog"].money < 100 * one["catalog"].money


def test_a_free_gpu_costs_the_cores_alone_and_half_the_use_twice_the_hours() -> None:
    free = costs(ScaleConfig(gpu_hour=0))
    assert all(one.money == pytest.approx(one.core_hours * 0.04) for one in free.values())
    half = costs(ScaleConfig(utilisation=0.2))
    assert half["mining"].gpu_hours == pytest.approx(2 * free["mining"].gpu_hours)


def test_the_table_ends_in_the_sum() -> None:
    found = costs(ScaleConfig())
    lines = table(found)
    assert len(lines) == len(found) + 2
    assert lines[-1].split()[-1] == f"{sum(one.money for one in found.values()):,.2f}"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [(["item=5"], "item=5: give key=value"), (["items"], "items: give key=value"), (["utilisation=2"], "utilisation"),
     (["items=many"], "items")],
)  # fmt: skip
def test_what_cannot_be_read_is_one_sentence(arguments: list[str], word: str) -> None:
    with pytest.raises(UserError, match=word):
        parse(arguments)


def test_the_job_takes_a_readers_own_prices() -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "jobs/scale.py", *arguments]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    done = run("items=1e6", "users=1e8", "gpu_hour=5", "levels=3")
    assert done.returncode == 0 and done.stdout.startswith("1,000,000 items, 100,000,000 users")
    wanted = costs(ScaleConfig(items=1e6, users=1e8, gpu_hour=5, levels=3))
    assert done.stdout.split()[-1] == f"{sum(one.money for one in wanted.values()):,.2f}"
    wrong = run("gpu_hours=5")
    assert (
        wrong.returncode == 1
        and wrong.stderr.startswith("scale: gpu_hours=5")
        and "Traceback" not in wrong.stderr
    )
