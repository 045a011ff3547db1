"""An OpenAI-compatible endpoint on loopback that misbehaves as it is told, and counts."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from tests.loopback import LoopbackServer

GOOD = json.dumps({"descriptors": [{"descriptor": "camping in rain", "confidence": 0.9}]})


class Endpoint(LoopbackServer):
    """Serves ``/v1/chat/completions``.

    ``behave(evidence, number)`` says what to do with the ``number``-th request about an evidence: text to answer, or a dict with any of
    ``status``, ``headers``, ``body`` (bytes), ``sleep``, ``cut`` (close the connection in the middle), ``drip`` (seconds between bytes),
    ``finish``, ``message`` (instead of one with the text), ``usage`` (JSON text, "" for none).
    """

    good = GOOD

    def __init__(self, behave: Callable[[str, int], Any] | None = None, latency: float = 0.0) -> None:
        self.behave = behave or (lambda evidence, number: GOOD)
        self.latency = latency
        self.calls: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.keys: set[str | None] = set()
        super().__init__()

    @property
    def url(self) -> str:
        return f"{super().url}/v1"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.times.append(time.monotonic())
        self.keys.add(request.headers.get("Authorization"))
        body = await request.json()
        self.bodies.append(body)
        content = body["messages"][-1]["content"]
        evidence = content if isinstance(content, str) else content[-1]["text"]
        self.calls[evidence] += 1
        what = self.behave(evidence, self.calls[evidence])
        if isinstance(what, str):
            what = {"text": what}
        await asyncio.sleep(what.get("sleep", self.latency))
        if what.get("cut"):
            response = web.StreamResponse(headers={"Content-Length": "1000"})
            await response.prepare(request)
            await response.write(b'{"choices": [')
            assert request.transport is not None
            request.transport.close()
            return response
        if "body" in what or "status" in what:
            return web.Response(
                status=what.get("status", 200), body=what.get("body", b""), headers=what.get("headers")
            )
        message = what.get("message") or {"content": what["text"]}
        choice = {"message": message, "finish_reason": what.get("finish", "stop")}
        usage = {"prompt_tokens": 100, "completion_tokens": 10}
        whole = {"choices": [choice], "usage": usage}
        if "usage" in what:
            told = f', "usage": {what["usage"]}' if what["usage"] else ""
            return web.Response(body=f'{{"choices": {json.dumps([choice])}{told}}}'.encode())
        if "drip" in what:
            response = web.StreamResponse()
            await response.prepare(request)
            for byte in json.dumps(whole).encode():
                await response.write(bytes([byte]))
                await asyncio.sleep(what["drip"])
            return response
        return web.json_response(whole)


@pytest.fixture
def serve():
    """Start endpoints that are closed after the test."""
    open_ones: list[Endpoint] = []

    def start(behave=None, latency=0.0) -> Endpoint:
        open_ones.append(Endpoint(behave, latency))
        return open_ones[-1]

    yield start
    for endpoint in open_ones:
        endpoint.close()


@pytest.fixture
def world(tmp_path):
    """``world(n, **columns)``: the directory of a saved catalogue of n items with titles, and users who walk through them."""
    import numpy as np
    import pyarrow as pa

    from dig_ray.catalog.dataset import Dataset

    def make(n: int, titles: list[str] | None = None, name: str = "catalog", **columns: Any):
        sequences = [[(user * 3 + step) % n for step in range(5)] for user in range(min(n, 12))]
        split = np.tile(np.array([0, 0, 0, 1, 2], np.int8), len(sequences))
        table = pa.table(
            {
                "item_id": [f"i{number}" for number in range(n)],
                "title": titles or [f"tent number {number}" for number in range(n)],
                **columns,
            }
        )
        dataset = Dataset(
            items=table,
            user_ids=np.array(sorted(f"u{user}" for user in range(len(sequences)))),
            offsets=np.arange(len(sequences) + 1, dtype=np.int64) * 5,
            events=np.concatenate([np.array(s, np.int32) for s in sequences]),
            split=split,
        )
        folder = tmp_path / name
        dataset.save(folder)
        return folder

    return make


@pytest.fixture
def in_store(tmp_path):
    """``in_store(run)``: call a stage's run as the store would, and give the stage back; answers are kept from call to call."""
    from contextlib import nullcontext

    from dig_ray.base import Stage

    counter = iter(range(1000))

    def build(run: Callable[[Stage], None], seed: int = 0) -> Stage:
        number = next(counter)
        out = tmp_path / f"out{number}"
        out.mkdir()
        lines: list[str] = []
        stage = Stage(
            "mining",
            "f" * 16,
            seed,
            out,
            str(tmp_path / "work"),
            {},
            lines.append,
            str(tmp_path / "kept"),
            nullcontext,
        )
        run(stage)
        stage.stats["lines"] = lines
        return stage

    return build


@pytest.fixture
def pictures_of(in_store):
    """``pictures_of(catalog)``: the directory of its pictures, opened by their stage."""
    from dig_ray.catalog.config import CatalogConfig
    from dig_ray.catalog.pictures.picture_stage import keep_pictures

    return lambda catalog: in_store(lambda stage: keep_pictures(CatalogConfig(), stage, catalog)).out
