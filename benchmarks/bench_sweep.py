"""Bench: what a sweep costs beside its training, against a bare loop over the same configs.

    python benchmarks/bench_sweep.py [--trials 8] [--epochs 40]

RQ-VAEs of the demo world with 2,000 items, two at a time on one thread each: as a sweep on Ray Tune, from nothing to its page, and as two
processes that have loaded everything and call one trial after the other. Both find the shared stages made. A trial's start is from the end
of the one before it to the end of its own first epoch. About 6 minutes on two idle cores. Exit code 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common import conclude

CONFIGS = Path(__file__).resolve().parents[1] / "jobs" / "configs"
AT_ONCE = 2
TARGETS = {"overhead": ("<=", 0.15), "same_codes": (">=", 1.0)}


def the_sweep(store: str, trials: int, epochs: int) -> Any:
    """Its config: one RQ-VAE for each of so many weights of the commitment."""
    from dig_ray.experiments.sweeps.read_sweep import read_sweep

    weights = ", ".join(f"{0.05 * (number + 1):.2f}" for number in range(trials))
    settings = [
        "catalog.demo={n_items: 2000, n_users: 2000}",
        f"semantic_ids={{method: rqvae, codebook_size: 64, rqvae: {{epochs: {epochs}}}}}",
        "baselines.run=[]",
        f"store={store}",
        f"semantic_ids.rqvae.commitment=choice({weights})",
        f"max_concurrent={AT_ONCE}",
        "include_base=false",
    ]
    return read_sweep("demo", settings, CONFIGS, target="semantic_ids", search="grid")


def loop(store: str, trials: int, epochs: int, part: int = 0, parts: int = 1) -> dict[str, Any]:
    """Plain calls of every ``parts``-th trial, one after the other."""
    import torch

    from dig_ray.experiments.sweeps.run_trial import run_point
    from dig_ray.experiments.sweeps.space import parse_range
    from dig_ray.experiments.sweeps.trials import Trials

    sweep = the_sweep(store, trials, epochs)
    runs = Trials.of(sweep, CONFIGS)
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // AT_ONCE))
    ((key, text),) = sweep.space.items()
    figures, starts = {}, []
    first: list[float]
    begun = time.perf_counter()
    for value in parse_range(key, text).values[part::parts]:
        ended, first = time.perf_counter(), []

        def report(_: Mapping[str, float], first: list[float] = first) -> None:
            first.append(time.perf_counter())

        found, _ = run_point(runs, {key: value}, 0, lambda _: None, report)
        starts.append(first[0] - ended)
        figures[str(value)] = found["signal"]
    return {"seconds": time.perf_counter() - begun, "starts": starts, "figures": figures}


def loops(*args: Any) -> dict[str, Any]:
    """``loop`` in processes of their own."""
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "--loop", json.dumps([*args, part, AT_ONCE])],
            stdout=subprocess.PIPE,
            text=True,
        )
        for part in range(AT_ONCE)
    ]
    said = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("a loop failed")
    found = [json.loads(text.splitlines()[-1]) for text in said]
    return {
        "seconds": max(one["seconds"] for one in found),
        "starts": [start for one in found for start in one["starts"]],
        "figures": {key: value for one in found for key, value in one["figures"].items()},
    }


def tuned(store: str, trials: int, epochs: int) -> dict[str, Any]:
    """The sweep, as its job runs it."""
    import dig_ray.experiments.sweeps.tune_search as tune
    from dig_ray.experiments.sweeps.run_sweep import run_sweep

    grids = []
    search = tune.search

    def kept(*args: Any, **more: Any) -> Any:
        grids.append(search(*args, **more))
        return grids[-1]

    tune.search = kept
    wall, begun = time.time(), time.perf_counter()
    artifact = run_sweep(the_sweep(store, trials, epochs), CONFIGS, lambda line: print(line, file=sys.stderr))
    seconds = time.perf_counter() - begun
    times = sorted(result.metrics_dataframe["timestamp"].tolist() for result in grids[0])
    ends = sorted([*[wall] * AT_ONCE, *(one[-1] for one in times)])
    report = json.loads((artifact.path / "sweep.json").read_text())
    figures = {str(next(iter(row["point"].values()))): row["figures"]["signal"] for row in report["trials"]}
    starts = [one[0] - end for one, end in zip(times, ends, strict=False)]
    return {"seconds": seconds, "starts": starts, "figures": figures}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--loop", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.loop:
        print(json.dumps(loop(*args.loop)))
        return 0
    # as Ray tells its workers, before anything is loaded that reads it: other threads round otherwise
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // AT_ONCE)))
    with tempfile.TemporaryDirectory() as folder:
        ours, plain = f"{folder}/sweep", f"{folder}/loop"
        for store in (ours, plain):  # the shared stages, and what a first call loads
            print(f"{store}: shared stages", flush=True)
            loop(store, 1, 1)
        bare = loops(plain, args.trials, args.epochs)
        print(f"loop: {bare['seconds']:.1f} s", flush=True)
        sweep = tuned(ours, args.trials, args.epochs)
        print(f"sweep: {sweep['seconds']:.1f} s", flush=True)
    figures = {
        "seconds": {"sweep": round(sweep["seconds"], 1), "loop": round(bare["seconds"], 1)},
        "overhead": round(1 - bare["seconds"] / sweep["seconds"], 4),
        "first_start_s": {"sweep": round(sweep["starts"][0], 2), "loop": round(bare["starts"][0], 2)},
        "other_starts_s": {
            "sweep": round(statistics.median(sweep["starts"][AT_ONCE:]), 2),
            "loop": round(statistics.median(bare["starts"][AT_ONCE:]), 2),
        },
        "same_codes": float(sweep["figures"] == bare["figures"]),
        "largest_difference": max(
            abs(sweep["figures"][key] - value) for key, value in bare["figures"].items()
        ),
    }
    return conclude("sweep", figures, TARGETS)


if __name__ == "__main__":
    sys.exit(main())
