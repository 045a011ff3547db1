"""Where settings come from: a file, what it extends, and the command line, as layers that lie over each other."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dig_ray.config.config_keys import is_known, nearest_key
from dig_ray.config.run_config import NAME_PATTERN
from dig_ray.config.values import cut, for_eyes, short
from dig_ray.config.yaml_text import parse_yaml, read_text
from dig_ray.errors import UserError
from dig_ray.guards.redaction import HIDDEN, SECRET_NAME, hide

COMMAND_LINE = "command line"
"""Where an override comes from, as sentences say it."""


def find_config(source: str | Path, folder: Path) -> Path:
    """The file that a name or a path means: a path to a YAML file, or ``folder/NAME.yaml``.

    Args:
        source: the name, or the path, which may also be relative to ``folder`` and begin with ``~``.
        folder: where named configs are.

    Raises:
        UserError: there is none; the known names are listed.
    """
    text = str(source)
    if text.endswith((".yaml", ".yml")):
        for path in (Path(text).expanduser(), folder / text):
            if os.path.exists(path):
                return path
        raise UserError(f"config file {cut(text)} does not exist; give a path that does, or a name")
    path = folder / f"{text}.yaml"
    if re.match(NAME_PATTERN, text) and path.is_file():
        return path
    names = sorted(p.stem for p in folder.glob("*.yaml"))
    close = difflib.get_close_matches(text, names, 1)
    hint = f", did you mean {close[0]}" if close else ""
    if os.path.isfile(text):
        hint = "; a file is given by a name that ends in .yaml"
    raise UserError(
        f"there is no config {cut(hide(str(for_eyes(text))))!r} in {folder}{hint}; known are {', '.join(names) or 'none'}, "
        "or give a path to a .yaml file"
    )


def read_layers(path: Path, _above: tuple[Path, ...] = ()) -> list[tuple[str, dict[str, Any]]]:
    """A config file and what it extends, base first, as (file name, mapping).

    Args:
        path: the path of the file; what it extends is looked for beside it.
        _above: the files that extend this one.

    Raises:
        UserError: not readable, not UTF-8, empty, not a mapping, or ``extends`` goes round in a circle.
    """
    if path.resolve() in _above:
        chain = " -> ".join(p.name for p in (*_above, path.resolve()))
        raise UserError(f"{path}: extends goes round in a circle ({chain}); remove one of them")
    text = read_text(path)
    try:
        data = parse_yaml(text)
    except UserError as error:
        raise UserError(hide(f"{path}: {error}")) from None
    if data is None:
        raise UserError(
            f"{path}: holds no setting; write at least catalog: {{source: demo}}, extends: NAME of a config to change, or {{}} for the "
            "built-in demo world with all defaults"
        )
    if not isinstance(data, dict):
        raise UserError(f"{path}: holds {type(data).__name__}, not a mapping of keys to values")
    odd = next((key for key in data if not isinstance(key, str)), None)
    if odd is not None:
        raise UserError(f"{path}: the mapping has the key {odd!r}, which is no setting's name; remove it")
    base = data.pop("extends", None)
    below: list[tuple[str, dict[str, Any]]] = []
    if base is not None:
        if not isinstance(base, str):
            raise UserError(f"{path}: extends is {base!r}; give one config name or file")
        try:
            base_path = find_config(base, path.parent)
        except UserError as error:
            raise UserError(f"{path}: extends: {error}") from None
        below = read_layers(base_path, (*_above, path.resolve()))
    return [*below, (str(path), data)]


def parse_overrides(overrides: Sequence[str], keys: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """``["a.b=3"]`` as layers ``[("command line", {"a": {"b": 3}})]``; values are YAML.

    Args:
        overrides: changes as a user types them.
        keys: what :func:`dig_ray.config.known_keys` found; others are refused.

    Raises:
        UserError: no ``=``, an unknown key, or a value that is not YAML.
    """
    layers = []
    for text in overrides:
        key, equals, raw = text.partition("=")
        key = key.strip()
        if not equals or not key:
            shown = HIDDEN if SECRET_NAME.search(text) else repr(hide(text))
            raise UserError(f"{COMMAND_LINE}: {shown} is no setting; write key=value, such as seed=1")
        if re.search(r"\[\d*\]|\.\d+(?:\.|$)", key) and not is_known(key, keys):
            whole = re.split(r"\[|\.\d", key)[0]
            raise UserError(
                f"{COMMAND_LINE}: {hide(key)[:200]}: an entry of a list cannot be set alone; write the whole list, {whole}=[...]"
            )
        if not is_known(key, keys):
            near = nearest_key(key, list(keys))
            raise UserError(
                f"{COMMAND_LINE}: unknown key {hide(key)[:200]} (value {cut(hide(for_eyes(raw, key)))}); the nearest is {near}"
            )
        try:
            value = parse_yaml(raw)
        except UserError as error:
            shown = short(for_eyes(raw, key))
            raise UserError(hide(f"{COMMAND_LINE}: {key} is {shown}: {error}")) from None
        for part in reversed(key.split(".")):
            value = {part: value}
        layers.append((COMMAND_LINE, value))
    return layers
