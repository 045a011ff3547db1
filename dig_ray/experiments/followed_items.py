"""What evidence does to Semantic IDs: the same items under every variant, with the company that each variant puts them in.

All variants of a comparison stand on one catalogue, so an item can be followed through them: its SID, the branch of the tree it sits on,
the neighbours it gains and loses against the first variant, and what is nearest to it by text, by picture and by both.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dig_ray.base import Inputs
from dig_ray.report.example_users import sid_text, spread

if TYPE_CHECKING:
    from dig_ray.catalog.dataset import Dataset
    from dig_ray.semantic_ids.sid_catalog import SidCatalog

ITEMS = 6
NEAR = 5
THUMBNAIL = 56  # pixels
LONGEST_TITLE = 60


def pairs_kept(first: np.ndarray, other: np.ndarray) -> float | None:
    """Of all pairs of items that share a prefix in one tree or the other, the part that does in both (Jaccard); None without any pair.

    Args:
        first: int (N,) prefix of each item in one tree.
        other: int (N,) in the other.
    """

    def pairs(groups: np.ndarray) -> int:
        sizes = np.unique(groups, return_counts=True)[1].astype(np.int64)
        return int((sizes * (sizes - 1) // 2).sum())

    both = pairs(first.astype(np.int64) * (int(other.max(initial=0)) + 1) + other)
    either = pairs(first) + pairs(other) - both
    return both / either if either else None


def near_in_tree(sids: SidCatalog, item: int, vectors: np.ndarray | None, most: int = NEAR) -> list[int]:
    """The items that share the longest prefix with one, at least its first code; among equals the nearest by vector."""
    shared = np.zeros(len(sids), np.int64)
    alike = np.ones(len(sids), bool)
    for level in range(sids.codes.shape[1]):
        alike &= sids.codes[:, level] == sids.codes[item, level]
        shared += alike
    shared[item] = 0
    there = np.flatnonzero(shared)
    distance = (
        np.zeros(len(there))
        if vectors is None
        else np.linalg.norm(vectors[there].astype(np.float64) - vectors[item], axis=1)
    )
    return there[np.lexsort((there, distance, -shared[there]))][:most].tolist()


def nearest(vectors: np.ndarray, known: np.ndarray, item: int, most: int = NEAR) -> list[int]:
    """The items whose vectors point most nearly the same way as one's, once the mean of all is taken off; [] where it has none.

    Args:
        vectors: float32 (N, D).
        known: bool (N,), which rows are more than a stand-in.
        item: whose.
        most: how many.
    """
    if not known[item]:
        return []
    centred = vectors - vectors[known].mean(axis=0)  # raw image features share a large common part
    norm = np.linalg.norm(centred, axis=1)
    scores = centred @ centred[item] / np.maximum(norm * norm[item], 1e-12)
    scores[~known] = -np.inf
    scores[item] = -np.inf
    order = np.argsort(-scores, kind="stable")[:most]
    return order[np.isfinite(scores[order])].tolist()


def pick_items(dataset: Dataset, known: np.ndarray, sids: SidCatalog, most: int = ITEMS) -> list[int]:
    """Items worth showing: with a title, with a picture where there are any, much used, and from different branches of the first tree."""
    titles = dataset.items["title"].to_pylist() if "title" in dataset.items.column_names else []
    can = np.array([bool(title) for title in titles]) if titles else np.ones(dataset.n_items, bool)
    if (can & known).any():
        can &= known
    _, events = dataset.train_sequences()
    used = np.bincount(events, minlength=dataset.n_items)
    chosen: list[int] = []
    branches: set[int] = set()
    # the more used half, evenly: the few most used items of a shop are often much alike
    ranked = [i for i in np.argsort(-used, kind="stable").tolist() if can[i]]
    candidates = spread(np.array(ranked[: max(most, len(ranked) // 2)], np.int64), 10 * most)
    for item in candidates:
        if int(sids.codes[item, 0]) not in branches:
            branches.add(int(sids.codes[item, 0]))
            chosen.append(item)
        if len(chosen) == most:
            break
    return chosen


def follow_items(dataset: Dataset, variants: Mapping[str, Inputs]) -> dict[str, Any]:
    """The chosen items through all variants.

    Args:
        dataset: the catalogue that all share.
        variants: name -> stage -> directory, the reference first; of one seed.

    Returns:
        JSON-able: ``items`` [{item_id, title, picture, variants: [{name, sid, branch, branch_items, near, lost}], spaces}] where near and
        lost are lists of {item_id, title, picture, new, shared}; ``thumbnails`` {name: data URI}.
    """
    from dig_ray.embedding.vectors import known_vectors, load_vectors
    from dig_ray.semantic_ids.sid_catalog import SidCatalog

    ids = dataset.item_ids.tolist()
    sids = {
        name: SidCatalog.load(inputs["semantic_ids"] / "semantic_ids.parquet")
        for name, inputs in variants.items()
    }
    used: dict[str, np.ndarray | None] = {}
    spaces: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    every = np.ones(len(ids), bool)
    for name, inputs in variants.items():
        made = inputs.get("fusion", inputs.get("embedding"))
        used[name] = None if made is None else load_vectors(made / "embeddings.parquet", ids)
        if "fusion" in inputs and "by both" not in spaces:
            spaces["by text"] = (load_vectors(inputs["embedding"] / "embeddings.parquet", ids), every)
            spaces["by picture"] = known_vectors(inputs["image_embedding"] / "embeddings.parquet", ids)
            spaces["by both"] = (used[name], every)  # type: ignore[assignment]
    pictures = Pictures(dataset, variants)
    first = next(iter(variants))
    known = np.array([item in pictures for item in ids])
    thumbs: dict[str, str] = {}
    titles = _titles(dataset)

    def shown(item: int, **more: Any) -> dict[str, Any]:
        name = f"p{item}"
        there = name in thumbs or (ids[item] in pictures and _keep(thumbs, name, pictures.read(ids[item])))
        picture = name if there else ""
        return {
            "item_id": ids[item],
            "title": titles[item],
            "picture": picture,
            "new": False,
            "shared": None,
            **more,
        }

    items = []
    for item in pick_items(dataset, known, sids[first]):
        before = near_in_tree(sids[first], item, used[first])
        through = []
        for name, tree in sids.items():
            near = near_in_tree(tree, item, used[name])
            branch = np.flatnonzero(tree.codes[:, 0] == tree.codes[item, 0])
            through.append(
                {
                    "name": name,
                    "sid": sid_text(tree, item),
                    "branch_items": len(branch),
                    "near": [
                        shown(
                            other,
                            new=other not in before and name != first,
                            shared=_shared(tree, item, other),
                        )
                        for other in near
                    ],
                    "lost": [shown(other) for other in before if other not in near],
                }
            )
        entry = shown(item, variants=through)
        entry["spaces"] = [
            {"name": name, "near": [shown(other) for other in nearest(vectors, there, item)]}
            for name, (vectors, there) in spaces.items()
        ]
        items.append(entry)
    return {"items": items, "thumbnails": thumbs}


def _shared(sids: SidCatalog, one: int, two: int) -> int:
    alike = sids.codes[one] == sids.codes[two]
    return int(np.cumprod(alike).sum())


def _titles(dataset: Dataset) -> list[str]:
    ids = dataset.item_ids.tolist()
    given: Sequence[str | None] = (
        dataset.items["title"].to_pylist() if "title" in dataset.items.column_names else [None] * len(ids)
    )
    return [
        (title if len(title) <= LONGEST_TITLE else title[: LONGEST_TITLE - 1] + "…") if title else item
        for title, item in zip(given, ids, strict=True)
    ]


class Pictures:
    """An item's picture, read when it is asked for: a catalogue's pictures need not fit into memory.

    Args:
        dataset: the catalogue, whose own column serves where no variant has a pictures artifact.
        variants: name -> stage -> directory.
    """

    def __init__(self, dataset: Dataset, variants: Mapping[str, Inputs]) -> None:
        import pyarrow.parquet as pq

        folder = next((inputs["pictures"] for inputs in variants.values() if "pictures" in inputs), None)
        self.file: Any = None
        self.place: dict[str, tuple[int, int]] = {}
        self.column: Any = None
        if folder is not None:
            self.file = pq.ParquetFile(folder / "pictures.parquet")
            for group in range(self.file.num_row_groups):
                rows = self.file.read_row_group(group, columns=["item_id", "sha256"]).to_pydict()
                for row, (item, digest) in enumerate(zip(rows["item_id"], rows["sha256"], strict=True)):
                    if digest:
                        self.place[item] = (group, row)
        elif "image_bytes" in dataset.items.column_names:
            self.column = dataset.items["image_bytes"]
            there = self.column.is_valid().to_pylist()
            self.place = {item: (0, row) for row, item in enumerate(dataset.item_ids.tolist()) if there[row]}

    def __contains__(self, item: str) -> bool:
        return item in self.place

    def read(self, item: str) -> bytes:
        """The picture's bytes."""
        group, row = self.place[item]
        column = (
            self.column if self.file is None else self.file.read_row_group(group, columns=["image"])["image"]
        )
        found: bytes = column[row].as_py()
        return found


def _keep(thumbs: dict[str, str], name: str, raw: bytes) -> bool:
    """Put a small JPEG of a picture among the page's; False where it is none."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(raw)) as opened:
            small = opened.convert("RGB")
            small.thumbnail((2 * THUMBNAIL, 2 * THUMBNAIL))
    except (OSError, ValueError):
        return False
    out = io.BytesIO()
    small.save(out, "JPEG", quality=80)
    thumbs[name] = f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"
    return True
