"""Bench: the embedding stage on 1, 10 and 50 logical nodes of one machine: does the driver's part per row stay flat?

    python benchmarks/bench_cluster.py [--nodes 1 10 50] [--rows 40960] [--actors 20]

Each node is a raylet of its own with its agents, one CPU and a small object store (``ray.cluster_utils.Cluster``); encoders give zeros and
sleep 0.2 seconds a part of 512 texts, as if a GPU worked. The stage runs over N rows and then over 4 N others. What grows with the rows in
the driver, memory and CPU seconds, is compared per row between N and 4 N, and between one node and the most. No machine of the cluster
shares a disk in principle: parts come back through Ray and the driver writes them, as in a run. About 140 MB a node and 90 MB an actor, so
not every node has an actor by default; how many nodes worked is counted. 50 nodes take 9 GiB, and about 10 minutes on two cores.

Raylets keep cores busy, so many nodes on one machine make a run longer, and a driver that waits longer takes more CPU. One node
with parts so slow that its run is as long tells that apart from what the nodes themselves cost the driver.

Targets are ours. Exit code 1 when one is missed. Figures: docs/SCALE.md.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from common import Target, conclude, family_cpu_seconds, family_memory

from dig_ray.on_ray.session import RayConfig, set_environment

TARGETS: dict[str, Target] = {
    "driver_cpu_per_row_4n_over_n": ("<=", 1.25),
    "driver_memory_per_row_4n_over_n": ("<=", 1.25),
    "driver_cpu_per_row_most_over_one_node": ("<=", 2.0),
    "driver_cpu_per_row_most_over_one_node_as_slow": ("<=", 1.25),
    "driver_memory_most_over_one_node": ("<=", 1.25),
}
PART_ROWS, STORE = 512, 80 << 20


def free_the_work() -> None:
    """Encoders that give zeros after a while, in this process; Ray calls it in every worker that starts."""
    import numpy as np

    from dig_ray.embedding import stage

    def encode(texts: list[str], *rest: Any) -> Any:
        import ray

        node = ray.get_runtime_context().get_node_id()
        (Path(os.environ["BENCH_CLUSTER_NODES"]) / node).touch()
        time.sleep(float(os.environ["BENCH_CLUSTER_SECONDS"]))
        return np.zeros((len(texts), 384), np.float32)

    stage.load_encoder = lambda *args, **kwargs: None  # type: ignore[assignment, return-value]
    stage.encode_batches = encode  # type: ignore[assignment]
    stage.count_tokens = lambda texts, *rest: np.zeros(len(texts), np.int32)


class Highest:
    """The driver's own highest resident memory while the block runs, in bytes."""

    def __enter__(self) -> Highest:
        import psutil

        self._process, self._stop = psutil.Process(), threading.Event()
        self.before = self.bytes = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.02):
            self.bytes = max(self.bytes, self._process.memory_info().rss)


def embed(rows: int, first: int, actors: int, folder: Path) -> dict[str, float]:
    """The stage over ``rows`` texts that no earlier run had; what it took the driver."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from dig_ray.base import Stage
    from dig_ray.embedding.config import TextEmbeddingConfig
    from dig_ray.embedding.stage import embed_items

    place = folder / f"run-{first}"
    (place / "out").mkdir(parents=True)
    numbers = range(first, first + rows)
    titles = [f"tent number {n:09d} for camping in the rain, with poles and pegs" for n in numbers]
    pq.write_table(
        pa.table({"item_id": [f"i{n}" for n in numbers], "title": titles}), place / "items.parquet"
    )
    del titles
    stage = Stage("embedding", "bench", 0, place / "out", str(place / "work"), log=lambda line: None)
    cpu, everything, wall = time.process_time(), family_cpu_seconds(), time.perf_counter()
    with Highest() as highest:
        embed_items(TextEmbeddingConfig(fields=("title",), num_actors=actors), stage, place)
    spent = time.process_time() - cpu
    if pq.read_metadata(place / "out" / "embeddings.parquet").num_rows != rows:
        raise RuntimeError("rows are missing")
    return {
        "rows": rows,
        "seconds": round(time.perf_counter() - wall, 1),
        "driver_cpu_ms_per_1000_rows": round(spent / rows * 1e6, 3),
        "other_cpu_ms_per_1000_rows": round((family_cpu_seconds() - everything - spent) / rows * 1e6, 3),
        "driver_bytes_per_row": round((highest.bytes - highest.before) / rows),
        "driver_peak_mib": round(highest.bytes / (1 << 20)),
    }


def on_cluster(nodes: int, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both sizes on a cluster of so many nodes."""
    set_environment(RayConfig())
    os.environ.update(RAY_enable_worker_prestart="0", RAY_prestart_worker_first_driver="0")
    worked, own = folder / "worked", folder / "ray"
    worked.mkdir()
    own.mkdir()
    # what a cluster notes in Ray's usual folder would stand for the one that others mean
    os.environ.update(BENCH_CLUSTER_NODES=str(worked), RAY_TMPDIR=str(own))
    os.environ["BENCH_CLUSTER_SECONDS"] = str(args.part_seconds)
    import ray
    from ray.cluster_utils import Cluster

    from dig_ray.on_ray.session import quiet_ray_data

    node = {"num_cpus": 1, "object_store_memory": STORE}
    begun = time.perf_counter()
    cluster = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False, "num_cpus": 2})
    try:
        for _ in range(nodes - 1):
            cluster.add_node(wait=False, **node)
        cluster.wait_for_nodes(timeout=300)
        ray.init(
            address=cluster.address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"worker_process_setup_hook": free_the_work},
        )
        quiet_ray_data()
        free_the_work()
        started = time.perf_counter() - begun
        actors = min(nodes, args.actors)
        embed(1_024, 0, actors, folder)  # what is imported and started once is not a cost per row
        out = {
            "n": embed(args.rows, 1_024, actors, folder),
            "4n": embed(4 * args.rows, 1_024 + args.rows, actors, folder),
        }
        out["cluster"] = {
            "nodes": len([one for one in ray.nodes() if one["Alive"]]),
            "nodes_that_worked": len(list(worked.iterdir())),
            "start_seconds": round(started, 1),
            "all_processes_gib": round(family_memory() / (1 << 30), 2),
        }
        return out
    finally:
        ray.shutdown()
        cluster.shutdown()


def summary(found: dict[int, dict[str, Any]], as_slow: dict[str, Any]) -> dict[str, Any]:
    """Ratios with targets, then what each cluster took; ``as_slow`` is the fewest nodes with a run as long as the most had."""
    few, most = found[min(found)], found[max(found)]
    cpu, memory = "driver_cpu_ms_per_1000_rows", "driver_bytes_per_row"
    figures: dict[str, Any] = {
        "driver_cpu_per_row_4n_over_n": max(one["4n"][cpu] / one["n"][cpu] for one in found.values()),
        "driver_memory_per_row_4n_over_n": max(
            one["4n"][memory] / one["n"][memory] for one in found.values()
        ),
        "driver_cpu_per_row_most_over_one_node": most["4n"][cpu] / few["4n"][cpu],
        "driver_cpu_per_row_most_over_one_node_as_slow": most["4n"][cpu] / as_slow["4n"][cpu],
        "driver_memory_most_over_one_node": most["4n"]["driver_peak_mib"] / few["4n"]["driver_peak_mib"],
    }
    for nodes, one in sorted(found.items()):
        figures |= {f"{nodes}_nodes_{name}": row for name, row in one.items()}
    return figures | {"as_slow_4n": as_slow["4n"]}


def measure(nodes: int, args: argparse.Namespace, part_seconds: float) -> dict[str, Any]:
    """``on_cluster`` in a process of its own."""
    given = {"--nodes": nodes, "--rows": args.rows, "--actors": args.actors, "--part-seconds": part_seconds}
    with tempfile.TemporaryDirectory() as scratch:
        sizes = [str(word) for pair in given.items() for word in pair]
        subprocess.run([sys.executable, __file__, "--folder", scratch, *sizes], check=True)
        found: dict[str, Any] = json.loads((Path(scratch) / "found.json").read_text())
    print(f"{nodes} nodes, {part_seconds:.2f} s a part: {found}", flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 10, 50])
    parser.add_argument("--rows", type=int, default=40_960)
    parser.add_argument("--actors", type=int, default=20, help="encoders at most")
    parser.add_argument("--part-seconds", type=float, default=0.2, help="that an encoder takes for 512 texts")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.folder:  # one cluster, in a process of its own
        folder = Path(args.folder)
        (folder / "found.json").write_text(json.dumps(on_cluster(args.nodes[0], args, folder)))
        return 0
    found = {nodes: measure(nodes, args, args.part_seconds) for nodes in args.nodes}
    few, longer = min(found), found[max(found)]["4n"]["seconds"] - found[min(found)]["4n"]["seconds"]
    parts_each = 4 * args.rows / PART_ROWS / min(few, args.actors)
    as_slow = measure(few, args, args.part_seconds + max(0.0, longer) / parts_each)
    return conclude("cluster", summary(found, as_slow), TARGETS)


if __name__ == "__main__":
    sys.exit(main())
