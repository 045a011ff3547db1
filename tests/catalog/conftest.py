"""Small tables on disk, and the catalogue made of them; a server of pictures on loopback that misbehaves as asked."""

from __future__ import annotations

import asyncio
import io
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from aiohttp import web
from PIL import Image

from dig_ray.catalog.build import build
from dig_ray.catalog.config import CatalogConfig
from dig_ray.catalog.dataset import Dataset
from dig_ray.catalog.read import read_raw
from tests.loopback import LoopbackServer

ITEMS = {
    "item_id": ["a", "b", "c", "d"],
    "title": ["Tent", "Stove", "Lamp", "Rope"],
    "description": ["dry", "hot", "bright", ""],
    "brand": ["N", "N", "K", ""],
    "categories": [["Outdoor", "Shelter"], ["Outdoor"], ["Light"], []],
    "price": [99.0, None, 12.5, 3.0],
}
EVENTS = {
    "user_id": ["u1", "u1", "u1", "u1", "u2", "u2", "u2"],
    "item_id": ["a", "b", "c", "d", "b", "a", "c"],
    "timestamp": [
        1_600_000_000,
        1_600_000_100,
        1_600_000_200,
        1_600_000_300,
        1_600_000_050,
        1_600_000_150,
        1_600_000_250,
    ],
}


class Shop:
    """A folder with an items and an interactions table."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.items = str(folder / "items.parquet")
        self.interactions = str(folder / "interactions.parquet")

    def write(self, items: dict | None = None, events: dict | None = None) -> Shop:
        pq.write_table(pa.table(ITEMS if items is None else items), self.items)
        pq.write_table(pa.table(EVENTS if events is None else events), self.interactions)
        return self

    def config(self, **settings: Any) -> CatalogConfig:
        item_columns = settings.pop("item_columns", {})
        columns = settings.pop("columns", {})
        return CatalogConfig(
            source=settings.pop("source", "table"),
            items={"path": self.items, "columns": item_columns, **settings.pop("items", {})},
            interactions={"path": self.interactions, "columns": columns, **settings.pop("interactions", {})},
            **settings,
        )

    def load(self, **settings: Any) -> Dataset:
        config = self.config(**settings)
        return build(read_raw(config, log=lambda line: None), config)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path).write()


def sequences(dataset: Dataset) -> dict[str, list[str]]:
    """Item ids by user."""
    ids = dataset.item_ids
    return {
        str(user): [str(ids[i]) for i in dataset.events[dataset.offsets[u] : dataset.offsets[u + 1]]]
        for u, user in enumerate(dataset.user_ids)
    }


@pytest.fixture(name="sequences")
def _sequences():
    return sequences


class Pages(LoopbackServer):
    """Serves what a path's name says, and counts."""

    def __init__(self) -> None:
        out = io.BytesIO()
        Image.new("RGB", (20, 10), "red").save(out, "PNG")
        self.good = out.getvalue()
        self.asked: Counter[str] = Counter()
        self.headers: list[dict[str, str]] = []
        self.sent = 0
        super().__init__()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        self.asked[name] += 1
        self.headers.append(dict(request.headers))
        if name.startswith("good"):
            await asyncio.sleep(0.02)
            return web.Response(body=self.good, content_type="image/png", headers={"Set-Cookie": "who=me"})
        if name == "html":
            return web.Response(text="<html>our shop</html>", content_type="text/html")
        if name.startswith("to/"):
            raise web.HTTPFound(request.query_string)
        if name.startswith("hop/"):
            left = int(name.removeprefix("hop/"))
            raise web.HTTPFound(f"/hop/{left - 1}" if left else "/good")
        if name == "busy":
            return web.Response(status=503) if self.asked[name] < 3 else web.Response(body=self.good)
        if name == "limited" and self.asked[name] == 1:
            self.limited = time.monotonic()
            return web.Response(status=429, headers={"Retry-After": "2"})
        if name == "limited":
            self.waited = time.monotonic() - self.limited
            return web.Response(body=self.good)
        if name == "cut" and self.asked[name] == 1:
            response = web.StreamResponse(headers={"Content-Length": "100000"})
            await response.prepare(request)
            await response.write(self.good)
            assert request.transport is not None
            request.transport.close()
            return response
        if name == "cut":
            return web.Response(body=self.good)
        if name in ("huge", "endless"):
            response = web.StreamResponse(headers={"Content-Length": str(60 << 20)} if name == "huge" else {})
            await response.prepare(request)
            for _ in range(60):
                await response.write(b"\0" * (1 << 20))
                self.sent += 1 << 20
            return response
        if name == "drip":
            response = web.StreamResponse()
            await response.prepare(request)
            for _ in range(1000):
                await response.write(b"x")
                await asyncio.sleep(0.05)
            return response
        if name == "gzip":
            return web.Response(body=self.good, headers={"Content-Encoding": "gzip"})
        return web.Response(status={"forbidden": 403}.get(name, 404))


@pytest.fixture(scope="module")
def pages():
    server = Pages()
    yield server
    server.close()
