"""What a model is shown: one JSON object per item or user, safe to put behind any chat template, and bounded in length.

Product text is data. It reaches a model only inside JSON strings, in a message of its own, and the characters that chat templates, code
fences or markup are made of are written as escapes there, so that no product text can close the object or open another turn. What is
too long is cut at a token budget and says so, in the evidence itself (``"cut"``) and in the row.

A user's evidence holds training events only: never the validation or test item, nor anything after it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING, Any

from dig_ray.catalog.text import clean_text

if TYPE_CHECKING:
    import pyarrow as pa

    from dig_ray.catalog.dataset import Dataset

ITEM_FIELDS = ("title", "brand", "categories", "description", "caption")
"""In the order of their worth: a budget is spent on the first ones first."""

CUT_MARK = " [...]"


@dataclass(slots=True)
class Evidence:
    """One subject's evidence.

    Attributes:
        subject: ``item`` or ``user``.
        subject_id: its id; it is not part of what the model sees.
        text: the JSON object, ASCII only.
        cut: names of fields that were cut or left out for the budget.
        empty: whether there is nothing to mine from.
    """

    subject: str
    subject_id: str
    text: str
    cut: tuple[str, ...] = ()
    empty: bool = False


_PIECE = re.compile(r"[A-Za-z0-9]{1,6}|\s+|.", re.DOTALL)
_TOKEN = re.compile(r"[A-Za-z0-9]{1,6}|[^\sA-Za-z0-9]")  # a piece that is no white space
_NOISE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
_ESCAPED = {ord(c): f"\\u{ord(c):04x}" for c in "<>&|`[]"}


def clean(text: str) -> str:
    """Text without control characters, direction marks and half surrogates; white space collapsed."""
    if text.isascii() and text.isprintable():
        return " ".join(text.split())
    return " ".join(clean_text(_NOISE.sub(" ", text)).split())


def count_tokens(text: str) -> int:
    """An upper-side estimate of tokens that needs no tokenizer: six letters or digits, or one of any other character, are one."""
    return len(_TOKEN.findall(text))


def cut_tokens(text: str, budget: int) -> tuple[str, bool]:
    """The beginning of a text that fits ``budget`` tokens (of ``count_tokens``), marked where it was cut."""
    if len(text) <= budget:  # no piece is shorter than a character
        return text, False
    used = 0
    for piece in _PIECE.finditer(text):
        used += not piece.group().isspace()
        if used > budget:
            return text[: piece.start()].rstrip() + CUT_MARK, True
    return text, False


def to_json(value: Mapping[str, Any]) -> str:
    """JSON in ASCII whose strings hold none of ``< > & | ` [ ]`` in the clear."""
    parts = []
    for key, entry in value.items():
        parts.append(f"{_name(key)}: {_value(entry)}")
    return "{" + ", ".join(parts) + "}"


def json_string(text: str) -> str:
    """A JSON string as in ``to_json``."""
    return encode_basestring_ascii(text).translate(_ESCAPED)


_name = lru_cache(json_string)


def _value(value: Any) -> str:
    if isinstance(value, str):
        return json_string(value)
    if isinstance(value, Mapping):
        return to_json(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(entry) for entry in value) + "]"
    return json.dumps(value, allow_nan=False)


def item_evidence(
    items: pa.Table,
    budget: int,
    captions: Mapping[str, str] | None = None,
    interests: Mapping[str, Sequence[str]] | None = None,
) -> list[Evidence]:
    """Evidence of every item of the catalogue's table, in its order.

    Args:
        items: columns item_id and any of title, brand, categories, description.
        budget: tokens of all text of one item; fields are filled in the order of ``ITEM_FIELDS``.
        captions: item id -> caption of its picture.
        interests: item id -> descriptors, for prompts that judge or build on them.
    """
    have = [name for name in ITEM_FIELDS if name in items.column_names]
    rows = items.select(["item_id", *have]).to_pylist()
    captions, interests = captions or {}, interests or {}
    out = []
    for row in rows:
        item = row["item_id"]
        if item in captions:
            row["caption"] = captions[item]
        texts: dict[str, list[str]] = {}
        for name in ITEM_FIELDS:
            value = row.get(name)
            if value is not None:
                cleaned = [
                    clean(str(v)) for v in (value if isinstance(value, list) else [value]) if v is not None
                ]
                texts[name] = [text for text in cleaned if text]
        fields: dict[str, Any] = {}
        cut: list[str] = []
        left = budget
        plenty = (
            sum(len(text) for kept in texts.values() for text in kept) <= budget
        )  # a token has a character
        for name, kept in texts.items():
            if kept and not plenty:
                kept, left, short = _fit(kept, left)
                if short:
                    cut.append(name)
            if kept:
                fields[name] = kept if isinstance(row[name], list) else kept[0]
        empty = not fields
        if item in interests:
            fields["interests"] = list(interests[item])
        if cut:
            fields["cut"] = cut
        out.append(Evidence("item", item, to_json(fields), tuple(cut), empty))
    return out


def user_evidence(
    dataset: Dataset,
    titles: Mapping[str, str | None],
    budget: int,
    max_items: int,
    interests: Mapping[str, Sequence[str]] | None = None,
) -> list[Evidence]:
    """Evidence of every user with training events: the latest ``max_items`` of them, oldest first.

    An item stands there with its title and, where they were mined, its interests. Items that do not fit the budget are left out,
    oldest first.
    """
    offsets, events = dataset.train_sequences()
    interests = interests or {}
    ids = dataset.item_ids
    out = []
    for number, user in enumerate(dataset.user_ids.tolist()):
        history = events[int(offsets[number]) : int(offsets[number + 1])]
        if not len(history):
            continue
        entries: list[dict[str, Any]] = []
        left, short = budget, len(history) > max_items
        for event in history[::-1][:max_items].tolist():
            item = str(ids[event])
            title = clean(titles.get(item) or "")
            entry: dict[str, Any] = {"title": title} if title else {}
            if item in interests:
                entry["interests"] = list(interests[item])
            if not entry:
                continue
            cost = count_tokens(title) + sum(count_tokens(text) for text in interests.get(item, ()))
            if cost > left:
                short = True
                if entries:
                    break
                # the latest one says most: cut it rather than show nothing
                entry = (
                    {"title": cut_tokens(title, left)[0]}
                    if title
                    else {"interests": [cut_tokens(entry["interests"][0], left)[0]]}
                )
                entries.append(entry)
                break
            left -= cost
            entries.append(entry)
        fields: dict[str, Any] = {"history": entries[::-1]}
        cut = ("history",) if short else ()
        if cut:
            fields["cut"] = list(cut)
        out.append(Evidence("user", user, to_json(fields), cut, not entries))
    return out


def _fit(texts: Iterable[str], left: int) -> tuple[list[str], int, bool]:
    """As many texts as fit ``left`` tokens, the last one cut; what is left after; whether something is missing."""
    kept: list[str] = []
    for text in texts:
        if left <= 0:
            return kept, 0, True
        text, short = cut_tokens(text, left)
        kept.append(text)
        if short:
            return kept, 0, True
        left -= count_tokens(text)
    return kept, left, False
