"""Bench: a generated catalogue of 1,000,000 items and 5,000,000 interactions through the real stages.

    python benchmarks/bench_scale.py [--items 1000000] [--interactions 5000000] [--levels 4] [--users 512] [--folder DIR]

Catalogue, vectors brought along, Semantic IDs, prefix table, training documents and constrained decoding with an untrained policy, each in
a process of its own, so that its seconds, CPU seconds and peak memory are its own (the import of its libraries is in them). Popularity is
skewed, histories differ in length, vectors lie in clusters of clusters; everything comes from one seed. Targets are ours: about three
times what it took when they were set, in CPU seconds, which do not count the waiting for other work on the machine. Figures and what
they were taken on: docs/SCALE.md. Two minutes on two cores, 1 GB of disk; exit code 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import Target, conclude

DIMENSIONS, SIZE, BEAM, BATCH, LATEST = 64, 256, 20, 32, 20
WORDS = (
    "tent",
    "lamp",
    "kettle",
    "boot",
    "rope",
    "stove",
    "jacket",
    "pan",
    "chair",
    "rack",
    "mug",
    "axe",
    "net",
    "oar",
)
TARGETS: dict[str, Target] = {  # for the sizes that are the default
    "cpu_seconds_of_all_stages": ("<=", 300.0),
    "highest_peak_gib": ("<=", 6.0),
    "prefix_table_bytes_per_item": ("<=", 32.0),
    "invalid_items": ("<=", 0.0),
}


# --- the catalogue ---------------------------------------------------------------------------------------


def generate(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Write items.parquet, clicks.parquet and vectors.parquet; about five events a user, at least three, items by a power law."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    items, interactions = args.items, args.interactions
    rng = np.random.default_rng(0)
    number = pa.array(np.arange(items)).cast(pa.string())
    words = pa.array(WORDS)

    def word() -> pa.Array:
        return words.take(pa.array(rng.integers(0, len(WORDS), items)))

    def joined(*parts: Any, separator: str = " ") -> pa.Array:
        return pc.binary_join_element_wise(*parts, separator)

    ids = joined("I", number, separator="")
    category = joined(word(), word(), separator="/")
    table = pa.table(
        {
            "item_id": ids,
            "title": joined(word(), word(), number),
            "brand": joined("brand", word()),
            "description": joined(
                "a", word(), "for", word(), "and", word(), "with", word(), "beside", word()
            ),
            "categories": pa.ListArray.from_arrays(pa.array(np.arange(items + 1, dtype=np.int32)), category),
            "price": rng.lognormal(3.0, 1.0, items).round(2),
        }
    )
    pq.write_table(table, folder / "items.parquet")
    users = max(1, interactions // 5)
    lengths = np.full(users, 3)
    lengths += np.bincount(rng.integers(0, users, interactions - 3 * users), minlength=users)
    user = np.repeat(np.arange(users), lengths)
    rank = (items * rng.random(interactions) ** 3).astype(
        np.int64
    )  # density of a rank falls as its power -2/3
    clicks = pa.table(
        {
            "user_id": joined("U", pa.array(user).cast(pa.string()), separator=""),
            "item_id": ids.take(pa.array(rng.permutation(items)[rank])),
            "timestamp": 1_600_000_000 + np.arange(interactions) * 7,
        }
    ).take(pa.array(rng.permutation(interactions)))
    pq.write_table(clicks, folder / "clicks.parquet")
    centre = rng.standard_normal((256, DIMENSIONS), dtype=np.float32)
    finer = rng.standard_normal((16_384, DIMENSIONS), dtype=np.float32)
    x = rng.standard_normal((items, DIMENSIONS), dtype=np.float32)
    x *= 0.35
    x += centre[rng.integers(0, 256, items)]
    x += 0.6 * finer[rng.integers(0, 16_384, items)]
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), DIMENSIONS)
    pq.write_table(pa.table({"item_id": ids, "vector": flat}), folder / "vectors.parquet", compression="none")
    return {"users": users}


# --- the stages, each in its own process -----------------------------------------------------------------


def _stage(name: str, folder: Path) -> Any:
    from dig_ray.base import Stage

    out = folder / name
    out.mkdir(parents=True, exist_ok=True)
    return Stage(
        name, "bench", 0, out, str(folder / f"{name}-work"), log=lambda line: print(line, flush=True)
    )


def catalog(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The catalogue stage on plain tables: read, clean, number, sort, split, count, save."""
    from dig_ray.catalog.config import CatalogConfig
    from dig_ray.catalog.stage import make_catalog as run

    stage = _stage("catalog", folder)
    config = CatalogConfig.model_validate(
        {
            "source": "table",
            "items": {"path": str(folder / "items.parquet")},
            "interactions": {"path": str(folder / "clicks.parquet")},
        }
    )
    run(config, stage)
    return {key: stage.stats[key] for key in ("items", "users", "interactions", "test_cases")}


def embedding(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The embedding stage with vectors brought along."""
    from dig_ray.embedding.config import TextEmbeddingConfig
    from dig_ray.embedding.stage import embed_items

    stage = _stage("embedding", folder)
    embed_items(TextEmbeddingConfig(path=str(folder / "vectors.parquet")), stage, folder / "catalog")
    return {"dimensions": stage.stats["dimensions"]}


def semantic_ids(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The semantic_ids stage: residual k-means, suffixes, the quality report and its picture."""
    from dig_ray.semantic_ids.config import SemanticIdConfig
    from dig_ray.semantic_ids.stage import make_semantic_ids

    stage = _stage("semantic_ids", folder)
    config = SemanticIdConfig(levels=args.levels, codebook_size=min(SIZE, args.items // 8))
    make_semantic_ids(config, stage, folder / "embedding" / "embeddings.parquet", folder / "catalog")
    return {"collision_rate": stage.stats["collisions"]["collision_rate"], "tokens": stage.stats["n_tokens"]}


def prefix_table(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The table of all prefixes, from the published SIDs."""
    from dig_ray.semantic_ids.prefix_table import build_prefix_table
    from dig_ray.semantic_ids.sid_catalog import SidCatalog

    begun = time.process_time()
    sids = SidCatalog.load(folder / "semantic_ids" / "semantic_ids.parquet")
    loaded = time.process_time()
    table = build_prefix_table(sids.codes, sids.suffix, sids.sizes, sids.n_suffix)
    return {
        "load_cpu_seconds": loaded - begun,
        "build_cpu_seconds": time.process_time() - loaded,
        "bytes": table.nbytes,
        "bytes_per_item": table.nbytes / table.n_items,
    }


def documents(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """One epoch of training documents, packed into rows."""
    import numpy as np

    from dig_ray.catalog.dataset import Dataset
    from dig_ray.recommender.backbone import BOS, EOS, build_tokenizer, token_id
    from dig_ray.recommender.config import RecommenderConfig
    from dig_ray.recommender.packing import pack
    from dig_ray.recommender.tasks import TaskInputs, build_documents
    from dig_ray.semantic_ids.sid_catalog import SidCatalog

    begun = time.process_time()
    dataset = Dataset.load(folder / "catalog")
    loaded = time.process_time()
    sids = SidCatalog.load(folder / "semantic_ids" / "semantic_ids.parquet")
    config = RecommenderConfig(max_history=LATEST)
    tokenizer = build_tokenizer(config, sids, [])
    start, bos, eos = (token_id(tokenizer, token) for token in (sids.token_strings[0], BOS, EOS))
    inputs = TaskInputs(dataset, sids, tokenizer, config, start, bos=bos, eos=eos)
    made = build_documents(inputs)
    rows = pack(np.diff(made.offsets), 256)
    return {
        "load_dataset_cpu_seconds": loaded - begun,
        "documents": len(made),
        "tokens": int(made.offsets[-1]),
        "rows": len(rows),
    }


def decoding(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Constrained beam search of an untrained policy for evenly spaced test users, seen items allowed and left out."""
    import numpy as np

    from dig_ray.catalog.dataset import Dataset
    from dig_ray.evaluation.policy_decoder import Decoder
    from dig_ray.numerics.subset import evenly_spaced
    from dig_ray.recommender.backbone import build_policy, build_tokenizer
    from dig_ray.recommender.config import RecommenderConfig
    from dig_ray.semantic_ids.prefix_table import build_prefix_table
    from dig_ray.semantic_ids.sid_catalog import SidCatalog

    dataset = Dataset.load(folder / "catalog")
    sids = SidCatalog.load(folder / "semantic_ids" / "semantic_ids.parquet")
    config = RecommenderConfig(max_history=LATEST)
    policy = build_policy(config, sids, build_tokenizer(config, sids, []), seed=0)
    policy.model.eval()
    table = build_prefix_table(sids.codes, sids.suffix, sids.sizes, sids.n_suffix)
    decoder = Decoder(
        policy, sids, table, {"max_history": LATEST, "normalizer": "trie", "levels": sids.levels}
    )
    cases = dataset.cases("test")
    chosen = np.arange(len(cases))[evenly_spaced(len(cases), args.users)]
    histories = [dataset.events[int(cases.start[c]) : int(cases.end[c])] for c in chosen]
    histories.sort(key=len)
    decoder.recommend(histories[:BATCH], BEAM, 10)  # the first call packs the weights
    begun, wall, wrong = time.process_time(), time.perf_counter(), 0
    for start in range(0, len(histories), BATCH):
        some = histories[start : start + BATCH]
        seen, _, unseen, _ = decoder.recommend(some, BEAM, 10)
        for row, history in enumerate(some):
            wrong += int((seen[row] >= dataset.n_items).sum()) + int(np.isin(unseen[row], history).sum())
            wrong += len(seen[row]) - len(np.unique(seen[row]))
    spent = (time.process_time() - begun, time.perf_counter() - wall)
    begun = time.process_time()
    decoder.free_invalid(histories[:BATCH], 10)
    return {
        "users": len(histories),
        "cpu_ms_per_user": spent[0] / len(histories) * 1e3,
        "wall_ms_per_user": spent[1] / len(histories) * 1e3,
        "free_cpu_ms_per_user": (time.process_time() - begun) / min(BATCH, len(histories)) * 1e3,
        "invalid_items": wrong,
        "parameters": sum(p.numel() for p in policy.model.parameters()),
    }


STEPS: dict[str, Callable[[Path, argparse.Namespace], dict[str, Any]]] = {
    "generate": generate,
    "catalog": catalog,
    "embedding": embedding,
    "semantic_ids": semantic_ids,
    "prefix_table": prefix_table,
    "documents": documents,
    "decoding": decoding,
}


def measured(step: str, folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """Run one step in a new process: what it says, its wall and CPU seconds, its peak memory and what it left on disk."""
    answer = folder / f"{step}.json"
    sizes = ("items", "interactions", "levels", "users")
    command = [sys.executable, __file__, "--folder", str(folder), "--step", step]
    for name in sizes:
        command += [f"--{name}", str(getattr(args, name))]
    begun = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"bench_scale: the step {step} ended with exit code {process.returncode}")
    out = folder / step
    return {
        "seconds": round(time.perf_counter() - begun, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_gib": round(usage.ru_maxrss / (1 << 20), 2),
        "artifact_mb": round(sum(f.stat().st_size for f in out.rglob("*") if f.is_file()) / 1e6, 1)
        if out.is_dir()
        else 0.0,
        **{key: round(value, 4) for key, value in json.loads(answer.read_text()).items()},
    }


def summary(steps: dict[str, dict[str, float]]) -> dict[str, Any]:
    """The figures with targets, then every step in a row."""
    return {
        "cpu_seconds_of_all_stages": sum(step["cpu_seconds"] for step in steps.values()),
        "seconds_of_all_stages": sum(step["seconds"] for step in steps.values()),
        "highest_peak_gib": max(step["peak_gib"] for step in steps.values()),
        "prefix_table_bytes_per_item": steps["prefix_table"]["bytes_per_item"],
        "invalid_items": steps["decoding"]["invalid_items"],
        **steps,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--interactions", type=int, default=5_000_000)
    parser.add_argument("--levels", type=int, default=4)
    parser.add_argument("--users", type=int, default=512, help="users that are decoded")
    parser.add_argument("--folder", help="keep the tables and artifacts there")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        folder = Path(args.folder)
        found = STEPS[args.step](folder, args)
        (folder / f"{args.step}.json").write_text(json.dumps(found))
        return 0
    if args.items < 100 or args.interactions < 300:
        parser.error("--items must be at least 100 and --interactions at least 300")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(args.folder or scratch)
        folder.mkdir(parents=True, exist_ok=True)
        measured("generate", folder, args)
        steps = {}
        for name in list(STEPS)[1:]:
            steps[name] = measured(name, folder, args)
            print(f"{name}: {steps[name]}", flush=True)
    return conclude("scale", summary(steps), TARGETS)


if __name__ == "__main__":
    sys.exit(main())
