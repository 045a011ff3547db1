"""Bench: what a sweep costs beside its training, against a bare loop over the same configs.

    python jobs/bench_sweep.py [--trials 6] [--epochs 200]

RQ-VAEs of the demo world with 2,000 items, one at a time on all threads: as a sweep on Ray Tune, from nothing to its page, and as a loop of
plain calls in one process that has loaded everything. Both find the shared stages made. A trial's start is from the end of the one before
to the end of its own first epoch. About 6 minutes; the machine should be idle. Exit code 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dig_ray.bench import conclude

CONFIGS = Path(__file__).parent / "configs"
TARGETS = {"overhead": ("<=", 0.15), "same_codes": (">=", 1.0)}


def the_sweep(store: str, trials: int, epochs: int) -> Any:
    """Its config: one RQ-VAE for each of so many weights of the commitment."""
    from dig_ray.sweeps.read import read_sweep

    weights = ", ".join(f"{0.05 * (number + 1):.2f}" for number in range(trials))
    settings = [
        "catalog.demo={n_items: 2000, n_users: 2000}",
        f"semantic_ids={{method: rqvae, codebook_size: 64, rqvae: {{epochs: {epochs}}}}}",
        "baselines.run=[]",
        f"store={store}",
        f"semantic_ids.rqvae.commitment=choice({weights})",
        "max_concurrent=1",
        "include_base=false",
    ]
    return read_sweep("demo", settings, CONFIGS, target="semantic_ids", search="grid")


def loop(store: str, trials: int, epochs: int) -> dict[str, Any]:
    """Plain calls, one after the other."""
    from dig_ray.sweeps.space import parse_range
    from dig_ray.sweeps.trial import Trials, run_point

    sweep = the_sweep(store, trials, epochs)
    runs = Trials.of(sweep, CONFIGS)
    ((key, text),) = sweep.space.items()
    figures, starts = {}, []
    begun = time.perf_counter()
    for value in parse_range(key, text).values:
        ended, first = time.perf_counter(), []

        def report(_: Mapping[str, float], first: list[float] = first) -> None:
            first.append(time.perf_counter())

        found, _ = run_point(runs, {key: value}, 0, lambda _: None, report)
        starts.append(first[0] - ended)
        figures[str(value)] = found["signal"]
    return {"seconds": time.perf_counter() - begun, "starts": starts, "figures": figures}


def tuned(store: str, trials: int, epochs: int) -> dict[str, Any]:
    """The sweep, as its job runs it."""
    import dig_ray.sweeps.search as tune
    from dig_ray.sweeps.run import run_sweep

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
    ends = [wall, *(one[-1] for one in times)]
    report = json.loads((artifact.path / "sweep.json").read_text())
    figures = {str(next(iter(row["point"].values()))): row["figures"]["signal"] for row in report["trials"]}
    starts = [one[0] - end for one, end in zip(times, ends, strict=False)]
    return {"seconds": seconds, "starts": starts, "figures": figures}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=200)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ours, plain = f"{folder}/sweep", f"{folder}/loop"
        for store in (ours, plain):  # the shared stages, and what a first call loads
            print(f"{store}: shared stages", flush=True)
            loop(store, 1, 1)
        bare = loop(plain, args.trials, args.epochs)
        print(f"loop: {bare['seconds']:.1f} s", flush=True)
        sweep = tuned(ours, args.trials, args.epochs)
        print(f"sweep: {sweep['seconds']:.1f} s", flush=True)
    figures = {
        "seconds": {"sweep": round(sweep["seconds"], 1), "loop": round(bare["seconds"], 1)},
        "overhead": round(1 - bare["seconds"] / sweep["seconds"], 4),
        "first_start_s": {"sweep": round(sweep["starts"][0], 2), "loop": round(bare["starts"][0], 2)},
        "other_starts_s": {
            "sweep": round(statistics.median(sweep["starts"][1:]), 2),
            "loop": round(statistics.median(bare["starts"][1:]), 2),
        },
        "same_codes": float(sweep["figures"] == bare["figures"]),
    }
    return conclude("sweep", figures, TARGETS)


if __name__ == "__main__":
    sys.exit(main())
