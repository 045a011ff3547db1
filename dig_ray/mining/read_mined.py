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


def read_labels(directory: Path) -> dict[tuple[str, str], int]:
    """(Item id, interest) -> its label, the judge's or its classifier's, 0 or 1."""
    import pyarrow.parquet as pq

    table = pq.read_table(directory / "judgements.parquet", columns=["subject_id", "descriptor", "label"])
    columns = [table[name].to_pylist() for name in table.column_names]
    return {(item, text): label for item, text, label in zip(*columns, strict=True)}


def read_quality(directory: Path) -> dict[str, float]:
    """Item id -> its quality in [0, 1]; items without one are left out."""
    import pyarrow.parquet as pq

    table = pq.read_table(directory / "quality.parquet", columns=["item_id", "q"])
    return {
        item: q
        for item, q in zip(table["item_id"].to_pylist(), table["q"].to_pylist(), strict=True)
        if q is not None
    }
