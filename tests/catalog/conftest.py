"""Small tables on disk, and the catalogue made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dig_ray.catalog.build import build
from dig_ray.catalog.config import CatalogConfig
from dig_ray.catalog.dataset import Dataset
from dig_ray.catalog.read import read_raw

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
