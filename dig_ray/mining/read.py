"""What mining found, for the rooms that use it."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def read_interests(directory: Path, name: str = "merged.parquet") -> dict[str, list[dict[str, Any]]]:
    """Subject id -> its merged interests."""
    import pyarrow.parquet as pq

    table = pq.read_table(directory / name, columns=["subject_id", "interests"])
    return dict(zip(table["subject_id"].to_pylist(), table["interests"].to_pylist(), strict=True))


def read_captions(directory: Path | None) -> dict[str, str]:
    """Item id -> caption; {} without captions."""
    if directory is None:
        return {}
    import pyarrow.parquet as pq

    table = pq.read_table(directory / "captions.parquet", columns=["item_id", "caption"])
    return {
        item: caption
        for item, caption in zip(table["item_id"].to_pylist(), table["caption"].to_pylist(), strict=True)
        if caption
    }
