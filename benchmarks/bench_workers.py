"""Bench: what a second worker brings, where a worker is one process with one thread, on two cores.

    python benchmarks/bench_workers.py [--scale 1.0] [--only mining,embedding,evaluation]

Mining asks a local endpoint that replays an answer after it has thought for a while, 8 requests in flight a worker. Embedding runs the
demo's text encoder over texts of 100 words. Evaluation decodes the catalogue's lists with a policy of random weights. Each is run
with one worker and with two, by turns, twice. The clock runs from the first answer to the last one: at the endpoint, and where parts come
back from the pool. A worker that starts late costs its side what it costs a user. Beside it stands the ratio of whole times, starting
included, which says more about the number of rows.

Two cores, about 5 minutes. Exit code 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from bench_mining import rate, requests_of, serve
from common import Target, conclude

from dig_ray.on_ray.session import RayConfig, set_environment

STAGES = ("mining", "embedding", "evaluation")
TARGETS: dict[str, Target] = {f"{stage}_two_over_one": (">=", 1.7) for stage in STAGES}
ROWS = {"mining": 1_200, "embedding": 1_536, "evaluation": 3_072}
THINKS = 0.2  # seconds
IN_FLIGHT = 8
ITEMS = 10_000
Run = Callable[[int, int], tuple[int, float]]
"""(rows, workers) -> rows done, and how many a second once the first had come."""


def clocked(parts: Iterable[int]) -> tuple[int, float]:
    """Rows of all parts, and those after the first part by the seconds after it."""
    first, done, begun = 0, 0, 0.0
    for rows in parts:
        if not first:
            first, begun = rows, time.perf_counter()
        done += rows
    return done, (done - first) / (time.perf_counter() - begun)


def mining(folder: Path, url: str) -> Run:
    from dig_ray.mining.answer_log import AnswerLog
    from dig_ray.mining.config import OpenAIConfig
    from dig_ray.mining.engines import openai
    from dig_ray.mining.engines.contract import Job
    from dig_ray.mining.prompts import load_prompt

    places = iter(range(1_000_000))

    def run(rows: int, workers: int) -> tuple[int, float]:
        miner = OpenAIConfig(
            name="replay",
            model="m",
            base_url=f"{url}/v1",
            api_key_env=None,
            max_in_flight=IN_FLIGHT * workers,
            actors=workers,
        )
        place = folder / f"mining-{next(places)}"
        prompt = load_prompt("descriptors").system
        job = Job(miner, "descriptors", prompt, 8, str(place / "log"), str(place / "marks"))
        openai.run(job, requests_of(rows))
        return AnswerLog(job.log).read().num_rows, rate(url)

    return run


def embedding(folder: Path, url: str) -> Run:
    from dig_ray.embedding import stage
    from dig_ray.embedding.config import TextEmbeddingConfig

    words = "a tent that keeps the rain out of a long night in the hills " * 7

    def run(rows: int, workers: int) -> tuple[int, float]:
        config = TextEmbeddingConfig(num_actors=workers, rows_per_part=32)
        texts = [f"number {n} {words}" for n in range(rows)]
        parts = [texts[start : start + 32] for start in range(0, rows, 32)]
        found = stage._encode_on_ray(config, parts, list(range(len(parts))))
        return clocked(len(vectors) for _, vectors, _, _ in found)

    return run


def untrained(sids: Any) -> Any:
    """A decoder of the default policy, not trained: the same arithmetic."""
    from dig_ray.evaluation.policy_decoder import Decoder
    from dig_ray.recommender.backbone import build_policy, build_tokenizer
    from dig_ray.recommender.config import RecommenderConfig
    from dig_ray.semantic_ids.prefix_table import build_prefix_table

    config = RecommenderConfig()
    policy = build_policy(config, sids, build_tokenizer(config, sids, []), seed=0)
    policy.model.eval()
    table = build_prefix_table(sids.codes, sids.suffix, sids.sizes, sids.n_suffix)
    about = {"max_history": config.max_history, "normalizer": "trie", "levels": sids.levels}
    return Decoder(policy, sids, table, about)


def prepare_worker() -> None:
    """Ray calls it in every worker that starts: torch computes on one thread whatever it is asked for, and policies need no file."""
    import torch

    from dig_ray.evaluation.policy_decoder import Decoder

    set_threads = torch.set_num_threads
    torch.set_num_threads = lambda nthreads: set_threads(1)
    Decoder.load = staticmethod(lambda folder, sids, *_, **__: untrained(sids))  # type: ignore[method-assign, assignment]


def evaluation(folder: Path, url: str) -> Run:
    import numpy as np
    import pyarrow as pa

    from dig_ray.catalog.dataset import Dataset
    from dig_ray.evaluation import decode_on_ray
    from dig_ray.evaluation.config import EvaluationConfig
    from dig_ray.semantic_ids.sid_catalog import SidCatalog

    rng = np.random.default_rng(0)
    ids = [f"i{n}" for n in range(ITEMS)]
    codes = rng.integers(0, 256, (ITEMS, 3)).astype(np.int32)
    sids = SidCatalog.from_codes(ids, codes, (256, 256, 256))

    def run(rows: int, workers: int) -> tuple[int, float]:
        dataset = Dataset(
            items=pa.table({"item_id": ids}),
            user_ids=np.array([f"u{n:09d}" for n in range(rows)]),
            offsets=np.arange(rows + 1, dtype=np.int64) * 12,
            events=rng.integers(0, ITEMS, rows * 12).astype(np.int32),
            split=np.tile(np.array([0] * 10 + [1, 2], np.int8), rows),
        )
        config = EvaluationConfig(unconstrained=False, num_actors=workers, batch_size=32)
        batches = list(range(-(-rows // config.batch_size)))
        found = decode_on_ray.decode_on_ray(
            config, "evaluation", dataset, dataset.cases("test"), sids, folder, np.arange(rows), batches, 20
        )
        return clocked(len(arrays["items_seen"]) for _, arrays in found)

    return run


def compare(run: Run, rows: int) -> dict[str, float]:
    """Rows a second of one worker and of two, and how the whole times compare."""
    rates, seconds = {1: 0.0, 2: 0.0}, {1: 1e9, 2: 1e9}
    for _ in range(2):
        for workers in rates:
            begun = time.perf_counter()
            done, found = run(rows, workers)
            if done != rows:
                raise RuntimeError(f"{done} of {rows} rows came back")
            rates[workers] = max(rates[workers], found)
            seconds[workers] = min(seconds[workers], time.perf_counter() - begun)
    return {
        "rows": rows,
        "rows_per_second_one": round(rates[1], 1),
        "rows_per_second_two": round(rates[2], 1),
        "two_over_one": round(rates[2] / rates[1], 3),
        "two_over_one_with_start": round(seconds[1] / seconds[2], 3),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of rows")
    parser.add_argument("--only", default=",".join(STAGES), help="stages, separated by commas")
    args = parser.parse_args()
    set_environment(RayConfig())
    import ray

    from dig_ray.on_ray.session import init_settings, quiet_ray_data

    context = multiprocessing.get_context("spawn")
    port = context.Value("i", 0)
    server = context.Process(target=serve, args=(port, THINKS), daemon=True)
    server.start()
    ray.init(**init_settings(RayConfig()), runtime_env={"worker_process_setup_hook": prepare_worker})
    quiet_ray_data()
    while not port.value:
        time.sleep(0.05)
    figures: dict[str, Any] = {}
    makers = {make.__name__: make for make in (mining, embedding, evaluation)}
    with tempfile.TemporaryDirectory() as scratch:
        for stage in args.only.split(","):
            run = makers[stage](Path(scratch), f"http://127.0.0.1:{port.value}")
            run(128, 2)
            figures[stage] = compare(run, max(128, int(ROWS[stage] * args.scale)))
            print(f"{stage}: {figures[stage]}", flush=True)
            figures[f"{stage}_two_over_one"] = figures[stage]["two_over_one"]
    ray.shutdown()
    server.terminate()
    return conclude("workers", figures, TARGETS)


if __name__ == "__main__":
    sys.exit(main())
