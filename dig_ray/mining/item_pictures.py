"""Pictures as a vision-language model gets them: those of the pictures stage, made small, and sent as JPEG."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from dig_ray.errors import UserError

Picture = tuple[bytes, str]


@dataclass(frozen=True)
class Pictures:
    """A table of pictures that is read when they are asked about.

    Attributes:
        path: where ``pictures.parquet`` lies.
        side: longest side in pixels of what is sent.
        marks: item id -> what stands for its picture in an answer's key, of all items that have one.
    """

    path: Path
    side: int
    marks: Mapping[str, bytes]

    def load(self, items: Collection[str]) -> dict[str, Picture]:
        """Item id -> (JPEG bytes, media type); one row group in memory at a time, and what is asked for."""
        import pyarrow.parquet as pq

        found: dict[str, Picture] = {}
        file = pq.ParquetFile(self.path)
        for group in range(file.num_row_groups):
            ids = file.read_row_group(group, columns=["item_id"])["item_id"].to_pylist()
            wanted = [number for number, item in enumerate(ids) if item in items and item in self.marks]
            if wanted:
                table = file.read_row_group(group, columns=["image"]).take(wanted)
                for number, image in zip(wanted, table["image"], strict=True):
                    found[ids[number]] = (shrink(image.as_py(), self.side), "image/jpeg")
        return found


def list_pictures(pictures_dir: Path, side: int) -> tuple[list[str], Pictures, Counter[str]]:
    """All item ids, the pictures, and why items have none.

    Args:
        pictures_dir: the pictures' artifact.
        side: longest side in pixels of what is sent.

    Raises:
        UserError: the artifact is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(pictures_dir) / "pictures.parquet"
    try:
        table = pq.read_table(path, columns=["item_id", "reason", "sha256"])
    except (OSError, pa.ArrowException):
        raise UserError(f"{path} is missing or damaged; run the pictures stage again") from None
    ids = table["item_id"].to_pylist()
    marks = {
        item: f"{digest} {side}".encode()
        for item, digest in zip(ids, table["sha256"].to_pylist(), strict=True)
        if digest
    }
    return (
        ids,
        Pictures(path, side, marks),
        Counter(reason for reason in table["reason"].to_pylist() if reason),
    )


def shrink(image: bytes, side: int) -> bytes:
    """A kept picture as a JPEG of at most ``side`` pixels a side. The same bytes give the same bytes."""
    from PIL import Image

    with Image.open(io.BytesIO(image)) as opened:
        small = opened.convert("RGB")
    small.thumbnail((side, side))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=90)
    return out.getvalue()
