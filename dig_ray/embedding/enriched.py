"""The enriched text of an item: what the shop says, what the picture shows, and what mining found it is for.

Published order (DeepInterestGR-2): title, description, caption, descriptors, joined by new lines, confidences left out. Curated interests
are those a judge or its classifier found positive (DeepInterestGR-1).

Columns of the catalogue are taken apart by :mod:`dig_ray.catalog.columns.shapes`: ``interests`` by the shapes of interests, joined by new
lines, all others by those of texts, lists joined by ", ". What fits neither is refused; no list or object is printed into a text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dig_ray.embedding.config import TextEmbeddingConfig
from dig_ray.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa


def item_texts(
    items: pa.Table,
    config: TextEmbeddingConfig,
    captions_dir: Path | None = None,
    interests_dir: Path | None = None,
    judgements_dir: Path | None = None,
) -> tuple[list[str], Counter[str]]:
    """One text per item, and what was left out on the way.

    Args:
        items: the catalogue's table; its columns ``caption`` and ``interests`` step aside for mined ones.
        config: which fields are read, and which interests.
        captions_dir: the captions artifact.
        interests_dir: the item_interests artifact.
        judgements_dir: the judgements artifact; read where interests are curated.

    Returns:
        (texts, counts): ``columns_absent``, ``interests_read``, ``interests_not_positive``, ``interests_not_judged``,
        ``items_of_low_quality`` where they are not 0.

    Raises:
        UserError: the catalogue has none of the fields, or a column of them is no text.
    """
    import pyarrow as pa

    from dig_ray.catalog.text import item_text
    from dig_ray.mining.read_mined import read_captions

    ids = items.column("item_id").to_pylist()
    notes: Counter[str] = Counter()
    columns: dict[str, pa.Array] = {}
    if captions_dir is not None:
        captions = read_captions(captions_dir)
        columns["caption"] = pa.array([captions.get(item) for item in ids], pa.string())
    if interests_dir is not None:
        found = curated_interests(config, interests_dir, judgements_dir, notes)
        columns["interests"] = pa.array(["\n".join(found.get(item, ())) for item in ids], pa.string())
    for name, column in columns.items():
        if name in items.column_names:
            items = items.drop_columns(name)
        items = items.append_column(name, column)
    absent = [field for field in config.fields if field not in items.column_names]
    if len(absent) == len(config.fields):
        raise UserError(
            f"embedding.fields={list(config.fields)}: the catalogue has none of these columns; "
            f"it has {', '.join(items.column_names)}"
        )
    for field in absent:
        notes[f"column_absent:{field}"] = 1
    fields = [field for field in config.fields if field not in absent]
    items = _taken_apart(items, [field for field in fields if field not in columns], notes)
    return item_text(items, fields), notes


def _taken_apart(items: pa.Table, fields: Sequence[str], notes: Counter[str]) -> pa.Table:
    """The catalogue's own columns as texts or lists of texts; those that are so already stay.

    Raises:
        UserError: a cell holds what is no text.
    """
    import pyarrow as pa

    from dig_ray.catalog.columns.cells import column_of
    from dig_ray.catalog.columns.faults import Faults
    from dig_ray.catalog.columns.shapes import interests, texts
    from dig_ray.catalog.text import TEXT_FIELDS

    faults = Faults("embedding.fields, items of the catalogue")
    for field in fields:
        kind = items.schema.field(field).type
        if field in TEXT_FIELDS and kind in (pa.string(), pa.list_(pa.string())):
            continue  # the catalogue has read it
        column = column_of(items, field)
        if field == "interests":
            cells = pa.array(["\n".join(found) for found in interests(column, faults, notes)], pa.string())
        else:
            cells = texts(column, faults, notes, ", ")
        items = items.set_column(items.column_names.index(field), field, cells)
    faults.raise_any()
    return items


def curated_interests(
    config: TextEmbeddingConfig, interests_dir: Path, judgements_dir: Path | None, notes: Counter[str]
) -> dict[str, list[str]]:
    """Item id -> the interests that are read, in the order of mining.

    Args:
        config: whether only positive ones are, and how good an item's have to be.
        interests_dir: the item_interests artifact.
        judgements_dir: the judgements artifact, where they are curated.
        notes: raised by what was left out.
    """
    from dig_ray.mining.read_mined import read_interests, read_labels, read_quality

    known: dict[str, list[dict[str, Any]]] = read_interests(interests_dir)
    labels = read_labels(judgements_dir) if config.curated and judgements_dir is not None else {}
    quality = read_quality(judgements_dir) if config.curated and judgements_dir is not None else {}
    kept: dict[str, list[str]] = {}
    for item, interests in known.items():
        texts = [interest["text"] for interest in interests or ()]
        if texts and config.min_quality > 0 and (quality.get(item) or 0.0) < config.min_quality:
            notes["items_of_low_quality"] += 1
            continue
        if config.interests == "positive":
            given = [labels.get((item, text)) for text in texts]
            notes["interests_not_judged"] += given.count(None)
            notes["interests_not_positive"] += given.count(0)
            texts = [text for text, label in zip(texts, given, strict=True) if label == 1]
        notes["interests_read"] += len(texts)
        kept[item] = texts
    return kept
