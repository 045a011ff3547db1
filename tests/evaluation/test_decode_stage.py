"""Recommending with a policy on Ray Data: every test user once, the same bytes every time, killed or not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dig_ray.base import Stage
from dig_ray.catalog.dataset import Dataset
from dig_ray.errors import UserError
from dig_ray.evaluation import stage as scoring
from dig_ray.evaluation.config import EvaluationConfig
from dig_ray.evaluation.decode_stage import decode_lists
from dig_ray.evaluation.policy_decoder import Decoder
from dig_ray.semantic_ids.sid_catalog import SidCatalog

N_ITEMS = 40
CONFIG = EvaluationConfig(ks=(1, 5, 10), beam=15, batch_size=4, n_bootstrap=50, num_cpus=0.5)
LISTS = ("recommendations_policy_seen.parquet", "recommendations_policy_unseen.parquet")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Catalogue, Semantic IDs and an untrained policy on disk, as the stages before leave them."""
    from dig_ray.recommender.backbone import build_policy, build_tokenizer, write_about
    from dig_ray.recommender.config import DecoderConfig, RecommenderConfig

    root = tmp_path_factory.mktemp("decode")
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 14, 60)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    split = np.zeros(offsets[-1], np.int8)
    split[offsets[1:] - 2], split[offsets[1:] - 1] = 1, 2
    ids = [f"i{i}" for i in range(N_ITEMS)]
    dataset = Dataset(
        items=pa.table({"item_id": ids}),
        user_ids=np.array([f"u{i:02d}" for i in range(len(lengths))]),
        offsets=offsets,
        events=rng.integers(0, N_ITEMS, offsets[-1]).astype(np.int32),
        split=split,
        split_name="leave_last_out",
    )
    dataset.save(root / "catalog")
    codes = np.stack([rng.integers(0, 5, N_ITEMS), rng.integers(0, 5, N_ITEMS)], axis=1)
    sids = SidCatalog.from_codes(ids, codes, (5, 5))
    (root / "semantic_ids").mkdir()
    sids.save(root / "semantic_ids" / "semantic_ids.parquet")
    config = RecommenderConfig(
        decoder=DecoderConfig(hidden_size=32, num_layers=2, num_heads=2, ffn_size=64), max_history=6
    )
    tokenizer = build_tokenizer(config, sids, [])
    policy = build_policy(config, sids, tokenizer, seed=0)
    policy.model.save_pretrained(root / "policy")
    tokenizer.save_pretrained(root / "policy")
    about = {
        "sid_fingerprint": sids.fingerprint,
        "n_sid": sids.n_tokens,
        "first_sid_token": sids.token_strings[0],
        "normalizer": "trie",
        "max_history": 6,
        "levels": 2,
        "base_model": None,
        "base_revision": None,
    }
    write_about(root / "policy", about)
    paths = (root / "catalog", root / "semantic_ids", root / "policy")
    return SimpleNamespace(root=root, dataset=dataset, sids=sids, paths=paths)


def _stage(root: Path) -> Stage:
    (root / "out").mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    stage = Stage("evaluation", "f" * 16, 0, root / "out", str(root / "work"), log=lines.append)
    stage.lines = lines  # type: ignore[attr-defined]
    return stage


@pytest.fixture(scope="module")
def done(world, tmp_path_factory):
    """One whole run."""
    import ray

    ours = not ray.is_initialized()
    if ours:
        ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    stage = _stage(tmp_path_factory.mktemp("done"))
    decode_lists(CONFIG, stage, *world.paths)
    yield stage
    if ours:
        ray.shutdown()


def test_every_test_user_has_one_list_of_real_items(done, world):
    cases = world.dataset.cases("test")
    for file in LISTS:
        table = pq.read_table(done.out / file)
        assert table.num_rows == len(cases) == done.stats["rows"]
        assert table["user_id"].to_pylist() == world.dataset.user_ids[cases.user].tolist()
        for row, case in enumerate(range(len(cases))):
            items = table["item_ids"][row].as_py()
            assert len(set(items)) == len(items) <= 10
            assert set(items) <= set(world.dataset.item_ids.tolist())
            scores = table["scores"][row].as_py()
            assert scores == sorted(scores, reverse=True)
            seen = world.dataset.events[cases.start[case] : cases.end[case]]
            if "unseen" in file:
                assert not {f"i{i}" for i in seen} & set(items)
    figures = json.loads((done.out / "decoding.json").read_text())
    assert figures["beam"] == 15 and figures["short_lists"] == 0
    assert 0 <= figures["unconstrained_invalid_rate"] <= 1


def test_lists_are_those_of_decoding_each_user_alone(done, world):
    decoder = Decoder.load(world.paths[2], world.sids)
    cases = world.dataset.cases("test")
    seen = pq.read_table(done.out / LISTS[0])["item_ids"].to_pylist()
    unseen = pq.read_table(done.out / LISTS[1])["item_ids"].to_pylist()
    for case in range(0, len(cases), 7):
        history = world.dataset.events[cases.start[case] : cases.end[case]]
        items, _, without, _ = decoder.recommend([history], beam=15, k=10)
        assert [f"i{i}" for i in items[0] if i >= 0] == seen[case]
        assert [f"i{i}" for i in without[0] if i >= 0] == unseen[case]


def test_free_decoding_is_looked_at_for_the_users_asked_for(done, world):
    decoder = Decoder.load(world.paths[2], world.sids)
    cases = world.dataset.cases("test")  # fewer than are looked at, so all of them
    bad = [
        decoder.free_invalid([world.dataset.events[s:e]], 10)
        for s, e in zip(cases.start, cases.end, strict=True)
    ]
    assert done.stats["unconstrained_invalid_rate"] == pytest.approx(float(np.mean(bad)), abs=1e-3)


def test_lists_cut_short_by_seen_items_are_counted(world, tmp_path):
    stage = _stage(tmp_path)
    narrow = CONFIG.model_copy(update={"beam": 10, "unconstrained": False})
    decode_lists(narrow, stage, *world.paths)
    lists = [pq.read_table(stage.out / file)["item_ids"].to_pylist() for file in LISTS]
    short = sum(len(a) < 10 or len(b) < 10 for a, b in zip(*lists, strict=True))
    assert json.loads((stage.out / "decoding.json").read_text())["short_lists"] == short
    assert (short > 0) == any("raise evaluation.beam" in line for line in stage.lines)


def test_another_run_with_other_actors_gives_the_same_bytes(done, world, tmp_path):
    stage = _stage(tmp_path)
    decode_lists(CONFIG.model_copy(update={"num_actors": 2, "unconstrained": False}), stage, *world.paths)
    for file in LISTS:
        assert (stage.out / file).read_bytes() == (done.out / file).read_bytes()
    assert "unconstrained_invalid_rate" not in json.loads((stage.out / "decoding.json").read_text())


SCRIPT = """
import sys
from pathlib import Path
from dig_ray.base import Stage
from dig_ray.evaluation.config import EvaluationConfig
from dig_ray.evaluation.decode_stage import decode_lists

if __name__ == "__main__":
    root, config, *paths = sys.argv[1:]
    stage = Stage("evaluation", "f" * 16, 0, Path(root) / "out", str(Path(root) / "work"))
    decode_lists(EvaluationConfig.model_validate_json(config), stage, *map(Path, paths))
"""


def test_killed_while_decoding_the_next_run_does_only_the_rest(done, world, tmp_path):
    stage = _stage(tmp_path)
    (tmp_path / "decode.py").write_text(SCRIPT)
    command = [sys.executable, tmp_path / "decode.py", tmp_path, CONFIG.model_dump_json(), *world.paths]
    process = subprocess.Popen(
        [str(part) for part in command],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        until = time.monotonic() + 600
        while len(list((tmp_path / "work").glob("decoded-*.parquet"))) < 2:
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.005)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    kept = sorted((tmp_path / "work").glob("decoded-*.parquet"))
    assert not list(stage.out.iterdir())
    kept[0].write_bytes(kept[0].read_bytes()[:100])  # a part that does not read back is decoded again
    times = {p.name: p.stat().st_mtime_ns for p in kept}
    decode_lists(CONFIG, stage, *world.paths)
    assert any("users were done before" in line for line in stage.lines)
    for part in kept[1:]:
        assert part.stat().st_mtime_ns == times[part.name]
    assert kept[0].stat().st_mtime_ns != times[kept[0].name]
    for file in LISTS:
        assert (stage.out / file).read_bytes() == (done.out / file).read_bytes()


def test_scoring_reads_the_lists_with_split_name_and_hash(done, world, tmp_path):
    stage = _stage(tmp_path)
    scoring.score_lists(CONFIG, stage, world.paths[0], [done.out])
    report = json.loads((stage.out / "metrics.json").read_text())
    assert report["split_name"] == "leave_last_out" and report["split_hash"] == world.dataset.split_hash
    assert report["test_users"] == 60 and set(report["results"]["policy"]) == {"seen", "unseen"}


def test_a_policy_of_other_semantic_ids_is_refused(world, tmp_path):
    codes = world.sids.codes[::-1]
    other = SidCatalog.from_codes(world.sids.item_ids, codes, world.sids.sizes)
    other.save(tmp_path / "semantic_ids.parquet")
    with pytest.raises(UserError, match="was trained on Semantic IDs"):
        decode_lists(CONFIG, _stage(tmp_path), world.paths[0], tmp_path, world.paths[2])


def test_a_damaged_policy_is_said_before_any_decoding(world, tmp_path):
    import shutil

    shutil.copytree(world.paths[2], tmp_path / "policy")
    weights = tmp_path / "policy" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="the policy's files cannot be read"):
        decode_lists(CONFIG, _stage(tmp_path), *world.paths[:2], tmp_path / "policy")


def test_an_empty_test_split_is_refused(world, tmp_path):
    dataset = world.dataset
    Dataset(
        dataset.items,
        dataset.user_ids,
        dataset.offsets,
        dataset.events,
        np.minimum(dataset.split, 1),
        split_name="x",
    ).save(tmp_path / "catalog")
    with pytest.raises(UserError, match="the test split is empty"):
        decode_lists(CONFIG, _stage(tmp_path), tmp_path / "catalog", *world.paths[1:])
