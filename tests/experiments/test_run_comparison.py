"""Comparisons: planned before anything runs, shared stages once, a failure leaves the rest, and figures that can be recomputed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from dig_ray.config import load_config
from dig_ray.errors import UserError
from dig_ray.experiments.comparison_cells import plan_cells, share_work
from dig_ray.experiments.comparison_config import ComparisonConfig, load_comparison
from dig_ray.experiments.run_comparison import run_comparison

CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"
TINY = (
    "catalog.demo.n_items=60",
    "catalog.demo.n_users=120",
    "catalog.demo.n_intents=6",
    "semantic_ids.codebook_size=8",
    "recommender.decoder={hidden_size: 16, num_layers: 1, num_heads: 2, ffn_size: 32}",
    "sft.epochs=1",
    "sft.valid_users=50",
    "evaluation.beam=20",
    "baselines.run=[]",
    "grpo=null",
)


def comparison(store: Path, variants: dict[str, tuple[str, ...]], **more) -> ComparisonConfig:
    settings = (*TINY, f"store={store}")
    return ComparisonConfig(name="tiny", base="demo", settings=settings, variants=variants, **more)


def test_what_cells_share_is_planned_once(tmp_path) -> None:
    variants = {"base": (), "wide": ("semantic_ids.codebook_size=16",), "long": ("sft.epochs=2",)}
    cells = plan_cells(comparison(tmp_path, variants, seeds=(0, 1)), CONFIGS)
    work = share_work(cells)
    count = {
        name: sum(one.stage == name for one in work.values()) for name in ("catalog", "embedding", "sft")
    }
    assert len(cells) == 6 and count == {"catalog": 2, "embedding": 2, "sft": 6}
    assert sum(one.stage == "semantic_ids" for one in work.values()) == 4  # a longer training shares them
    order = list(work)
    assert all(order.index(need) < order.index(key) for key, one in work.items() for need in one.needs)


@pytest.mark.parametrize(
    ("variants", "says"),
    [
        ({"a": (), "b": ("sft.epochz=2",)}, "variant b: unknown key sft.epochz.*sft.epochs"),
        ({"a": (), "b": ("sft.epochs=1",)}, "variants a and b are the same run"),
    ],
)
def test_a_wrong_variant_is_one_sentence_before_anything_runs(tmp_path, variants, says) -> None:
    with pytest.raises(UserError, match=says):
        run_comparison(comparison(tmp_path / "store", variants), CONFIGS, print)
    assert not list((tmp_path / "store").glob("catalog/*"))


def test_settings_of_the_runs_and_of_the_comparison_stand_side_by_side(tmp_path) -> None:
    found = load_comparison(
        "demo_evidence", ["seeds=[3]", "sft.epochs=2", "store=x"], CONFIGS / "comparisons"
    )
    assert found.seeds == (3,) and found.settings[-2:] == ("sft.epochs=2", "store=x")
    assert next(iter(found.variants)) == "surface text" and found.name == "demo_evidence"
    with pytest.raises(UserError, match=r"seeds \[1, 1\] name one twice"):
        load_comparison("demo_evidence", ["seeds=[1,1]"], CONFIGS / "comparisons")


LISTS = {"model": "multi_interest", "popular": "popularity"}
OTHERS = {
    "policy": (),
    "model": ("multi_interest={max_epochs: 1}",),
    "popular": ("baselines.run=[popularity]",),
}


def test_a_variant_runs_to_whose_lists_it_is_about(tmp_path) -> None:
    cells = plan_cells(comparison(tmp_path, OTHERS, lists=LISTS), CONFIGS)
    last = {cell.variant: list(cell.keys)[-1] for cell in cells}
    assert last == {"policy": "evaluation", "model": "multi_interest", "popular": "baselines"}
    assert "sft" not in cells[1].keys and "sft" not in cells[2].keys


@pytest.mark.parametrize(
    ("variants", "lists", "says"),
    [
        (
            {"a": ()},
            {"a": "popularity"},
            "variant a: its lists are those of popularity, which baselines.run does not name",
        ),
        (
            {"a": ()},
            {"a": "multi_interest"},
            "variant a: its lists are those of multi_interest, which is not set",
        ),
        (
            {"a": ("multi_interest={}",), "b": ("multi_interest={}",)},
            {"a": "multi_interest", "b": "multi_interest"},
            "the same run",
        ),
        ({"a": (), "b": ("evaluation.ks=[3, 10]", "sft.epochs=2")}, {}, "different evaluation.ks"),
    ],
)
def test_lists_that_cannot_be_compared_are_one_sentence(tmp_path, variants, lists, says) -> None:
    with pytest.raises(UserError, match=says):
        plan_cells(comparison(tmp_path, variants, lists=lists), CONFIGS)


def test_all_variants_are_looked_at_before_the_first_starts(tmp_path) -> None:
    small = "catalog.demo={n_items: 60, n_users: 60, n_intents: 4}"
    variants = {
        "fine": (small,),
        "lost": (small, "embedding.model=./nowhere"),
        "unknown reward": (small, "grpo.rewards.custom={'no_such_module:f': 1.0}"),
    }
    with pytest.raises(UserError) as caught:
        run_comparison(comparison(tmp_path, variants), CONFIGS, lambda line: None)
    text = str(caught.value)
    assert "this comparison cannot work for 2 reasons" in text
    assert "lost: embedding.model: there is no directory ./nowhere" in text
    assert "unknown reward: grpo.rewards.custom: no_such_module:f cannot be imported" in text
    assert not list(tmp_path.glob("*/*/manifest.json"))


def test_all_variants_are_held_against_the_catalogue_before_anything_is_trained(tmp_path) -> None:
    small = "catalog.demo={n_items: 60, n_users: 60, n_intents: 4}"
    variants = {
        "fine": (small,),
        "wide": (small, "semantic_ids.codebook_size=128"),
        "many": (small, "grpo.num_generations=64"),
    }
    lines: list[str] = []
    with pytest.raises(UserError) as caught:
        run_comparison(comparison(tmp_path, variants), CONFIGS, lines.append)
    text = str(caught.value)
    assert "wide: semantic_ids.codebook_size asks for 128 codes" in text
    assert "many: grpo.num_generations=64 is more than the 60 items" in text
    assert sum("sft.warmup_steps" in line for line in lines) <= 1  # what all have in common is said once
    assert {path.parts[-3] for path in tmp_path.glob("*/*/manifest.json")} == {"catalog"}


def test_lists_of_no_variant_are_refused() -> None:
    with pytest.raises(ValidationError, match="there is no variant 'B'; name one of a, b"):
        ComparisonConfig(base="demo", variants={"a": (), "b": ()}, lists={"B": "popularity"})


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONFIGS / "comparisons").glob("*.yaml")))
def test_the_named_comparisons_can_be_planned(name, tmp_path) -> None:
    found = load_comparison(name, [f"store={tmp_path}"], CONFIGS / "comparisons")
    items = load_config(found.base, [], CONFIGS).catalog.items
    if items and items.path and not Path(items.path).exists():
        pytest.skip(f"{items.path} is not here")
    cells = plan_cells(found, CONFIGS)
    assert len(cells) == len(found.variants) * len(found.seeds)


@pytest.mark.slow
def test_policies_models_and_baselines_stand_in_one_table(tmp_path) -> None:
    lines: list[str] = []
    artifact = run_comparison(comparison(tmp_path / "store", OTHERS, lists=LISTS), CONFIGS, lines.append)
    report = json.loads((artifact.path / "comparison.json").read_text())
    assert [(one["name"], one["lists"]) for one in report["variants"]] == [
        ("policy", "policy"),
        ("model", "multi_interest"),
        ("popular", "popularity"),
    ]
    assert [len(one["sids"]) for one in report["variants"]] == [1, 0, 0]
    assert report["variants"][2]["minus_first"]["seen"]["NDCG@10"]["difference"] == pytest.approx(
        report["variants"][2]["results"]["seen"]["NDCG@10"]["mean"]
        - report["variants"][0]["results"]["seen"]["NDCG@10"]["mean"]
    )
    assert "What it cost" not in (artifact.path / "comparison.html").read_text()  # no LLM was asked


@pytest.mark.slow
def test_a_comparison_survives_a_broken_variant_and_does_nothing_twice(tmp_path) -> None:
    interests = (
        "recommender.tasks={next_sid: 1, interests_to_sid: 1}",
        "mining.items=[{engine: keyphrase, phrases: 2}]",
        "image_embedding.model=pixels",
        "fusion.target=reconstruction",
    )
    broken = ("semantic_ids.method=file", f"semantic_ids.path={tmp_path / 'sids.parquet'}")
    (tmp_path / "sids.parquet").write_text("no table")
    lines: list[str] = []
    variants = {"text": (), "interest tasks": interests, "broken": broken}
    with pytest.raises(UserError, match="artifacts failed: semantic_ids of broken, seed 0: .*sids.parquet"):
        run_comparison(comparison(tmp_path / "store", variants), CONFIGS, lines.append)
    made = [line.split()[1] for line in lines if line.startswith("[")]
    assert made.count("catalog") == 1 and made.count("sft") == 2 and made.count("item_interests") == 1
    del variants["broken"]
    again: list[str] = []
    artifact = run_comparison(comparison(tmp_path / "store", variants), CONFIGS, again.append)
    assert not [line for line in again if line.startswith("[")] and "0 artifacts made" in again[-1]

    report = json.loads((artifact.path / "comparison.json").read_text())
    text, tasks = report["variants"]
    for rule in ("seen", "unseen"):
        for metric in ("HR@10", "NDCG@10"):
            mean = text["results"][rule][metric]["mean"]
            own = json.loads(
                next(
                    p
                    for p in (tmp_path / "store" / "evaluation").glob("*/metrics.json")
                    if _is(p, mean, rule, metric)
                ).read_text()
            )
            assert own["results"]["policy"][rule]["metrics"][metric]["mean"] == pytest.approx(mean)
            difference = tasks["minus_first"][rule][metric]
            assert difference["difference"] == pytest.approx(tasks["results"][rule][metric]["mean"] - mean)
            assert difference["low"] <= difference["difference"] <= difference["high"]
    assert np.isfinite(text["sids"][0]["next_item_prefix_1"]) and text["sids"][0]["intent_information"] > 0
    page = (artifact.path / "comparison.html").read_text()
    assert "Nearest by picture" in page
    kept = tasks["sids"][0]["pairs_kept"]
    assert text["sids"][0]["pairs_kept"] == 1 and 0 < kept < 1
    assert all(item["picture"] and len(item["spaces"]) == 3 for item in report["items"])
    assert "interest tasks − text" in page and "<script" not in page and "interests_to_sid: 1" in page


def _is(path: Path, mean: float, rule: str, metric: str) -> bool:
    found = json.loads(path.read_text())["results"]["policy"][rule]["metrics"][metric]["mean"]
    return found == pytest.approx(mean)
