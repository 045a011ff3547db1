"""What of a config's values may be shown in a message, and which values no config may hold."""

from __future__ import annotations

import json
import re
from typing import Any

from dig_ray.errors import UserError
from dig_ray.guards.redaction import HIDDEN, SECRET_NAME, hide


def short(value: Any) -> str:
    """A value as JSON, without secrets, cut."""
    return cut(hide(json.dumps(value, default=str, ensure_ascii=False)))


def cut(text: str) -> str:
    """At most 80 characters; hide secrets before."""
    return text if len(text) <= 80 else text[:77] + "..."


def for_eyes(value: Any, key: str = "", known: bool = False) -> Any:
    """A value as a message may show it: what stands at the name of a secret is hidden, be it nested in lists and mappings.

    Args:
        value: plain data.
        key: dotted key it stands at.
        known: whether the key is one of ours, which hold numbers (``evidence_tokens``) or names of variables.
    """
    if isinstance(value, dict):
        return {name: for_eyes(inner, str(name)) for name, inner in value.items()}
    if isinstance(value, list):
        return [for_eyes(inner, key, known) for inner in value]
    secret = isinstance(value, str) and not known and SECRET_NAME.search(key.rpartition(".")[2])
    if secret or (isinstance(value, str) and _NAMED_SECRET.search(value)):
        return HIDDEN
    return value


_NAMED_SECRET = re.compile(rf"(?:{SECRET_NAME.pattern})\w*['\"]?\s*[:=]\s*\S", re.IGNORECASE)
"""Text that is not taken apart, such as an override's, and names a secret before its value."""


def check_numbers(node: Any, source: str, path: str = "") -> None:
    """Refuse what is no plain number; a file cannot say it, a caller can."""
    if isinstance(node, dict):
        for key, inner in node.items():
            check_numbers(inner, source, f"{path}.{key}" if path else str(key))
    elif isinstance(node, (list, tuple)):
        for number, inner in enumerate(node):
            check_numbers(inner, source, f"{path}[{number}]")
    elif isinstance(node, float) and (node != node or abs(node) == float("inf")):
        raise UserError(f"{source}: {path} is {node}, which is no number to go by; give a finite one")


def check_secrets(node: Any, source: str, path: str = "") -> None:
    """Refuse a secret in a free-form part, such as a request's further fields: all of a config is kept with its results."""
    if isinstance(node, dict):
        for key, inner in node.items():
            check_secrets(inner, source, f"{path}.{key}" if path else str(key))
            if isinstance(inner, str) and _SECRET_KEY.search(str(key)):
                raise UserError(
                    f"{source}: {path}{'.' if path else ''}{key} looks like a secret, and manifests and reports show a config; set it in "
                    "the environment (a miner's api_key_env names the variable, HF_TOKEN is read by itself) and leave it out here"
                )
    elif isinstance(node, list):
        for number, inner in enumerate(node):
            check_secrets(inner, source, f"{path}[{number}]")


_SECRET_KEY = re.compile(
    r"(?:api|access|private|secret)[-_]?key$|passw(?:or)?d$|secret$|authorization$|(?:^|[-_])token$",
    re.IGNORECASE,
)
