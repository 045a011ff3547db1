"""Search spaces: what can be written, what is refused, and points that are possible, distinct and the same every time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dig_ray.config import parse_yaml
from dig_ray.errors import UserError
from dig_ray.experiments.sweeps.choosing import in_order, pareto
from dig_ray.experiments.sweeps.config import SweepConfig
from dig_ray.experiments.sweeps.read_sweep import read_sweep
from dig_ray.experiments.sweeps.space import Draws, parse_range, plain, setting
from dig_ray.experiments.sweeps.trials import Trials

CONFIGS = Path(__file__).parents[3] / "jobs" / "configs"


def draws(space: dict[str, str], why_not=lambda point: "", identity=json.dumps) -> Draws:
    return Draws({key: parse_range(key, text) for key, text in space.items()}, why_not, identity)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("normal(0, 1)", "lr is 'normal.0, 1.', which is no distribution; write one of choice, uniform"),
        ("0.1", "no distribution"),
        ("choice()", "nothing to choose from"),
        ("choice(3, 3)", "stands there twice"),
        ("uniform(1)", "uniform takes 2 numbers"),
        ("uniform(1, x)", "uniform takes 2 numbers"),
        ("uniform(2, 1)", "2 is not below 1"),
        ("loguniform(0, 1)", "begins above 0"),
        ("randint(1.5, 3)", "randint takes whole numbers"),
        ("quniform(0, 1, 2)", "the step 2 is not within 0 and 1"),
        ("uniform(0, .inf)", "uniform takes 2 numbers"),
    ],
)
def test_a_wrong_distribution_is_one_sentence(text, says) -> None:
    with pytest.raises(UserError, match=says):
        parse_range("lr", text)


@given(
    kind=st.sampled_from(["uniform", "loguniform", "randint", "lograndint"]),
    low=st.integers(1, 1000),
    wide=st.integers(1, 1000),
    seed=st.integers(0, 9),
)
def test_points_lie_where_the_text_says_and_survive_the_way_into_a_config(kind, low, wide, seed) -> None:
    space = draws({"a": f"{kind}({low}, {low + wide})", "b": "choice(x, [1, 2], true, 0.5)"})
    points = space.random(8, seed)
    assert points == draws({"a": f"{kind}({low}, {low + wide})", "b": "choice(x, [1, 2], true, 0.5)"}).random(
        8, seed
    )
    assert len({json.dumps(p) for p in points}) == len(points)
    for point in points:
        assert space.space["a"].holds(point["a"]) and low <= point["a"] <= low + wide
        assert isinstance(point["a"], int) == ("int" in kind)
        back = [parse_yaml(setting(key, value).partition("=")[2]) for key, value in point.items()]
        assert back[0] == point["a"] and plain(back[1]) == point["b"]


def test_whole_ranges_have_both_ends() -> None:
    found = {point["a"] for point in draws({"a": "randint(1, 3)"}).random(50, 0)}
    assert found == {1, 2, 3}


def test_impossible_points_are_counted_and_repeats_are_left_out() -> None:
    space = {"levels": "choice(2, 3)", "size": "choice([4, 4], [4, 4, 4], 4)", "unread": "choice(1, 2)"}

    def why(p):
        fits = p["size"] == 4 or len(json.loads(p["size"])) == p["levels"]
        return "" if fits else "one size per level"

    same = lambda p: f"{p['levels']} {p['size']}"  # noqa: E731
    grid = draws(space, why, same)
    assert len(grid.grid()) == 4 and grid.impossible == 4 and grid.reason == "one size per level"
    some = draws(space, why, same)
    assert len(some.random(50, 0)) == 4 and some.impossible > 0
    with pytest.raises(UserError, match="a grid takes choice"):
        draws({"a": "uniform(0, 1)"}).grid()
    with pytest.raises(UserError, match="no possible config: .* were tried, the first fails with: never"):
        draws(space, lambda p: "never").random(3, 0)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["demo", "sft.learning_rat=uniform(0, 1)"],
            "unknown key sft.learning_rat .*nearest is sft.learning_rate",
        ),
        (["demo", "sft.epochs=3"], "nothing of it is varied"),
        (["dmeo", "sft.epochs=choice(1, 2)"], "did you mean demo"),
        (["demo", "sft.epochs=choice(1, 2)", "samples=0"], "samples is 0"),
        (["demo", "sft.epochs=choice(1, 2)", "objectives={loss: min}"], "loss is never reported by sft"),
        (["demo", "sft.epochs=choice(1, 2)", "objectives={eval_ndcg@10: min}"], "better when it is maximal"),
        (["demo", "sft.epochs=choice(1, 2)", "seeds=[0, 1]", "scheduler={grace: 1}"], "takes one seed"),
        (["demo", "sft.epochs=choice(0, -1)"], "no possible config: .* sft.epochs"),
        (["demo", "sft.epochs=choice(1, 2)", "scheduler={grace: 99}"], "grace=99 is more than the 20 epochs"),
        (["demo_rewards", "target=sft"], ""),
    ],
)
def test_what_cannot_be_swept_is_one_sentence_before_ray_starts(arguments, says, tmp_path) -> None:
    from dig_ray.experiments.sweeps.run_sweep import run_sweep

    source, *settings = arguments
    if not says:
        with pytest.raises(UserError, match="judges sft, and this job judges grpo"):
            read_sweep(source, settings, CONFIGS, "grpo")
        return
    with pytest.raises(UserError, match=says):
        run_sweep(read_sweep(source, [*settings, f"store={tmp_path}"], CONFIGS), CONFIGS, print)
    assert not (tmp_path / "sft").exists()


def test_the_command_line_lies_over_a_named_sweep() -> None:
    sweep = read_sweep(
        "demo_tokenizer",
        ["semantic_ids.levels=choice(4, 5)", "sft.epochs=2", "samples=3", "finalists=null"],
        CONFIGS,
        samples=7,
        search="optuna",
    )
    assert sweep.space["semantic_ids.levels"] == "choice(4, 5)" and "semantic_ids.method" in sweep.space
    assert sweep.settings[-1] == "sft.epochs=2" and sweep.samples == 7 and sweep.search == "optuna"
    assert sweep.finalists is None and sweep.target == "semantic_ids"


@pytest.mark.parametrize("path", sorted((CONFIGS / "sweeps").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_sweep_has_possible_points(path, tmp_path) -> None:
    sweep = read_sweep(path.stem, [f"store={tmp_path}"], CONFIGS)
    trials = Trials.of(sweep, CONFIGS)
    for key, text in sweep.space.items():
        trials.check_key(key, parse_range(key, text))
    base = trials.base_point(list(sweep.space))
    assert trials.why_not(base) == ""
    found = draws(dict(sweep.space), trials.why_not, lambda p: json.dumps(p)).random(5, 0)
    assert len(found) == 5


def test_the_front_is_what_nothing_beats() -> None:
    rows = [
        {"name": name, "figures": {"error": error, "codes": codes}}
        for name, error, codes in [
            ("a", 1, 9),
            ("b", 2, 5),
            ("c", 3, 5),
            ("d", 9, 1),
            ("e", 9, 2),
            ("f", 1, 9),
        ]
    ]
    ways = {"error": "min", "codes": "min"}
    assert [row["name"] for row in pareto(rows, ways)] == ["a", "f", "b", "d"]
    assert [row["name"] for row in in_order(rows, {"codes": "max"})][:2] == ["a", "f"]


def test_points_that_differ_in_what_is_not_read_are_one_trial(tmp_path) -> None:
    sweep = SweepConfig(
        base="demo",
        space={
            "semantic_ids.rqvae.latent": "choice(8, 16)",
            "semantic_ids.method": "choice(residual_kmeans, rqvae)",
        },
        settings=(f"store={tmp_path}",),
        target="semantic_ids",
    )
    trials = Trials.of(sweep, CONFIGS)
    space = {key: parse_range(key, text) for key, text in sweep.space.items()}
    assert len(Draws(space, trials.why_not, trials.identity).grid()) == 3


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONFIGS / "sweeps").glob("*.yaml")))
def test_every_named_sweep_varies_what_its_run_has(name: str) -> None:
    sweep = read_sweep(name, [], CONFIGS)
    trials = Trials.of(sweep, CONFIGS)
    space = {key: parse_range(key, text) for key, text in sweep.space.items()}
    for key, one in space.items():
        trials.check_key(key, one)
    some = Draws(space, trials.why_not, json.dumps).random(3, seed=0)
    assert [trials.config(point).name for point in some]
