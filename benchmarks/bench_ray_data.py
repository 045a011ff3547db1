"""Bench: what Ray Data itself takes per row, in each stage that runs on it, with the work made free.

    python benchmarks/bench_ray_data.py [--scale 1.0]

Encoders give zeros, pictures decode to zeros of their real size, phrases are there, the policy ranks nothing: what is left is moving rows,
blocks, tasks and results. The same functions run over the same rows in a plain loop. Each side takes n and 4 n rows twice, of which the
cheaper one counts; the cost per row is the slope between the two, the fixed cost (actors that start) what is left over. CPU seconds of
Ray's side are of the driver, of Ray's processes and of all workers together: they count everything, and no waiting for other work. Mining
by vLLM or over HTTP is measured in bench_mining.py.

Two cores, about 5 minutes. Targets are ours. Exit code 1 when one is missed. Figures: docs/SCALE.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import Target, conclude, family_cpu_seconds

from dig_ray.on_ray.session import RayConfig, set_environment

STAGES = ("embedding", "image_embedding", "mining", "decoding")
TARGETS: dict[str, Target] = {  # CPU milliseconds per row beyond the plain loop's
    "embedding_ms_per_row": ("<=", 0.5),
    "image_embedding_ms_per_row": ("<=", 3.0),
    "mining_ms_per_row": ("<=", 1.0),
    "decoding_ms_per_row": ("<=", 0.5),
}
ROWS = {"embedding": 163_840, "image_embedding": 2_048, "mining": 8_192, "decoding": 131_072}
PICTURE = 20_000  # bytes of an encoded picture


def free_the_work() -> None:
    """Replace what stages compute by nothing, in this process; Ray calls it in every worker that starts."""
    import numpy as np

    from dig_ray.embedding import image_stage, stage
    from dig_ray.evaluation import decode_on_ray
    from dig_ray.mining.engines import keyphrase

    class Nobody:
        max_seq_length = 256

        def recommend(self, histories: list[Any], beam: int, k: int) -> tuple[Any, ...]:
            items, scores = np.zeros((len(histories), k), np.int32), np.zeros((len(histories), k), np.float32)
            return items, scores, items, scores

    phrases = [("shelter for camping in the rain", 0.9), ("light in the dark", 0.8)]
    changes: tuple[tuple[Any, str, Any], ...] = (
        (stage, "load_encoder", lambda *args, **kwargs: Nobody()),
        (stage, "encode_batches", lambda texts, *rest: np.zeros((len(texts), 384), np.float32)),
        (stage, "count_tokens", lambda texts, *rest: np.zeros(len(texts), np.int32)),
        (image_stage, "decode", lambda raw, *rest: np.zeros((len(raw), 224, 224, 3), np.uint8)),
        (image_stage, "load_tower", lambda *args, **kwargs: (None, {})),
        (image_stage, "encode", lambda pixels, *rest: np.zeros((len(pixels), 1024), np.float32)),
        (keyphrase, "extract", lambda model, texts, *rest: [phrases for _ in texts]),
        (keyphrase.Extractor, "_load", lambda self: None),
        (decode_on_ray.Decoder, "load", staticmethod(lambda *args: Nobody())),
    )
    for owner, name, value in changes:
        setattr(owner, name, value)


@dataclass
class Pair:
    """A stage's rows on Ray Data and in a plain loop; each call goes over all of them and gives how many there were."""

    on_ray: Callable[[], int]
    plain: Callable[[], int]


def embedding(rows: int, folder: Path) -> Pair:
    """Texts in parts of 512, as the stage cuts them."""
    from dig_ray.embedding import stage
    from dig_ray.embedding.config import TextEmbeddingConfig

    config = TextEmbeddingConfig()
    texts = [f"tent number {n} for camping in the rain, with poles and pegs" * 3 for n in range(rows)]
    size = config.rows_per_part
    parts = [texts[start : start + size] for start in range(0, rows, size)]

    def plain() -> int:
        worker = stage.Encoder(config.model_dump(), 1)
        batches = ({"part": [n], "texts": [part]} for n, part in enumerate(parts))
        found = (worker(batch)["tokens"] for batch in batches)  # type: ignore[arg-type]
        return sum(len(tokens) // 4 for part in found for tokens in part)

    def on_ray() -> int:
        return sum(
            len(vectors) for _, vectors, _, _ in stage._encode_on_ray(config, parts, list(range(len(parts))))
        )

    return Pair(on_ray, plain)


def image_embedding(rows: int, folder: Path) -> Pair:
    """Encoded pictures of 20 kB in row groups of 64, which become pixels of 224 x 224 on the way."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from dig_ray.embedding import image_stage
    from dig_ray.embedding.config import ImageEmbeddingConfig

    config = ImageEmbeddingConfig(model="pixels")
    path = folder / f"pictures-{rows}.parquet"
    pictures = [np.random.default_rng(n).bytes(PICTURE) for n in range(64)]
    with pq.ParquetWriter(path, pa.schema([("image", pa.binary())]), compression="none") as writer:
        for _ in range(rows // 64):
            writer.write_table(pa.table({"image": pictures}), row_group_size=64)
    groups = list(range(rows // 64))

    def plain() -> int:
        worker = image_stage.Encoder(config.model_dump(), 1)
        done = 0
        for group in groups:
            read = image_stage.read_group({"part": np.array([group])}, str(path))
            found = worker(image_stage.decode_group(read, {}))
            done += len(found["vectors"][0]) // (4 * found["dimensions"][0])
        return done

    def on_ray() -> int:
        return sum(len(vectors) for _, vectors in image_stage._encode_on_ray(config, path, {}, groups))

    return Pair(on_ray, plain)


def mining(rows: int, folder: Path) -> Pair:
    """The keyphrase engine, batches of 32; answers are judged and written down, as they are in a run."""
    import pyarrow as pa

    from dig_ray.mining.answer_log import AnswerLog
    from dig_ray.mining.config import KeyphraseConfig
    from dig_ray.mining.engines import keyphrase
    from dig_ray.mining.engines.contract import Job, request_schema

    evidence = json.dumps({"title": "a tent for camping", "description": "it keeps the rain away " * 10})
    requests = pa.Table.from_pylist(
        [{"key": f"{n:032x}", "subject_id": f"i{n}", "evidence": evidence} for n in range(rows)],
        schema=request_schema(),
    )
    places = iter(range(1_000_000))

    def job() -> Job:
        place = folder / f"mining-{rows}-{next(places)}"
        return Job(KeyphraseConfig(), "descriptors", "", 8, str(place / "log"), str(place / "marks"))

    def plain() -> int:
        one = job()
        worker = keyphrase.Extractor(one, 1)
        for start in range(0, rows, keyphrase.ROWS):
            worker(requests.slice(start, keyphrase.ROWS))
        return AnswerLog(one.log).read().num_rows

    def on_ray() -> int:
        one = job()
        keyphrase.run(one, requests)
        return AnswerLog(one.log).read().num_rows

    return Pair(on_ray, plain)


def decoding(rows: int, folder: Path) -> Pair:
    """Users with five events in batches of 128, lists of 20."""
    import numpy as np
    import pyarrow as pa
    import ray

    from dig_ray.catalog.dataset import Dataset
    from dig_ray.evaluation import decode_on_ray
    from dig_ray.evaluation.config import EvaluationConfig

    config = EvaluationConfig(unconstrained=False)
    rng = np.random.default_rng(0)
    dataset = Dataset(
        items=pa.table({"item_id": [f"i{n}" for n in range(1_000)]}),
        user_ids=np.array([f"u{n:09d}" for n in range(rows)]),
        offsets=np.arange(rows + 1, dtype=np.int64) * 5,
        events=rng.integers(0, 1_000, rows * 5).astype(np.int32),
        split=np.tile(np.array([0, 0, 0, 1, 2], np.int8), rows),
    )
    cases = dataset.cases("test")
    order, batches = np.arange(rows), list(range(-(-rows // config.batch_size)))
    nobody: Any = None

    def plain() -> int:
        users = decode_on_ray.UserBatches(
            dataset.events, cases.start, cases.end, np.zeros(rows, bool), config.batch_size
        )
        worker = decode_on_ray.DecodeWorker(
            "evaluation", ray.put((None, users, False)), "", config.beam, 20, 1, False
        )
        return sum(worker({"batch": np.array([n])})["rows"][0] for n in batches)

    def on_ray() -> int:
        found = decode_on_ray.decode_on_ray(
            config, "evaluation", dataset, cases, nobody, folder, order, batches, 20
        )
        return sum(len(arrays["items_seen"]) for _, arrays in found)

    return Pair(on_ray, plain)


def costs(make: Callable[[int, Path], Pair], rows: int, folder: Path) -> dict[str, float]:
    """Milliseconds per row, CPU and wall, of both sides, and the fixed seconds of Ray's."""
    clocks = {"on_ray": family_cpu_seconds, "plain": time.process_time}
    times: dict[str, list[tuple[float, float]]] = {side: [] for side in clocks}
    for n in (rows, 4 * rows):
        pair = make(n, folder)
        for side, clock in clocks.items():
            rounds = []
            for _ in range(2):
                cpu, wall = clock(), time.perf_counter()
                done = getattr(pair, side)()
                if done != n:
                    raise RuntimeError(f"{make.__name__}, {side}: {done} of {n} rows came back")
                rounds.append((clock() - cpu, time.perf_counter() - wall))
            times[side].append((min(cpu for cpu, _ in rounds), min(wall for _, wall in rounds)))
    out: dict[str, float] = {"rows": 4 * rows}
    for side, (few, many) in times.items():
        for name, less, more in zip(("cpu", "wall"), few, many, strict=True):
            slope = (more - less) / (3 * rows)
            out[f"{side}_{name}_ms_per_row"] = round(slope * 1e3, 4)
            if side == "on_ray":
                out[f"fixed_{name}_seconds"] = round(less - slope * rows, 2)
    return out


def own_ray() -> Iterator[None]:
    """A Ray as a run starts it, whose workers do no work."""
    import ray

    from dig_ray.on_ray.session import init_settings, quiet_ray_data

    ray.init(**init_settings(RayConfig()), runtime_env={"worker_process_setup_hook": free_the_work})
    quiet_ray_data()
    yield
    ray.shutdown()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of rows")
    args = parser.parse_args()
    set_environment(RayConfig())
    free_the_work()
    figures: dict[str, Any] = {}
    makers = {make.__name__: make for make in (embedding, image_embedding, mining, decoding)}
    with tempfile.TemporaryDirectory() as scratch:
        for _ in own_ray():
            for name in STAGES:
                rows = max(512, int(ROWS[name] * args.scale) // 512 * 512)
                warm = makers[name](512, Path(scratch))
                warm.on_ray(), warm.plain()
                figures[name] = costs(makers[name], rows, Path(scratch))
                print(f"{name}: {figures[name]}", flush=True)
    for name in STAGES:
        one = figures[name]
        figures[f"{name}_ms_per_row"] = round(one["on_ray_cpu_ms_per_row"] - one["plain_cpu_ms_per_row"], 4)
    return conclude("ray_data", figures, TARGETS)


if __name__ == "__main__":
    sys.exit(main())
