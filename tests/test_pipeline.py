"""The runner: order, what is run again and what is not, failures, Ray only when needed, and the job scripts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from dig_ray.artifacts import code_version
from dig_ray.artifacts.store import Store
from dig_ray.base import Stage
from dig_ray.config import RunConfig, known_keys
from dig_ray.console.cli import guarded
from dig_ray.console.summary import result_lines, run_and_tell
from dig_ray.errors import UserError
from dig_ray.on_ray.session import RayConfig, find_user_error, init_settings
from dig_ray.pipeline import STAGES, StageSpec, plan, run_pipeline, select
from dig_ray.stage_spec import always, never

ROOT = Path(__file__).parent.parent
ran: list[str] = []


def spec(name: str, *inputs: str, text: str | None = None, **more: Any) -> StageSpec:
    """A stage that writes its inputs' text and its own name."""

    def run(config: Any, stage: Stage, paths: Any) -> None:
        ran.append(name)
        above = "".join((paths[key] / "text").read_text() for key in inputs)
        (stage.out / "text").write_text(f"({above}{text or name})")
        stage.stats["rows"] = 10
        if name == "catalog":
            stage.stats.update(split_name="loo", split_hash="ab12")

    more = {"asked": always, "on_ray": never, **more}
    return StageSpec(name, run, needs=inputs, code=("dig_ray.numerics.ranking",), **more)


EMBEDDING = ("embedding", "-embedding.num_actors")
LINE = (
    spec("catalog", settings=("catalog",), seeded=never),
    spec("embedding", "catalog", settings=EMBEDDING),
    spec("semantic_ids", "catalog", "embedding", settings=("semantic_ids",)),
    spec("baselines", "catalog", settings=("baselines",), asked=lambda config: bool(config.baselines.run)),
)


@pytest.fixture(autouse=True)
def clean() -> None:
    ran.clear()


def config(store: Path, **more: Any) -> RunConfig:
    return RunConfig.model_validate({"store": str(store), **more})


def quiet(line: str) -> None:
    pass


def test_runs_in_order_and_then_not_again(tmp_path: Path) -> None:
    lines: list[str] = []
    done = run_and_tell(config(tmp_path), stages=LINE, log=lines.append)
    assert ran == ["catalog", "embedding", "semantic_ids", "baselines"]
    assert (done["semantic_ids"].path / "text").read_text() == "((catalog)((catalog)embedding)semantic_ids)"
    assert done["semantic_ids"].manifest["split_hash"] == "ab12"
    print_of = done["semantic_ids"].fingerprint
    assert any(
        line.startswith(f"[3/4] semantic_ids {print_of[:6]} done in") and "10 rows (" in line
        for line in lines
    )
    assert any(str(done["baselines"].path) in line for line in lines)  # the table at the end
    again = run_pipeline(config(tmp_path), stages=LINE, log=quiet)
    assert len(ran) == 4 and {k: v.path for k, v in again.items()} == {k: v.path for k, v in done.items()}


def test_what_other_code_made_is_named_in_one_line_and_what_other_settings_made_is_not(
    tmp_path: Path,
) -> None:
    line: list[str] = []

    def notes(stages: Sequence[StageSpec] = LINE, **more: Any) -> list[str]:
        line.clear()
        run_pipeline(config(tmp_path, **more), stages=stages, log=line.append)
        return [text for text in line if text.startswith("note: ")]

    assert not notes() and not notes(embedding={"fields": ["title"]})
    unfinished = tmp_path / ".work" / f"semantic_ids-{'0' * 16}"
    unfinished.mkdir(parents=True)
    (unfinished / "epoch_3").touch()
    assert not notes(seed=7)  # work of other settings that somebody may still go on with
    newer = tuple(
        replace(one, code=("dig_ray.numerics.subset",)) if one.name == "embedding" else one for one in LINE
    )
    assert not notes(newer, embedding={"fields": ["title", "brand"]}, semantic_ids={"levels": 2})
    (told,) = notes(newer)
    assert "another version of the code, so made anew: embedding, semantic_ids (" in told
    assert not notes(newer)
    shutil.rmtree(tmp_path / "semantic_ids")  # a store whose run never came that far
    newest = tuple(replace(one, code=("dig_ray.errors",)) if one.name == "embedding" else one for one in LINE)
    (told,) = notes(newest)
    assert (
        "made anew: embedding; the unfinished work of semantic_ids started from those and starts over ("
        in told
    )


def test_an_edit_of_what_runs_a_stage_is_an_edit_of_its_fingerprint(tmp_path: Path, monkeypatch) -> None:
    """Whoever picks a stage's settings and inputs stands in its room: none of it lies outside the code that is hashed."""
    copied = tmp_path / "dig_ray"
    shutil.copytree(ROOT / "dig_ray", copied, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code_version, "_ROOT", copied)
    known = cache(code_version._read.__wrapped__)
    mining = {"judge": {"engine": "similarity"}}
    run = config(tmp_path / "store", fusion={}, multi_interest={}, grpo={}, mining=mining)

    def recipes(edited: str = "") -> dict[str, Any]:
        """Every stage's recipe, with one module read again."""
        monkeypatch.setattr(
            code_version, "_read", lambda name: (known.__wrapped__ if name == edited else known)(name)
        )
        return {step.spec.name: step.recipe for step in plan(run, STAGES, Store(tmp_path / "store"))}

    before = recipes()
    for stage in STAGES:
        assert isinstance(stage.run, str)
        module, _, function = stage.run.partition(":")
        path = copied.joinpath(*module.split(".")[1:]).with_suffix(".py")
        text = path.read_text()
        start = text.index(f"def {function}(")
        body = text.index("\n    ", text.index(":\n", text.index(")", start))) + 1
        path.write_text(text[:body] + "    print('mended')\n" + text[body:])
        after = recipes(module)
        path.write_text(text)
        assert before[stage.name].code != after[stage.name].code
        fed = {name for name in before if stage.name in before[name].inputs}
        assert fed <= {name for name in before if before[name].fingerprint != after[name].fingerprint}


def test_only_what_depends_on_a_change_runs_again(tmp_path: Path) -> None:
    run_pipeline(config(tmp_path), stages=LINE, log=quiet)
    ran.clear()
    run_pipeline(config(tmp_path, semantic_ids={"levels": 2}), stages=LINE, log=quiet)
    assert ran == ["semantic_ids"]
    ran.clear()
    run_pipeline(config(tmp_path, embedding={"num_actors": 3}), stages=LINE, log=quiet)
    assert ran == []
    run_pipeline(config(tmp_path, seed=5), stages=LINE, log=quiet)
    assert ran == ["embedding", "semantic_ids", "baselines"]


def test_until_and_only(tmp_path: Path) -> None:
    run_pipeline(config(tmp_path), until="embedding", stages=LINE, log=quiet)
    assert ran == ["catalog", "embedding"]
    run_pipeline(config(tmp_path / "x"), only="baselines", stages=LINE, log=quiet)
    assert ran == ["catalog", "embedding", "catalog", "baselines"]
    with pytest.raises(UserError, match="--until sfr is no stage.*catalog, embedding"):
        run_pipeline(config(tmp_path), until="sfr", stages=LINE, log=quiet)
    with pytest.raises(UserError, match="baselines is no stage of this run"):
        run_pipeline(config(tmp_path, baselines={"run": []}), only="baselines", stages=LINE, log=quiet)


def test_force_rebuilds_and_what_stands_on_it_only_if_it_changed(tmp_path: Path) -> None:
    run_pipeline(config(tmp_path), stages=LINE, log=quiet)
    ran.clear()
    run_pipeline(config(tmp_path), force=["embedding"], stages=LINE, log=quiet)
    assert ran == ["embedding"]
    ran.clear()
    other = (LINE[0], spec("embedding", "catalog", text="E", settings=EMBEDDING), *LINE[2:])
    done = run_pipeline(config(tmp_path), force=["embedding"], stages=other, log=quiet)
    assert ran == ["embedding", "semantic_ids"]
    assert (done["semantic_ids"].path / "text").read_text() == "((catalog)((catalog)E)semantic_ids)"


def test_a_damaged_artifact_stops_the_run_and_force_mends_it(tmp_path: Path) -> None:
    done = run_pipeline(config(tmp_path), stages=LINE, log=quiet)
    (done["embedding"].path / "text").write_text("edited")
    with pytest.raises(UserError, match="force the stage embedding"):
        run_pipeline(config(tmp_path), stages=LINE, log=quiet)
    run_pipeline(config(tmp_path), force=["embedding"], stages=LINE, log=quiet)


def test_a_failure_keeps_what_was_published(tmp_path: Path) -> None:
    def fail(config: Any, stage: Stage, paths: Any) -> None:
        raise UserError("embeddings.parquet: row 3 is NaN; mend it")

    broken = (LINE[0], StageSpec(**{**LINE[1].__dict__, "run": fail}), *LINE[2:])
    with pytest.raises(UserError, match="row 3 is NaN"):
        run_pipeline(config(tmp_path), stages=broken, log=quiet)
    run_pipeline(config(tmp_path), stages=LINE, log=quiet)
    assert ran.count("catalog") == 1


def test_files_from_outside_count(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text("1")
    line = (spec("catalog", files=lambda config: {"items": path}),)
    run_pipeline(config(tmp_path / "s"), stages=line, log=quiet)
    run_pipeline(config(tmp_path / "s"), stages=line, log=quiet)
    path.write_text("2")
    run_pipeline(config(tmp_path / "s"), stages=line, log=quiet)
    assert ran == ["catalog", "catalog"]
    path.unlink()
    with pytest.raises(UserError, match="items.csv"):
        run_pipeline(config(tmp_path / "s"), stages=line, log=quiet)


def test_files_may_move_but_not_change_places(tmp_path: Path) -> None:
    def fingerprint(items: Path, interactions: Path) -> str:
        catalog = {
            "source": "table",
            "items": {"path": str(items)},
            "interactions": {"path": str(interactions)},
        }
        run = RunConfig.model_validate({"catalog": catalog, "store": str(tmp_path)})
        return plan(run, STAGES[:1], Store(tmp_path))[0].recipe.fingerprint

    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        (folder / "a.csv").write_text("item_id,title\n")
        (folder / "b.csv").write_text("user_id,item_id\n")
    first = fingerprint(here / "a.csv", here / "b.csv")
    assert fingerprint(there / "a.csv", there / "b.csv") == first
    assert fingerprint(here / "b.csv", here / "a.csv") != first


def test_mining_is_planned_where_it_is_read_and_only_what_decides_answers_counts(tmp_path: Path) -> None:
    def fingerprints(mining: dict[str, Any], fields: list[str], only: Any = None) -> dict[str, str]:
        run = RunConfig.model_validate(
            {"store": str(tmp_path), "mining": mining, "embedding": {"fields": fields}}
        )
        steps = plan(run, select(run, only=only), Store(tmp_path))
        return {step.spec.name: step.recipe.fingerprint for step in steps if step.spec.name != "report"}

    miner = {"engine": "openai", "name": "a", "model": "m", "base_url": "http://x/v1"}
    plain = fingerprints({}, ["title"])
    assert not {"captions", "item_interests", "judgements", "user_interests"} & set(plain)
    assert list(fingerprints({}, ["title"], only="item_interests")) == ["catalog", "item_interests"]
    assert "item_interests" in fingerprints({"items": [miner]}, ["title"])  # who is named is asked
    assert "item_interests" in fingerprints({}, ["title", "interests"])
    read = fingerprints({"items": [miner]}, ["title", "interests"])
    assert "item_interests" in read and read["embedding"] != plain["embedding"]
    moved = miner | {"base_url": "http://y/v1", "max_in_flight": 2, "price": {"input": 1}, "spend_limit": 5}
    assert fingerprints({"items": [moved], "max_failed": 1}, ["title", "interests"]) == read
    for changed in (miner | {"model": "n"}, miner | {"sampling": {"seed": 1}}):
        found = fingerprints({"items": [changed]}, ["title", "interests"])
        assert found["item_interests"] != read["item_interests"] and found["embedding"] != read["embedding"]
    users = fingerprints({"items": [miner], "users": [miner]}, ["title", "interests"])
    assert users["item_interests"] == read["item_interests"] and "user_interests" in users


def test_the_real_stages_can_be_planned(tmp_path: Path) -> None:
    names = [s.name for s in STAGES]
    rooms = [
        "catalog",
        "pictures",
        "captions",
        "item_interests",
        "judgements",
        "user_interests",
        "embedding",
        "image_embedding",
        "fusion",
        "user_clusters",
        "crowd",
        "crowd_clusters",
        "multi_interest",
        "semantic_ids",
    ]
    assert names[: len(rooms)] == rooms and len(set(names)) == len(names)
    keys = known_keys(RunConfig)
    run = config(tmp_path, fusion={}, multi_interest={}, grpo={})
    for number, stage in enumerate(STAGES):
        assert set(stage.needs_of(run)) <= set(names[:number]), stage.name
        named = {key.lstrip("-") for key in stage.settings_of(run)} - {"*"}
        assert named <= set(keys), f"{stage.name} reads {named - set(keys)}, which do not exist"
    started = time.perf_counter()
    steps = plan(run, STAGES, Store(tmp_path))
    assert time.perf_counter() - started < 5
    assert len({step.recipe.fingerprint for step in steps}) == len(STAGES)


# --- Ray -------------------------------------------------------------------------------------------------


def test_an_own_cluster_unless_one_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    monkeypatch.setenv("RAY_ADDRESS", "10.9.8.7:6379")  # somebody's
    own = init_settings(RayConfig())
    assert (own["address"], own["dashboard_host"]) == ("local", "127.0.0.1") and own["num_cpus"] >= 8
    assert init_settings(RayConfig(num_cpus=4))["num_cpus"] == 4
    joined = init_settings(RayConfig(address="1.2.3.4:6379"))
    assert joined["address"] == "1.2.3.4:6379" and "num_cpus" not in joined
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")  # submitted with `ray job submit`
    assert init_settings(RayConfig())["address"] == "10.9.8.7:6379"


def test_a_workers_user_error_is_found_behind_rays_wrappers() -> None:
    class Wrapper(RuntimeError):
        pass

    inner = UserError("item 3 has no text")
    task = Wrapper("a long trace")
    task.cause = inner  # type: ignore[attr-defined]
    train = Wrapper("training failed")
    train.worker_failures = {1: task}  # type: ignore[attr-defined]
    outer = Wrapper("outer")
    outer.__cause__ = train
    assert find_user_error(outer) == "item 3 has no text"
    assert find_user_error(Wrapper("no")) is None


SCRIPT = """
import sys, time
sys.path.insert(0, {root!r})
from dig_ray.console.cli import guarded
from dig_ray.config import RunConfig
from dig_ray.errors import UserError
from dig_ray.pipeline import StageSpec, run_pipeline
from dig_ray.stage_spec import always

def run(config, stage, inputs):
{body}

spec = StageSpec("catalog", run, asked=always, code=("dig_ray.numerics.ranking",), on_ray=lambda config: {on_ray})
sys.exit(guarded(lambda: run_pipeline(RunConfig(store={store!r}), stages=(spec,))))
"""


def pipeline_process(store: Path, body: str, on_ray: bool = False) -> subprocess.Popen[str]:
    indented = "".join(f"    {line}\n" for line in body.strip().splitlines())
    code = SCRIPT.format(root=str(ROOT), body=indented, store=str(store), on_ray=on_ray)
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        # children of a shell's background job inherit that SIGINT is ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_interrupted(tmp_path: Path) -> None:
    process = pipeline_process(tmp_path, "stage.log('waiting')\ntime.sleep(600)")
    assert process.stdout is not None
    while "waiting" not in process.stdout.readline():
        pass
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130
    assert error.startswith("interrupted") and error.count("\n") == 1
    assert not any((tmp_path / ".staging").iterdir())


def test_on_its_own_ray_and_a_workers_error_is_one_line(tmp_path: Path) -> None:
    body = """
import ray
from dig_ray.errors import UserError

@ray.remote
def square(x):
    return x * x

@ray.remote
def fails():
    raise UserError("items.parquet: row 3 has no text; mend it")

assert ray.get([square.remote(x) for x in range(4)]) == [0, 1, 4, 9]
assert ray.cluster_resources()["CPU"] >= 8
stage.log("squared")
ray.get(fails.remote())
"""
    process = pipeline_process(tmp_path, body, on_ray=True)
    out, error = process.communicate(timeout=240)
    assert process.returncode == 1
    assert "on its own Ray: " in out and "squared" in out
    assert "error: items.parquet: row 3 has no text; mend it\n" in error and "Traceback" not in error
    assert not any((tmp_path / ".staging").iterdir())


# --- jobs ------------------------------------------------------------------------------------------------

JOBS = sorted(path.stem for path in (ROOT / "jobs").glob("*.py") if "run_job(" in path.read_text())


def job(name: str, *args: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, str(ROOT / "jobs" / f"{name}.py"), *args],
        capture_output=True, text=True, cwd=cwd, env=env, timeout=120,
    )  # fmt: skip


def fastest(call: Callable[[], Any], tries: int = 5) -> float:
    """The best of a few: what the work costs, not what the neighbours do."""
    times = []
    for _ in range(tries):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


@pytest.mark.parametrize("name", JOBS)
def test_help_of_every_job(name: str) -> None:
    result = job(name, "--help")
    assert result.returncode == 0 and "key=value" in result.stdout and "python jobs/" in result.stdout


def test_help_is_quick() -> None:
    assert fastest(lambda: job("pipeline", "--help")) < 1.0


def test_print_config(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("seed: 4\n")
    result = job("pipeline", str(tmp_path / "a.yaml"), "semantic_ids.levels=2", "--print-config", "name=x")
    assert result.returncode == 0, result.stderr
    assert "seed: 4" in result.stdout and "levels: 2" in result.stdout and "name: x" in result.stdout


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["nosuch"], ["error: there is no config 'nosuch'"]),
        (["{config}", "semantic_ids.lvels=2"], ["error: command line: unknown key", "semantic_ids.levels"]),
        (["{config}", "--until", "nosuch"], ["error: --until nosuch is no stage"]),
        (["{config}", "store={config}/x"], ["error: store", "cannot be written to"]),
    ],
)
def test_a_mistake_is_one_line_and_code_1(tmp_path: Path, args: list[str], parts: list[str]) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"store: {tmp_path}/runs\n")
    result = job("pipeline", *[arg.replace("{config}", str(path)) for arg in args])
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.count("\n") == 1 and all(part in result.stderr for part in parts), result.stderr


def test_wrong_usage_is_code_2() -> None:
    assert job("pipeline").returncode == 2


def test_a_fault_of_ours_keeps_its_trace() -> None:
    def fault() -> None:
        raise ValueError("ours")

    with pytest.raises(ValueError, match="ours"):
        guarded(fault)


# --- last words ------------------------------------------------------------------------------------------


def test_the_results_are_printed_best_first(tmp_path: Path) -> None:
    def scored(value: float) -> dict[str, Any]:
        metric = {"mean": value, "low": value - 0.001, "high": value + 0.001}
        return {"seen": {"metrics": {"HR@10": metric, "NDCG@10": metric}}}

    metrics = {
        "split_name": "leave_last_out", "split_hash": "ab12cd34ef567890", "test_users": 2000, "items": 500,
        "results": {"item_knn": scored(0.03), "policy": scored(0.04)},
    }  # fmt: skip

    def run(config: Any, stage: Stage, paths: Any) -> None:
        (stage.out / "metrics.json").write_text(json.dumps(metrics))

    lines: list[str] = []
    stage = StageSpec("evaluation", run, asked=always, code=("dig_ray.numerics.ranking",), on_ray=never)
    done = run_and_tell(config(tmp_path), stages=(stage,), log=lines.append)
    text = "\n".join(" ".join(line.split()) for line in lines)
    assert "test users 2,000, items 500, split leave_last_out ab12cd34ef56" in text
    assert text.index("policy 0.0400 0.0400 0.0390 - 0.0410") < text.index("item_knn 0.0300")
    (done["evaluation"].path / "metrics.json").write_text("{}")
    assert result_lines(done["evaluation"]) == []
