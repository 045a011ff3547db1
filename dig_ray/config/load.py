"""A checked config from layers of settings, and a config as YAML again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from dig_ray.base import Config
from dig_ray.config.config_keys import known_keys
from dig_ray.config.layers import find_config, parse_overrides, read_layers
from dig_ray.config.run_config import RunConfig
from dig_ray.config.values import check_numbers, check_secrets
from dig_ray.config.wrong_input import sentence
from dig_ray.errors import UserError
from dig_ray.guards.redaction import hide, redact


def resolve(layers: Sequence[tuple[str, Mapping[str, Any]]], model: type[Config] = RunConfig) -> Any:
    """Lay the layers over each other, later ones on top, and check the whole tree.

    Args:
        layers: (where it comes from, nested mapping) pairs.
        model: the config class at the root.

    Returns:
        An instance of ``model``.

    Raises:
        UserError: one sentence on the first problem.
    """
    data: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for source, layer in layers:
        _merge(data, layer, source, origin, "")
        origin[""] = source  # where a mistake of the whole tree is put: the last word
    check_numbers(data, layers[-1][0])
    try:
        text = json.dumps(data, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UserError(f"{layers[-1][0]}: holds a value that is no plain data: {error}") from None
    try:
        # JSON mode in strict form: no "3" for 3 and no 1 for true, yet lists become tuples
        found = model.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise UserError(hide(sentence(error, json.loads(text), origin, known_keys(model)))) from None
    check_secrets(data, layers[-1][0])
    return found


def _merge(
    into: dict[str, Any], layer: Mapping[str, Any], source: str, origin: dict[str, str], at: str
) -> None:
    for key, value in layer.items():
        path = f"{at}{key}"
        if isinstance(value, dict):
            origin.setdefault(path, source)
            if not isinstance(into.get(key), dict):
                into[key] = {}
                origin[path] = source
            _merge(into[key], value, source, origin, f"{path}.")
        else:
            into[key] = value
            origin[path] = source


def load_config(
    source: str | Path,
    overrides: Sequence[str] = (),
    folder: Path = Path("jobs/configs"),
    model: type[Config] = RunConfig,
) -> Any:
    """A checked config from a name or file and ``key=value`` overrides.

    The name of the file is the run's name unless the config says otherwise.

    Args:
        source: name of a config in ``folder``, or path of a YAML file.
        overrides: ``key=value``, the value as YAML; later ones lie over earlier ones.
        folder: where named configs are.
        model: the config class at the root.

    Returns:
        An instance of ``model``.

    Raises:
        UserError: as :func:`find_config`, :func:`read_layers`, :func:`parse_overrides`, :func:`resolve`.
    """
    path = find_config(source, folder)
    layers = read_layers(path)
    keys = known_keys(model)
    named: list[tuple[str, dict[str, Any]]] = []
    if "name" in keys and "name" not in layers[-1][1]:
        layers = [(where, {k: v for k, v in layer.items() if k != "name"}) for where, layer in layers]
        named = [(str(path), {"name": path.stem})]
    return resolve([*layers, *named, *parse_overrides(overrides, keys)], model)


def to_yaml(config: Config) -> str:
    """The resolved tree as YAML, every default written out, in the order of the classes; without what an address carries of secrets."""
    return yaml.safe_dump(
        redact(config.model_dump(mode="json"), secrets=()), sort_keys=False, allow_unicode=True, width=100
    )
