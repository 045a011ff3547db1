"""What is wrong with a config, as pydantic found it, in one sentence that names where it stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from dig_ray.config.config_keys import nearest_key, plain_key
from dig_ray.config.values import for_eyes, short


def sentence(
    error: ValidationError, data: Mapping[str, Any], origin: Mapping[str, str], keys: Mapping[str, Any]
) -> str:
    """The first problem of an error as one sentence: where it comes from, which key, which value, and what to do.

    Args:
        error: the error of a config class that refused ``data``.
        data: the whole tree as plain data.
        origin: dotted key -> file or command line that set it; "" is the last layer of all.
        keys: what :func:`dig_ray.config.known_keys` found.
    """
    problems = error.errors(include_url=False)
    # a misspelt key is often also a missing one; the misspelling is what helps
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    key, value = _place(problem["loc"], data, keys)
    plain = above = plain_key(key)
    while above and above not in origin:
        above = above.rpartition(".")[0]
    source = origin.get(above) or origin.get("", "the built-in defaults")
    shown = short(for_eyes(value, key, plain in keys))
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    message = message[:1].lower() + message[1:]
    if problem["type"] == "extra_forbidden":
        return f"{source}: unknown key {key} (value {shown}); the nearest is {nearest_key(plain, list(keys))}"
    if problem["type"] == "missing":
        return f"{source}: {key} is missing; add it"
    if problem["type"] == "union_tag_not_found":
        return f"{source}: {key} is {shown} and does not say its {problem['ctx']['discriminator']}; add it"
    if problem["type"] == "value_error" and isinstance(value, dict):
        return f"{source}: {key + ': ' if key else ''}{message}"
    if key.endswith("api_key_env"):
        return f"{source}: {key}: {message}"  # whoever put a key there does not want to read it again
    return f"{source}: {key} is {shown}: {message}"


def _place(location: Sequence[int | str], data: Any, keys: Mapping[str, Any]) -> tuple[str, Any]:
    """Key, with places in lists, and value at pydantic's location, into which it also puts the tags of unions: those are skipped."""
    parts: list[str] = []
    for part in location:
        if isinstance(data, dict):
            if part in data:
                data = data[part]
            elif part != location[-1] or plain_key(".".join([*parts, str(part)])) not in keys:
                continue
            parts.append(str(part))
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
            parts[-1] += f"[{part}]"
    return ".".join(parts), data
