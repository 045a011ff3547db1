"""The real Beauty, where it is at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def beauty(make_dataset):
    """Amazon 2014 Beauty; skipped where the data is not at hand."""
    import pyarrow.parquet as pq

    root = Path(os.environ.get("DIG_RAY_DATA", Path(__file__).parents[2] / "../shared/data"))
    path = root / "amazon14_beauty" / "interactions.parquet"
    if not path.is_file():
        pytest.skip(f"{path} is absent; set DIG_RAY_DATA to the folder that holds amazon14_beauty")
    table = pq.read_table(path, columns=["user_id", "item_id", "position"]).to_pandas()
    table = table.sort_values(["user_id", "position"], kind="stable")
    sequences = [(g.to_numpy() - 1).tolist() for _, g in table.groupby("user_id")["item_id"]]
    return make_dataset(sequences, 12_101)
