"""The dotted keys of a config class: which there are, and which of them was meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel


def known_keys(model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Every dotted key of a config class, with its annotation; inner nodes are listed too.

    Args:
        model: the class at the root.
        prefix: stands before every key, with its dot.
    """
    keys: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        keys[prefix + name] = info.annotation
        for inner in config_classes(info.annotation):
            keys.update(known_keys(inner, f"{prefix}{name}."))
    return keys


def config_classes(annotation: Any) -> Iterator[type[BaseModel]]:
    """The config classes an annotation may hold: ``X``, ``X | None``, ``X | Y``, ``Annotated[X, ...]``, ``tuple[X, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Annotated, Union, tuple, list) or _is_pipe(annotation):
        for part in get_args(annotation):
            yield from config_classes(part)


def _is_pipe(annotation: Any) -> bool:
    return type(annotation).__name__ == "UnionType"


def nearest_key(key: str, keys: Sequence[str]) -> str:
    """The known key that looks most like ``key``, by whole path and by last word."""

    def likeness(known: str) -> float:
        whole = difflib.SequenceMatcher(None, key, known).ratio()
        leaf = difflib.SequenceMatcher(None, key.rpartition(".")[2], known.rpartition(".")[2]).ratio()
        parent = difflib.SequenceMatcher(None, key.rpartition(".")[0], known.rpartition(".")[0]).ratio()
        return max(whole, 0.7 * leaf + 0.3 * parent)

    return max(sorted(keys), key=likeness)


def is_known(key: str, keys: Mapping[str, Any]) -> bool:
    """Whether a config may have a dotted key: it is one of ``keys`` (with annotations), or lies below a free-form mapping."""
    if key in keys:
        return True
    parts = key.split(".")
    for n in range(len(parts) - 1, 0, -1):
        above = ".".join(parts[:n])
        if above in keys:  # below a free-form mapping any key goes
            return "dict" in str(keys[above]).lower() or "mapping" in str(keys[above]).lower()
    return False


def plain_key(key: str) -> str:
    """A dotted key without places in lists: ``mining.items[0].model`` is ``mining.items.model``."""
    return re.sub(r"\[\d+\]", "", key)
