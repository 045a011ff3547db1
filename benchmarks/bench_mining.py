"""Time mining: the openai engine against a bare client and Ray Data's HTTP processor, vLLM through our stage against plain vLLM,
validation to table, and a resume with nothing to do.

    python benchmarks/bench_mining.py                    # everything but vLLM, whose figure then counts as missed
    python benchmarks/bench_mining.py --vllm MODEL_DIR   # also vLLM, with a local model

Two cores, no GPU: about 3 minutes, 6 with vLLM. Requests are timed at the server, from the first one in to the last one out, so that
neither side pays for starting. Ends in one line of JSON; exit code 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from common import Target, conclude

ENDPOINT = {
    "openai_over_bare_client": (">=", 0.9),
    "openai_over_ray_http_processor": (">=", 40.0),
}
PLAIN = {
    "validated_merged_written_rows_per_second": (">=", 20_000.0),
    "resume_100k_items_seconds": ("<=", 10.0),
}
VLLM = {"vllm_stage_over_llm_generate": (">=", 0.9)}
TARGETS: dict[str, Target] = {**ENDPOINT, **PLAIN, **VLLM}
ANSWER = json.dumps(
    {
        "descriptors": [
            {"descriptor": f"shelter for camping in the rain {n}", "confidence": 0.9 - n / 10}
            for n in range(4)
        ]
    }
)
IN_FLIGHT = 64


def serve(port: Any, latency: float) -> None:
    """A process of its own: an endpoint that answers after ``latency`` seconds and says when it was busy."""
    from aiohttp import web

    times: list[float] = []

    async def answer(request: web.Request) -> web.Response:
        begun = time.perf_counter()
        await request.read()
        await asyncio.sleep(latency)
        times.extend((begun, time.perf_counter()))
        choice = {"message": {"content": ANSWER}, "finish_reason": "stop"}
        return web.json_response(
            {"choices": [choice], "usage": {"prompt_tokens": 100, "completion_tokens": 60}}
        )

    async def busy(request: web.Request) -> web.Response:
        found = {"requests": len(times) // 2, "seconds": max(times) - min(times) if times else 0.0}
        times.clear()
        return web.json_response(found)

    async def main() -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", answer)
        app.router.add_get("/busy", busy)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port.value = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        await asyncio.Event().wait()

    asyncio.run(main())


def rate(url: str) -> float:
    """Requests a second that the endpoint saw since it was last asked."""
    with urllib.request.urlopen(f"{url}/busy") as response:  # noqa: S310 - loopback
        found = json.load(response)
    return found["requests"] / max(found["seconds"], 1e-9)


def job(url: str, folder: Path) -> Any:
    from dig_ray.mining.config import OpenAIConfig
    from dig_ray.mining.engines.contract import Job
    from dig_ray.mining.prompts import load_prompt

    miner = OpenAIConfig(
        name="bench", model="m", base_url=f"{url}/v1", api_key_env=None, max_in_flight=IN_FLIGHT
    )
    return Job(
        miner, "descriptors", load_prompt("descriptors").system, 8, str(folder / "log"), str(folder / "marks")
    )


def requests_of(rows: int) -> Any:
    import pyarrow as pa

    from dig_ray.mining.engines.contract import request_schema

    return pa.Table.from_pylist(
        [
            {"key": f"{n:032x}", "subject_id": f"i{n}", "evidence": json.dumps({"title": f"tent {n} " * 20})}
            for n in range(rows)
        ],
        schema=request_schema(),
    )


async def bare(url: str, rows: list[dict[str, Any]], system: str) -> None:
    """What one writes by hand: a semaphore and a gather."""
    import aiohttp

    from dig_ray.mining.prompts import chat_messages

    gate = asyncio.Semaphore(IN_FLIGHT)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=IN_FLIGHT)) as session:

        async def one(row: dict[str, Any]) -> str:
            body = {"model": "m", "messages": chat_messages(system, row["evidence"]), "max_tokens": 512}
            async with gate, session.post(f"{url}/v1/chat/completions", json=body) as response:
                return (await response.json())["choices"][0]["message"]["content"]

        await asyncio.gather(*(one(row) for row in rows))


def bench_endpoint(folder: Path, rounds: int, rows: int) -> dict[str, Any]:
    """Requests a second: ours, a bare client, and Ray Data's HTTP processor, in turns."""
    import ray
    from ray.data.llm import HttpRequestProcessorConfig, build_processor

    from dig_ray.mining.engines.openai import run
    from dig_ray.mining.prompts import chat_messages
    from dig_ray.on_ray.session import quiet_ray_data

    port = multiprocessing.Value("i", 0)
    process = multiprocessing.Process(target=serve, args=(port, 0.1), daemon=True)
    process.start()
    while not port.value:
        time.sleep(0.05)
    url = f"http://127.0.0.1:{port.value}"
    quiet_ray_data()
    table = requests_of(rows)
    found: dict[str, list[float]] = {"ours": [], "bare": [], "ray_http": []}
    for number in range(rounds):
        asked = job(url, folder / f"round{number}")
        run(asked, table)
        found["ours"].append(rate(url))
        asyncio.run(bare(url, table.to_pylist(), asked.system))
        found["bare"].append(rate(url))
        system = asked.system
        processor = build_processor(
            HttpRequestProcessorConfig(url=f"{url}/v1/chat/completions", concurrency=1, batch_size=64),
            preprocess=lambda row, system=system: {
                "payload": {"model": "m", "messages": chat_messages(system, row["evidence"])}
            },
            postprocess=lambda row: {"answer": str(row["http_response"])},
        )
        processor(ray.data.from_arrow(table.slice(0, 64).drop_columns(["image", "media"]))).count()
        found["ray_http"].append(rate(url))
        print(
            "  requests/s, round", number + 1, {name: round(values[-1], 1) for name, values in found.items()}
        )
    process.terminate()
    best = {name: max(values) for name, values in found.items()}
    return {
        "openai_requests_per_second": best["ours"],
        "openai_over_bare_client": best["ours"] / best["bare"],
        "openai_over_ray_http_processor": best["ours"] / best["ray_http"],
    }


def bench_tables(folder: Path, rows: int) -> dict[str, Any]:
    """Answers of two miners on one core: validated, merged and written; and with the journal in between, written and read again."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from dig_ray.mining.answer_log import AnswerLog
    from dig_ray.mining.config import OpenAIConfig
    from dig_ray.mining.engines.contract import Result, judge_answer
    from dig_ray.mining.evidence import Evidence
    from dig_ray.mining.interest_tables import (
        interest_table,
        merge_answers,
        merged_table,
        read_answers,
        without_collection,
    )
    from dig_ray.mining.miner import folder_name, load_known, plan
    from dig_ray.mining.prompts import load_prompt

    prompt = load_prompt("descriptors")
    evidence = [Evidence("item", f"i{n}", json.dumps({"title": f"tent {n}"})) for n in range(rows // 2)]
    miners = [OpenAIConfig(name=name, model=name, base_url="http://127.0.0.1:9/v1") for name in ("a", "b")]
    plans = [plan(miner, prompt, evidence, None) for miner in miners]
    said = []  # of four interests, two are both miners'
    for name in ("a", "b"):
        texts = [f"shelter for camping in the rain {m}{name if m > 1 else ''}" for m in range(4)]
        entries = [{"descriptor": text, "confidence": 0.9 - m / 10} for m, text in enumerate(texts)]
        said.append(json.dumps({"descriptors": entries}))
    seconds = {}
    with without_collection():
        begun = time.process_time()
        for asked, text in zip(plans, said, strict=True):
            for _ in asked.keys:
                answer, reason = judge_answer("descriptors", text, 8, prompt.system)
                assert answer is not None, reason
        seconds["validate"] = time.process_time() - begun

        begun = time.process_time()
        for asked, text in zip(plans, said, strict=True):
            with AnswerLog(f"{folder}/answers/{folder_name(asked)}").writer() as journal:
                for key in asked.keys:
                    journal.append(Result(key, "ok", "", text, 100, 60, 1).row())
        for asked in plans:
            load_known(asked, str(folder))
        answers = [read_answers(asked) for asked in plans]
        seconds["journal_and_read"] = time.process_time() - begun

        begun = time.process_time()
        merged = merge_answers(answers, 2.0, None)
        seconds["merge"] = time.process_time() - begun

        begun = time.process_time()
        tables = [interest_table(asked, evidence, given) for asked, given in zip(plans, answers, strict=True)]
        pq.write_table(pa.concat_tables(tables), folder / "interests.parquet")
        pq.write_table(merged_table(evidence, merged, ["a", "b"]), folder / "merged.parquet")
        seconds["write"] = time.process_time() - begun
    shown = ", ".join(f"{name} {1e6 * taken / rows:.0f}" for name, taken in seconds.items())
    print(f"  microseconds a row: {shown}")
    return {
        "validated_merged_written_rows_per_second": rows
        / (seconds["validate"] + seconds["merge"] + seconds["write"]),
        "with_journal_rows_per_second": rows / sum(seconds.values()),
    }


def bench_resume(folder: Path, items: int) -> dict[str, Any]:
    """The whole stage over a catalogue whose answers are all there."""
    import numpy as np
    import pyarrow as pa

    from dig_ray.base import Stage
    from dig_ray.catalog.dataset import Dataset
    from dig_ray.mining.answer_log import write_rows
    from dig_ray.mining.config import MiningConfig, OpenAIConfig
    from dig_ray.mining.engines.contract import Result
    from dig_ray.mining.evidence import item_evidence
    from dig_ray.mining.miner import folder_name, plan
    from dig_ray.mining.prompts import load_prompt
    from dig_ray.mining.stage import run_items

    table = pa.table(
        {
            "item_id": [f"i{n}" for n in range(items)],
            "title": [f"Two person tent number {n}, waterproof" for n in range(items)],
            "brand": ["Northern"] * items,
            "description": ["A tent for rainy weekends in the mountains, with room for boots. " * 4] * items,
        }
    )
    Dataset(
        items=table,
        user_ids=np.array(["u"]),
        offsets=np.array([0, 3]),
        events=np.arange(3, dtype=np.int32),
        split=np.array([0, 1, 2], np.int8),
    ).save(folder / "catalog")
    miner = OpenAIConfig(name="a", model="m", base_url="http://127.0.0.1:9/v1", api_key_env=None)
    config = MiningConfig(items=(miner,))
    asked = plan(
        miner,
        load_prompt("descriptors"),
        item_evidence(table, config.evidence_tokens),
        None,
        config.most,
    )
    rows = [Result(key, "ok", "", ANSWER, 100, 60, 1).row() for key in asked.keys]
    for start in range(0, items, 1000):
        write_rows(f"{folder}/kept/answers/{folder_name(asked)}", rows[start : start + 1000])
    (folder / "out").mkdir()
    stage = Stage(
        "item_interests", "f" * 16, 0, folder / "out", str(folder / "work"), kept=str(folder / "kept")
    )
    begun = time.perf_counter()
    run_items(config, stage, folder / "catalog", None)
    return {"resume_100k_items_seconds": time.perf_counter() - begun}


class Clock:
    """In place of the board: when answers were reported, how many tokens they had and how many requests they took."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, int, int]] = []

    def add(self, miner: str, totals: Any) -> None:
        self.seen.append((time.monotonic(), totals.tokens_in + totals.tokens_out, totals.calls))

    def summary(self) -> tuple[float, int, int]:
        """(when the last report came, tokens, requests)."""
        return (
            self.seen[-1][0],
            sum(tokens for _, tokens, _ in self.seen),
            sum(calls for *_, calls in self.seen),
        )


PLAIN_VLLM = """
import json, sys, time

def main():
    spec = json.load(open(sys.argv[1]))
    from vllm import LLM, SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    llm = LLM(model=spec["model"], enable_prefix_caching=True, **spec["engine"])
    chats = spec["chats"]
    def params(sampling):
        return SamplingParams(**sampling, structured_outputs=StructuredOutputsParams(json=spec["schema"]))
    llm.chat(chats[:8], params(spec["sampling"][0]), use_tqdm=False)
    every = [params(sampling) for sampling in spec["sampling"]]
    begun = time.perf_counter()
    outputs = llm.chat(chats, every, use_tqdm=False)
    seconds = time.perf_counter() - begun
    tokens = sum(len(o.prompt_token_ids) + len(o.outputs[0].token_ids) for o in outputs)
    print("RATE", tokens / seconds)

if __name__ == "__main__":
    main()
"""


def bench_vllm(folder: Path, model: str, rows: int) -> dict[str, Any]:
    """Tokens a second after the engine's start: through our stage, and ``LLM.chat`` on the same requests.

    A model that was never trained answers badly, so our stage asks again about nearly every row; plain vLLM is given those requests too.
    """
    import os
    import subprocess
    import threading

    import ray

    from dig_ray.mining.answers import json_schema
    from dig_ray.mining.config import Sampling, VllmConfig
    from dig_ray.mining.engines.contract import Job
    from dig_ray.mining.engines.vllm import run
    from dig_ray.mining.prompts import chat_messages, load_prompt

    engine = {"dtype": "float32", "enforce_eager": True, "max_num_seqs": 64, "max_model_len": 2048}
    system = load_prompt("descriptors").system
    miner = VllmConfig(
        name="bench",
        model=model,
        max_model_len=2048,
        engine_kwargs={name: value for name, value in engine.items() if name != "max_model_len"},
        sampling=Sampling(max_tokens=64),
    )
    table = requests_of(rows)
    clock = ray.remote(num_cpus=0)(Clock).remote()
    first_batch: list[float] = []

    def watch() -> None:  # the engine marks a batch when it begins with it
        while not (folder / "marks").is_dir():
            time.sleep(0.01)
        first_batch.append(time.monotonic())

    threading.Thread(target=watch, daemon=True).start()
    run(Job(miner, "descriptors", system, 8, str(folder / "log"), str(folder / "marks"), board=clock), table)
    last, tokens, calls = ray.get(clock.summary.remote())  # type: ignore[attr-defined]
    ours = tokens / (last - first_batch[0])
    chats = [chat_messages(system, text) for text in table["evidence"].to_pylist()]
    again = calls - rows
    spec = {
        "model": model,
        "engine": engine,
        "chats": chats + chats[:again],
        "sampling": [miner.sampling.attempt(0)] * rows + [miner.sampling.attempt(1)] * again,
        "schema": json_schema("descriptors", 8),
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    (folder / "plain.py").write_text(PLAIN_VLLM)
    command = [sys.executable, str(folder / "plain.py"), str(folder / "spec.json")]
    out = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=True).stdout
    plain = float(next(line for line in out.splitlines() if line.startswith("RATE")).split()[1])
    return {"vllm_stage_tokens_per_second": ours, "vllm_stage_over_llm_generate": ours / plain}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vllm", metavar="MODEL_DIR", help="time vLLM with this model too")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--requests", type=int, default=3200)
    args = parser.parse_args()
    figures: dict[str, Any] = {}
    from dig_ray.on_ray.session import RayConfig, RaySession

    with tempfile.TemporaryDirectory() as name, RaySession(RayConfig()) as session:
        folder = Path(name)
        for part in ("warm", "tables", "resume", "vllm"):
            (folder / part).mkdir()
        print("validation, merge and writing")
        bench_tables(folder / "warm", 200)  # imports are no part of a row's cost
        figures |= bench_tables(folder / "tables", 40_000)
        print("resume")
        figures |= bench_resume(folder / "resume", 100_000)
        session.start()
        print("endpoint")
        figures |= bench_endpoint(folder, args.rounds, args.requests)
        if args.vllm:
            print("vLLM")
            figures |= bench_vllm(folder / "vllm", args.vllm, 512)
    return conclude("mining", figures, TARGETS)


if __name__ == "__main__":
    sys.exit(main())
