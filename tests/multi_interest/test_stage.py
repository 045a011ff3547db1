"""The stages of a multi-interest model on a real Ray, from clusters to lists, and what other rooms take from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from dig_ray.artifacts.store import Store
from dig_ray.catalog.dataset import Dataset
from dig_ray.config import load_config
from dig_ray.errors import UserError
from dig_ray.evaluation.recommendations import read_recommendations
from dig_ray.multi_interest.cluster_labels import label_events
from dig_ray.multi_interest.cluster_stage import latest_items
from dig_ray.multi_interest.retrieved import read_retrieved
from dig_ray.on_ray.run_folder import SNAPSHOT
from dig_ray.pipeline import plan, run_pipeline, select
from dig_ray.report.interests import gather_interests, interests_of_users
from dig_ray.report.page import render_page

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "jobs" / "configs"
SMALL = [
    "catalog.demo={n_items: 60, n_users: 120, n_intents: 6}",
    "multi_interest.batch_targets=256",
    "multi_interest.max_epochs=3",
    "multi_interest.crowd.budget=20",
    "multi_interest.threads_per_worker=1",
    "baselines.run=[popularity]",
    "grpo=null",
]
QUIET = lambda line: None  # noqa: E731


def config_of(store: Path, *overrides: str):
    return load_config("demo_ldmi", [*SMALL, f"store={store}", *overrides], CONFIGS)


def keys_of(config) -> dict[str, str]:
    steps = plan(config, select(config, only="evaluation"), Store(config.store))
    return {step.spec.name: step.recipe.fingerprint for step in steps}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> tuple[Path, Path]:
    """A store with the catalogue, and an LLM's recorded clusters of its users: one for each intent, with slips in some answers."""
    store = tmp_path_factory.mktemp("store")
    catalog = run_pipeline(config_of(store), only="catalog", log=QUIET)["catalog"].path
    dataset = Dataset.load(catalog)
    intent = dict(
        zip(dataset.item_ids.tolist(), (one[0] for one in dataset.items["intents"].to_pylist()), strict=True)
    )
    answers = []
    for number, (user, items) in enumerate(latest_items(dataset, 50).items()):
        groups: dict[str, list[int]] = {}
        for place, item in enumerate(items, 1):
            groups.setdefault(intent[item], []).append(place)
        clusters = [{"name": f"for {name}", "items": places} for name, places in groups.items()]
        if number == 0:
            clusters[0]["items"].append(999)
        if number == 1:
            del clusters[-1]
        if number == 2:
            clusters[-1]["items"].append(clusters[0]["items"][0])
        answers.append({"subject_id": user, "answer": json.dumps({"clusters": clusters})})
    answers[3]["answer"] = "I would rather not."
    recorded = tmp_path_factory.mktemp("recorded") / "clusters.jsonl"
    recorded.write_text("".join(json.dumps(one) + "\n" for one in answers))
    return store, recorded


@pytest.mark.usefixtures("ray_here")
def test_an_llm_s_clusters_are_repaired_counted_and_learnt_from(world) -> None:
    store, recorded = world
    config = config_of(
        store,
        f"mining.clusters={{engine: replay, name: recorded, path: {recorded}}}",
        "multi_interest.crowd.weight=0",
    )
    done = run_pipeline(config, only="multi_interest", log=QUIET)
    assert "crowd" not in done and "embedding" not in done  # an LLM needs no vectors
    stats = done["user_clusters"].stats
    assert stats["repaired"]["invented"] == 1 and stats["repaired"]["repeated"] == 1
    assert stats["repaired"]["missing"] >= 1
    rows = pq.read_table(done["user_clusters"].path / "clusters.parquet").to_pylist()
    dataset = Dataset.load(done["catalog"].path)
    latest = latest_items(dataset, 50)
    assert [row["subject_id"] for row in rows] == list(latest)
    for row in rows:
        placed = [item for one in row["clusters"] for item in one["item_ids"]]
        if row["status"] == "ok":
            assert sorted(placed) == sorted(latest[row["subject_id"]])
    (refused,) = [row for row in rows if row["status"] == "failed"]
    assert not refused["clusters"] and refused["error"].startswith("not_json")
    quarantine = pq.read_table(done["user_clusters"].path / "quarantine.parquet").to_pylist()
    assert [row["raw"] for row in quarantine] == ["I would rather not."]
    model = done["multi_interest"]
    assert model.stats["model"] == "ldmi" and model.stats["interests"]["clusters"] > 1
    found = pq.read_table(model.path / "interests.parquet").to_pylist()
    named = {name for row in found for name in row["clusters"]}
    assert any(name.startswith("for ") for name in named)
    merged = pq.read_table(model.path / "merged.parquet").to_pylist()
    assert [row["subject_id"] for row in merged] == dataset.user_ids.tolist()
    for suffix in ("seen", "unseen"):
        lists = pq.read_table(model.path / f"recommendations_ldmi_{suffix}.parquet")
        assert lists.num_rows == len(dataset.cases("test").target)
    what_each_interest_found(model.path, dataset)
    what_the_report_shows(model, dataset)


def what_each_interest_found(folder: Path, dataset: Dataset) -> None:
    """The rows of ``retrieved.parquet`` fit the histories and the lists."""
    cases = dataset.cases("test")
    lists = read_recommendations(folder / "recommendations_ldmi_unseen.parquet", dataset, cases)
    by_case = read_retrieved(folder / "retrieved.parquet", range(len(cases.target)))
    assert len(by_case) == len(cases.target)
    for case, rows in by_case.items():
        history = dataset.item_ids[dataset.events[cases.start[case] : cases.end[case]]].tolist()
        assert [row["user_id"] for row in rows] == [dataset.user_ids[cases.user[case]]] * 4
        assert sorted(row["interest"] for row in rows) == [0, 1, 2, 3]
        shares = [row["share"] for row in rows]
        assert sum(shares) == pytest.approx(1) and shares == sorted(shares, reverse=True)
        assert {item for row in rows for item in row["item_ids"]} == set(history[-20:])
        assert all(row["scores"] == sorted(row["scores"], reverse=True) for row in rows)
        assert not {item for row in rows for item in row["found_ids"]} & set(history)
        best: dict[str, float] = {}
        for row in rows:
            for item, score in zip(row["found_ids"], row["scores"], strict=True):
                best[item] = max(score, best.get(item, score))
        together = sorted(best.values(), reverse=True)[:10]
        assert [best[item] for item in dataset.item_ids[lists[case, :10]].tolist()] == pytest.approx(together)


def what_the_report_shows(model: Any, dataset: Dataset) -> None:
    """Users' interests as a section of the page; titles are text."""
    found = gather_interests(
        dataset, {"multi_interest": model.path}, {"multi_interest": {"stats": model.stats}}
    )
    assert found is not None
    titles = ["<b>" + title for title in dataset.items["title"].to_pylist()]
    shown = interests_of_users(dataset, found, titles)
    page = render_page("interests.html", interests=shown, names={"ldmi": "LDMI"})
    assert len(shown["users"]) == 6 and page.count("<article") == 6 and "LDMI reads a history" in page
    assert "<b>" not in page and "&lt;b&gt;" in page and page.count("Found</h4>") == 6 * 4
    hits = [
        any(one["hit_below"] or any(item["hit"] for item in one["found"]) for one in user["interests"])
        for user in shown["users"]
    ]
    assert 0 < sum(hits) < 6 and "for " in page


@pytest.mark.usefixtures("ray_here")
def test_without_an_llm_vectors_are_grouped_and_said_to_be(world) -> None:
    store, _ = world
    done = run_pipeline(config_of(store), only=["user_clusters", "crowd_clusters"], log=QUIET)
    for stage in ("user_clusters", "crowd_clusters"):
        rows = pq.read_table(done[stage].path / "clusters.parquet").to_pylist()
        assert {row["model"] for row in rows} == {"no LLM (groups of vectors)"}
        assert done[stage].stats["cost"] == 0
    crowd = pq.read_table(done["crowd"].path / "crowd.parquet").to_pylist()
    dataset = Dataset.load(done["catalog"].path)
    offsets, items = dataset.train_sequences()
    number = {user: n for n, user in enumerate(dataset.user_ids.tolist())}
    covered: set[str] = set()
    for row in crowd:
        theirs = {
            str(dataset.item_ids[item])
            for user in row["user_ids"]
            for item in items[offsets[number[user]] : offsets[number[user] + 1]]
        }
        assert set(row["item_ids"]) <= theirs and len(set(row["item_ids"])) == len(row["item_ids"])
        assert row["gain"] == len(set(row["user_ids"]) - covered)
        covered |= set(row["user_ids"])
    assert done["crowd"].stats["covered"] == len(covered)
    assert done["crowd"].stats["share_covered"] >= done["crowd"].stats["share_covered_by_chance"]


def test_only_training_events_are_clustered(world) -> None:
    store, _ = world
    dataset = Dataset.load(run_pipeline(config_of(store), only="catalog", log=QUIET)["catalog"].path)
    offsets, events = dataset.train_sequences()
    for number, items in enumerate(latest_items(dataset, 4).values()):
        own = events[offsets[number] : offsets[number + 1]]
        assert items == [str(dataset.item_ids[i]) for i in list(dict.fromkeys(own[::-1].tolist()))[:4]][::-1]
    user = str(dataset.user_ids[0])
    first = [str(dataset.item_ids[i]) for i in dict.fromkeys(events[: offsets[1]].tolist())]
    labels = label_events(
        dataset, {user: [{"name": "a", "item_ids": first[:1]}, {"name": "b", "item_ids": first[1:]}]}
    )
    wanted = np.where(dataset.item_ids[events[: offsets[1]]] == first[0], 0, 1)
    assert labels[: offsets[1]].tolist() == wanted.tolist()
    assert (labels[offsets[1] :] == -1).all()


def test_what_a_model_does_without_does_not_change_it(tmp_path) -> None:
    base = ("multi_interest.alignment.weight=0", "multi_interest.crowd.weight=0")
    plain = keys_of(config_of(tmp_path, *base))
    assert not {"user_clusters", "crowd", "crowd_clusters"} & plain.keys()
    for unread in (
        "multi_interest.alignment.temperature=0.3",
        "multi_interest.crowd.budget=7",
        "multi_interest.hidden=8",
        "multi_interest.vector_clusters.quantile=0.3",
        "mining.cluster_items=9",
    ):
        assert keys_of(config_of(tmp_path, *base, unread))["multi_interest"] == plain["multi_interest"]
    whole = keys_of(config_of(tmp_path))
    assert whole["multi_interest"] != plain["multi_interest"]
    for setting, changed in {
        "multi_interest.alignment.weight=0.2": {"multi_interest"},
        "multi_interest.crowd.temperature=0.3": {"multi_interest"},
        "multi_interest.crowd.choose=random": {"crowd", "crowd_clusters", "multi_interest"},
        "multi_interest.vector_clusters.quantile=0.3": {"user_clusters", "crowd_clusters", "multi_interest"},
    }.items():
        other = keys_of(config_of(tmp_path, setting))
        assert {name for name in whole if other[name] != whole[name]} - {"evaluation"} == changed


def test_bridges_are_read_where_they_are_asked_for(tmp_path) -> None:
    whole = keys_of(config_of(tmp_path))
    by_vectors = keys_of(config_of(tmp_path, "semantic_ids.vectors=multi_interest"))
    assert by_vectors["semantic_ids"] != whole["semantic_ids"]
    assert by_vectors["multi_interest"] == whole["multi_interest"]
    tasks = "recommender.tasks={next_sid: 1, user_interests_to_sid: 1}"
    context = [tasks, "recommender.user_interests=multi_interest"]
    with pytest.raises(
        UserError, match="hold_out=0 lets the interests know it; set multi_interest.hold_out=1"
    ):
        config_of(tmp_path, *context)
    with pytest.raises(UserError, match="set multi_interest.hold_out=3"):
        config_of(tmp_path, *context, "multi_interest.hold_out=2", "sft.hold_out=2")
    by_context = keys_of(config_of(tmp_path, *context, "multi_interest.hold_out=1"))
    assert by_context["user_clusters"] != whole["user_clusters"] and by_context["crowd"] == whole["crowd"]
    assert by_context["semantic_ids"] == whole["semantic_ids"] and by_context["sft"] != whole["sft"]
    for setting in ("semantic_ids.vectors=multi_interest", "recommender.user_interests=multi_interest"):
        with pytest.raises(UserError, match="set multi_interest"):
            load_config("demo", [setting], CONFIGS)
    with pytest.raises(UserError, match="top_k=5 gives lists shorter"):
        config_of(tmp_path, "multi_interest.top_k=5")


@pytest.mark.slow
def test_lists_stand_in_the_table_and_a_policy_reads_the_interests(tmp_path) -> None:
    config = config_of(
        tmp_path,
        "semantic_ids={vectors: multi_interest, codebook_size: 8}",
        "recommender.tasks={next_sid: 1, user_interests_to_sid: 1}",
        "recommender.user_interests=multi_interest",
        "multi_interest.hold_out=1",
        "recommender.decoder={hidden_size: 16, num_layers: 1, num_heads: 2, ffn_size: 32}",
        "sft={epochs: 1, valid_users: 50}",
        "evaluation={n_bootstrap: 20, unconstrained: false}",
    )
    done = run_pipeline(config, log=QUIET)
    what_sft_predicts_is_in_no_interest(done, Dataset.load(done["catalog"].path))
    results = json.loads((done["evaluation"].path / "metrics.json").read_text())["results"]
    assert set(results) == {"policy", "popularity", "ldmi"}
    assert set(results["ldmi"]) == {"seen", "unseen"}


def what_sft_predicts_is_in_no_interest(done: Any, dataset: Dataset) -> None:
    """Neither in the items and names of interests nor in clusters, but where the user had the item before."""
    offsets, events = dataset.train_sequences()
    titles = dataset.items["title"].to_pylist()
    found: dict[str, set[str]] = {}
    for row in pq.read_table(done["multi_interest"].path / "interests.parquet").to_pylist():
        found.setdefault(row["user_id"], set()).update(row["item_ids"], row["clusters"])
    for row in pq.read_table(done["multi_interest"].path / "merged.parquet").to_pylist():
        found.setdefault(row["subject_id"], set()).update(one["text"] for one in row["interests"])
    for row in pq.read_table(done["user_clusters"].path / "clusters.parquet").to_pylist():
        for one in row["clusters"]:
            found.setdefault(row["subject_id"], set()).update(one["item_ids"], [one["name"]])
    looked = 0
    for number, user in enumerate(dataset.user_ids.tolist()):
        history = events[offsets[number] : offsets[number + 1]].tolist()
        if len(history) > 1 and history[-1] not in history[:-1]:
            looked += 1
            assert not found[user] & {dataset.item_ids[history[-1]], titles[history[-1]]}
    assert looked > 60


@pytest.mark.slow
def test_killed_while_it_trains_it_goes_on_to_the_same_weights(tmp_path) -> None:
    words = [
        sys.executable,
        "jobs/ldmi.py",
        "demo_ldmi",
        *SMALL,
        "multi_interest.max_epochs=8",
        "multi_interest.patience=8",
    ]
    weights = []
    for how in ("killed", "damaged", "whole"):
        store = tmp_path / how
        if how != "whole":
            driver = subprocess.Popen(
                [*words, f"store={store}"],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            assert driver.stdout is not None
            for line in driver.stdout:
                if "epoch 3/8" in line:
                    break
            os.killpg(driver.pid, 9)
            driver.wait()
            time.sleep(1)
        if how == "damaged":  # every checkpoint, and the list of them
            (listed,) = store.rglob(SNAPSHOT)
            listed.write_bytes(b"")
            for state in listed.parent.glob("checkpoint_*/state.pt"):
                state.write_bytes(state.read_bytes()[: state.stat().st_size // 2])
        done = subprocess.run(
            [*words, f"store={store}"], cwd=ROOT, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert ("going on after epoch" in done.stdout) == (how == "killed")
        assert ("state.pt is cut off" in done.stdout) == (how == "damaged")
        assert ("no checkpoint is whole; training begins again" in done.stdout) == (how == "damaged")
        (file,) = store.glob("multi_interest/*/model.safetensors")
        weights.append(file.read_bytes())
    assert weights[0] == weights[1] == weights[2]


@pytest.mark.slow
def test_a_sweep_searches_it(tmp_path) -> None:
    settings = [*SMALL, "multi_interest.batch_targets=256"]
    lines = ["base: demo_ldmi", "settings:", *(f"  - {json.dumps(one)}" for one in settings)]
    lines += ["target: multi_interest", "search: grid", "space:"]
    lines += ["  multi_interest.alignment.weight: choice(0, 0.1)"]
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text("\n".join(lines) + "\n")
    words = [sys.executable, "jobs/sweep.py", str(sweep), f"store={tmp_path / 'store'}"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 trials: 2 complete" in done.stdout
    (chosen,) = tmp_path.glob("store/sweep/*/chosen.yaml")
    assert (chosen.parent / "sweep.html").is_file()
