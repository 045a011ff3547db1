"""What settings and data have to do with each other, right after the catalogue: faults together, warnings with both numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dig_ray.catalog.stats import statistics
from dig_ray.checks.data_fit import grpo_prompts, look, sft_rows
from dig_ray.config import RunConfig, resolve
from dig_ray.errors import UserError
from dig_ray.pipeline import run_pipeline, select

ALL = (
    "embedding", "semantic_ids", "baselines", "sft", "grpo", "recommend", "recommend_sft", "evaluation", "multi_interest",
)  # fmt: skip


def config_of(**tree: Any) -> RunConfig:
    return resolve([("test", tree)])


def figures(sequences: list[list[int]], n_items: int, make: Any) -> dict[str, Any]:
    return statistics(make(sequences, n_items, titles=True))


@pytest.fixture
def small(make_dataset: Any) -> dict[str, Any]:
    """8 items and three users, who had six of them each, four in training."""
    return figures([[0, 1, 2, 3, 4, 5]] * 3, 8, make_dataset)


def test_the_figures_that_are_read(small: dict[str, Any], make_dataset: Any) -> None:
    assert small["train_lengths"] == [0, 0, 0, 0, 3] and small["case_items_max"] == 6
    repeats = figures([[0, 0, 0, 1, 1], [2, 3, 2, 3]], 5, make_dataset)
    assert repeats["case_items_max"] == 2 and repeats["train_lengths"] == [0, 0, 1, 1]


def test_a_catalogue_too_small_for_the_cut_offs_warns(small: dict[str, Any]) -> None:
    fit = look(config_of(semantic_ids={"codebook_size": 4}), small, ["recommend", "evaluation"])
    assert not fit.faults
    assert any("evaluation.ks goes up to 20, and the catalogue has 8 items" in line for line in fit.warnings)
    fit = look(config_of(evaluation={"ks": [1, 5]}), small, ["evaluation"])
    assert any(
        "2 of 8 items are left" in line and "evaluation.ks goes up to 5" in line for line in fit.warnings
    )
    assert not look(config_of(evaluation={"ks": [1, 2]}), small, ["evaluation"]).warnings


def test_faults_of_settings_come_together(small: dict[str, Any]) -> None:
    config = config_of(
        semantic_ids={"codebook_size": [4, 16, 32]},
        grpo={"num_generations": 16, "prompts_per_step": 64},
    )
    faults = look(config, small, ALL).faults
    assert len(faults) == 3
    assert "32 codes at level 3, and the catalogue has 8 items" in faults[0]
    assert "grpo.num_generations=16 is more than the 8 items" in faults[1]
    assert (
        "grpo.prompts_per_step=64 is more than all prompts of the training split, which gives 9; lower it to at most 9"
        in faults[2]
    )
    assert not look(config, small, ["report"]).faults


def test_collisions_that_no_codebook_can_avoid(small: dict[str, Any]) -> None:
    (warning,) = look(
        config_of(semantic_ids={"codebook_size": 2, "levels": 2}), small, ["semantic_ids"]
    ).warnings
    assert "make 4 combinations of codes for 8 items, so at least 4 share" in warning


def test_warm_ups_longer_than_training(small: dict[str, Any]) -> None:
    config = config_of(
        semantic_ids={"codebook_size": 4},
        sft={"epochs": 20, "rows_per_step": 1},
        grpo={"num_generations": 4, "prompts_per_step": 3, "epochs": 2},
        multi_interest={"max_epochs": 3},
        baselines={"sasrec": {"max_epochs": 7, "batch_tokens": 3}},
    )
    text = " ".join(look(config, small, ALL).warnings)
    assert "sft.warmup_steps=100 is as long as training or longer, which has about 20 steps" in text
    assert "grpo.warmup_steps=10 is as long as training or longer, which has 6 steps" in text
    assert "multi_interest.warmup_steps=100 is as long as training or longer, which has 3 steps" in text
    assert "baselines.sasrec.warmup_steps=100 is as long as training or longer, which has 21 steps" in text
    assert "set baselines.sasrec.warmup_steps=2" in text
    calm = config_of(sft={"epochs": 20, "rows_per_step": 1, "warmup_steps": 2})
    assert not any("warmup" in line for line in look(calm, small, ["sft"]).warnings)


def test_rows_that_nothing_fills(small: dict[str, Any]) -> None:
    warnings = look(config_of(), small, ["sft"]).warnings
    assert any("sft.rows_per_step=32 is more than the about 1 rows" in line for line in warnings)


def test_hold_outs(make_dataset: Any) -> None:
    short = figures([[0, 1, 2, 3]] * 4, 30, make_dataset)  # two training events each, and two always stay
    config = config_of(
        sft={"hold_out": 1}, grpo={"prompts": "held_out", "num_generations": 4, "prompts_per_step": 1}
    )
    fit = look(config, short, ["sft", "grpo"])
    assert any("sft.hold_out=1 holds nothing out" in line for line in fit.warnings)
    assert any("grpo.prompts=held_out finds no prompt" in line for line in fit.faults)


def test_splits_without_cases(make_dataset: Any) -> None:
    stats = figures([[0, 1, 2, 3]] * 4, 30, make_dataset) | {
        "valid_cases": 0,
        "test_cases": 0,
        "train_events": 0,
    }
    faults = look(config_of(), stats, ["sft", "recommend"]).faults
    assert len(faults) == 3
    assert "training split has no interaction" in faults[0]
    assert "validation split has no case" in faults[1] and "test split has no case" in faults[2]


def test_items_without_any_text(make_dataset: Any) -> None:
    dataset = make_dataset([[0, 1, 2, 3]] * 4, 30, titles=True)
    bare = statistics(replace(dataset, items=dataset.items.set_column(1, "title", pa.array([""] * 30))))
    assert bare["items_without_text"] == 30
    (fault,) = look(config_of(semantic_ids={"codebook_size": 8}), bare, ["embedding"]).faults
    assert "none of 30 items has any text" in fault
    joined = config_of(semantic_ids={"codebook_size": 8, "collaborative": {"weight": 1.0}})
    assert not look(joined, bare, ["embedding"]).faults and look(joined, bare, ["embedding"]).warnings


@given(st.lists(st.integers(3, 60), min_size=1, max_size=30), st.integers(1, 25))
def test_steps_of_sft_and_prompts_of_rl_are_about_what_training_will_have(
    make_dataset: Any, lengths: list[int], most: int
) -> None:
    import numpy as np

    from dig_ray.recommender.tasks import windows
    from dig_ray.training.grpo_stage import prompt_events

    dataset = make_dataset([[number % 40 for number in range(n)] for n in lengths], 40, titles=True)
    stats = statistics(dataset)
    config = config_of(recommender={"max_history": most}, sft={"row_length": 16}, grpo={"num_generations": 4})
    cuts = windows(np.diff(dataset.train_sequences()[0]), most)
    tokens = len(cuts) + 3 * int((cuts[:, 2] - cuts[:, 1]).sum())
    assert sft_rows(config, stats) == pytest.approx(tokens / 16, rel=0.35, abs=1.1)
    for which in ("all", "last"):
        asked = config_of(grpo={"prompts": which, "num_generations": 4})
        assert grpo_prompts(asked, stats) == len(prompt_events(dataset, which, most)[0])
    held = config_of(sft={"hold_out": 2}, grpo={"prompts": "held_out", "num_generations": 4})
    assert grpo_prompts(held, stats) == len(prompt_events(dataset, "held_out", most, 2)[0])


def test_a_run_stops_right_after_the_catalogue_with_all_faults(tmp_path: Path) -> None:
    config = config_of(
        store=str(tmp_path),
        catalog={"demo": {"n_items": 60, "n_users": 40, "n_intents": 4}},
        semantic_ids={"codebook_size": 256},
        grpo={"num_generations": 64},
    )
    lines: list[str] = []
    with pytest.raises(UserError) as caught:
        run_pipeline(config, log=lines.append)
    assert "(1) semantic_ids.codebook_size asks for 256 codes" in str(caught.value)
    assert "(2) grpo.num_generations=64" in str(caught.value)
    assert any("sft.warmup_steps=100" in line for line in lines)
    assert not any("embedding" in line for line in lines if "warning" not in line)
    assert [spec.name for spec in select(config, until="catalog")] == ["catalog"]
