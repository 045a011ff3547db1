"""Settings that change while a policy is trained: one run, or one that is stopped there and gone on with, is the same run."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dig_ray.base import Stretch
from dig_ray.training import grpo_stage, sft_stage
from dig_ray.training.config import SftConfig
from dig_ray.training.grpo_config import GrpoConfig
from dig_ray.training.reward_evidence import INTERESTS, QUALITY


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({3: {"learning_rat": 0.1}}, "learning_rat cannot change .* did you mean learning_rate"),
        ({3: {"row_length": 64}}, "row_length cannot change"),
        ({3: {"learning_rate": -0.1}}, "after 3, learning_rate: Input should be greater than 0"),
        ({0: {"learning_rate": 0.1}}, "0 is no positive multiple of eval_every_epochs=1"),
    ],
)
def test_what_cannot_change_is_refused(wrong, sentence) -> None:
    with pytest.raises(ValidationError, match=sentence):
        SftConfig(changes=wrong)


def test_a_change_lies_where_a_checkpoint_is() -> None:
    with pytest.raises(ValidationError, match="15 is no positive multiple of eval_every_steps=10"):
        GrpoConfig(eval_every_steps=10, changes={15: {"beta": 0.1}})


def test_rewards_that_come_later_are_asked_for_at_the_start() -> None:
    early = GrpoConfig(rewards={"quality": "gated", "alpha": 0})
    late = GrpoConfig(rewards={"quality": "gated", "alpha": 0}, changes={50: {"rewards.alpha": 0.5}})
    assert QUALITY not in early.evidence and QUALITY in late.evidence
    assert INTERESTS in GrpoConfig(changes={100: {"rewards.gamma": 0.1}}).evidence


@given(
    st.dictionaries(
        st.integers(1, 9), st.fixed_dictionaries({"learning_rate": st.floats(1e-5, 1.0)}), max_size=4
    )
)
def test_parts_cover_the_run_and_agree_with_every_moment(changes) -> None:
    config = SftConfig(changes=changes)
    parts = config.parts()
    assert parts[-1][1] is None and [end for _, end in parts[:-1]] == sorted(changes)
    begin = 0
    for settings, end in parts:
        for time in range(begin, 10 if end is None else end):
            assert config.at(time) == settings and not settings.changes
        begin = end
    assert SftConfig.model_validate_json(config.model_dump_json()) == config


def scores(curves) -> list[float]:
    return [entry["eval_ndcg@10"] for entry in curves if "eval_ndcg@10" in entry]


def rates(curves) -> list[tuple[int, float]]:
    return [(entry["step"], entry["learning_rate"]) for entry in curves if "learning_rate" in entry]


def weights(work: str, checkpoint: str | None = None) -> bytes:
    latest = checkpoint or max(str(path) for path in Path(work).glob("*/checkpoint_*") if path.is_dir())
    return (Path(latest) / "checkpoint" / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_sft_with_a_change_is_two_runs_one_after_the_other(world, settings, make_stage, curves, ray_cluster):
    later = {"learning_rate": settings.sft.learning_rate / 7, "weight_decay": 0.3, "label_smoothing": 0.1}
    plain = settings.sft.model_copy(update={"changes": {}, "patience": 99})
    changed = plain.model_copy(update={"changes": {1: later}})

    def train(name: str, sft: SftConfig, stretch: Stretch | None = None):
        made = make_stage(name)
        made.stretch = stretch
        sft_stage.fine_tune(sft, settings.recommender, made, world.catalog, world.semantic_ids)
        return made

    whole = train("whole", changed)
    first = train("first", plain, Stretch(until=1))
    second = train("second", changed, Stretch(start=first.stats["checkpoint"]))
    found = curves(whole)
    assert len(scores(found)) == settings.sft.epochs == len(scores(second.stats["curves"]))
    assert scores(first.stats["curves"]) == scores(found)[:1]
    assert scores(second.stats["curves"]) == scores(found)
    assert rates(second.stats["curves"]) == rates(found)
    assert weights(whole.work) == weights(second.work, second.stats["checkpoint"])
    unchanged, lowered = dict(rates(curves(train("unchanged", plain)))), dict(rates(found))
    half = len(lowered) // 2
    assert half >= 2 and list(lowered) == list(unchanged)
    ratios = [lowered[step] / unchanged[step] for step in lowered if unchanged[step]]
    assert ratios[:2] == [1.0, 1.0] and ratios[-1] == pytest.approx(1 / 7)


@pytest.mark.slow
def test_grpo_with_a_change_is_two_runs_one_after_the_other(
    world, settings, make_stage, curves, bad_start, ray_cluster
) -> None:
    base = settings.grpo.model_dump() | {"max_prompts": 160, "beta": 0.01, "patience": 99}
    later = {"temperature": 1.5, "rewards.lambda_pref": 0.0, "beta": 0.0, "learning_rate": 1e-5}

    def train(name: str, stretch: Stretch | None = None, **more):
        made = make_stage(name)
        made.stretch = stretch
        grpo_stage.train_by_rewards(
            GrpoConfig.model_validate(base | more), made, world.catalog, world.semantic_ids, bad_start
        )
        return made

    whole = train("grpo-whole", changes={10: later})
    first = train("grpo-first", Stretch(until=10))
    second = train("grpo-second", Stretch(start=first.stats["checkpoint"]), changes={10: later})
    found = curves(whole)
    assert scores(second.stats["curves"]) == scores(found) and len(scores(found)) == 3
    kept = [[e["reward"] for e in run if "reward" in e] for run in (second.stats["curves"], found)]
    assert kept[0] == kept[1]
    assert weights(whole.work) == weights(second.work, second.stats["checkpoint"])
