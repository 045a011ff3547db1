"""What a store holds of a run already, but made by other code, or from what other code made: it is made anew, and a line says so."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dig_ray.artifacts.manifest import Recipe
from dig_ray.artifacts.store import MANIFEST

NEWEST = 50
"""Artifacts of a stage that are looked at, the newest first: in a store of many sweeps the earlier version is among them or long gone."""


def outdated(recipes: Sequence[Recipe], missing: Sequence[str], root: Path) -> tuple[list[str], list[str]]:
    """Which stages are made anew although the same settings were run before, and whose unfinished work is not gone on from.

    Args:
        recipes: the recipes of a run, in its order.
        missing: names of the stages that are not published.
        root: the store's local directory.

    Returns:
        the stages that other code made, or that were made from such; and of the others that read from these, those with work that was
        begun under another fingerprint.
    """
    made: list[str] = []
    begun: list[str] = []
    for recipe in recipes:
        if recipe.stage not in missing:
            continue
        old_inputs = [name for name in recipe.inputs if name in made or name in begun]
        if any(_is_earlier(old, recipe, old_inputs) for old in _published(root / recipe.stage)):
            made.append(recipe.stage)
        elif old_inputs and _unfinished(root, recipe):
            begun.append(recipe.stage)
    return made, begun


def outdated_line(made: Sequence[str], begun: Sequence[str]) -> str | None:
    """The same in one sentence; None where there is nothing to say."""
    if not made and not begun:
        return None
    said = [f"made by another version of the code, so made anew: {', '.join(made)}"] if made else []
    if begun:
        said.append(f"the unfinished work of {', '.join(begun)} started from those and starts over")
    return f"note: {'; '.join(said)} (what is there stays; answers of models are kept)"


def _published(folder: Path) -> Iterator[Mapping[str, Any]]:
    """Recipes of a stage's newest artifacts, as their manifests tell them; what cannot be read is passed over."""
    try:
        found = sorted(folder.glob(f"*/{MANIFEST}"), key=lambda path: path.stat().st_mtime, reverse=True)
    except OSError:
        return
    for path in found[:NEWEST]:
        try:
            told = json.loads(path.read_bytes())["recipe"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if isinstance(told, dict):
            yield told


def _is_earlier(old: Mapping[str, Any], recipe: Recipe, old_inputs: Sequence[str]) -> bool:
    """Whether an artifact differs from a recipe in its code, or in inputs that are outdated, and in no setting that both know."""
    now = recipe.payload()
    if old.get("seed") != now["seed"] or old.get("files") != now["files"]:
        return False
    before = old.get("inputs")
    if not isinstance(before, dict) or not _agree(old.get("config"), now["config"]):
        return False
    moved = {name for name in now["inputs"] if before.get(name) != now["inputs"][name]}
    return moved <= set(old_inputs) and (bool(moved) or old.get("code") != now["code"])


def _agree(old: Any, now: Any) -> bool:
    """Whether two settings are the same where both have a value: a version may have had more of them, or fewer."""
    if isinstance(old, dict) and isinstance(now, dict):
        return all(_agree(old[key], now[key]) for key in old.keys() & now.keys())
    if isinstance(old, list) and isinstance(now, list):
        return len(old) == len(now) and all(map(_agree, old, now))
    return bool(old == now)


def _unfinished(root: Path, recipe: Recipe) -> bool:
    """Whether work of this stage lies there that another fingerprint began."""
    work = root / ".work"
    ours = f"{recipe.stage}-{recipe.fingerprint}"
    try:
        found = [path for path in work.glob(f"{recipe.stage}-{'?' * 16}") if path.name != ours]
        return any(any(path.iterdir()) for path in found)
    except OSError:
        return False
