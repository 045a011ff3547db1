"""Plain data from YAML text, and one sentence with a line for all that is no plain data.

Safe YAML with 1.2 scalars: ``1e-3`` is a number, ``no`` and ``12:30`` are text. No key twice, no tags, aliases or second documents: a
config is read by people, and what those do to it nobody sees. Keys are words or whole numbers.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from dig_ray.errors import UserError

DEEPEST = 50
"""Lists and mappings inside each other; a config has six."""
LARGEST_FILE = 1 << 20
_BEYOND_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


class _Loader(yaml.SafeLoader):
    """Safe YAML with fewer scalar types and no key twice."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^[-+]?[0-9][0-9_]*$", list("-+0123456789")),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)


def _plain_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    if len(text) > 40:
        raise UserError(f"line {node.start_mark.line + 1} has a number of {len(text)} digits; correct it")
    return int(text.replace("_", ""))  # YAML 1.1 would read 010 as octal


def _plain_float(loader: _Loader, node: yaml.ScalarNode) -> float:
    text = str(loader.construct_scalar(node))
    value = float(text.replace("_", ""))
    if abs(value) == float("inf"):
        raise UserError(f"line {node.start_mark.line + 1}: {text[:40]} is too large for a number; correct it")
    return value


def _plain_map(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[str, int] = {}
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        line = key_node.start_mark.line + 1
        if isinstance(key, (bool, float)) or not isinstance(key, (str, int)):
            shown = "" if isinstance(key, (list, dict)) else f" ({key_node.value or 'nothing'})"
            raise UserError(f"line {line} has a key that is no plain word{shown}; write key: value")
        if str(key) in seen:
            raise UserError(f"key {key!r} stands on line {seen[str(key)]} and again on line {line}; keep one")
        seen[str(key)] = line
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:int", _plain_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _plain_float)
_Loader.add_constructor("tag:yaml.org,2002:map", _plain_map)


def parse_yaml(text: str) -> Any:
    """Plain data (dict, list, str, int, float, bool, None) from YAML text.

    Raises:
        UserError: not YAML, a key twice in one mapping or one that is no word, aliases, tags, several documents, a number too large, or
            lists and mappings too deep inside each other.
    """
    odd = _BEYOND_TEXT.search(text)
    if odd:
        line = text.count("\n", 0, odd.start()) + 1
        raise UserError(f"line {line} has the character U+{ord(odd[0]):04X}, which is no text; remove it")
    try:
        _check_events(text)
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader with fewer scalar types
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        problem = str(getattr(error, "problem", None) or error).splitlines()[0]
        if "'\\t'" in problem:
            problem = "a tab, where YAML takes spaces only; replace it"
        raise UserError(f"not valid YAML: {where}{problem}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"not valid YAML: {str(error).splitlines()[0]}") from None


def _check_events(text: str) -> None:
    """Refuse what is YAML and no plain data, before anything is made of it."""
    depth = documents = 0
    for event in yaml.parse(text, Loader=_Loader):
        line = event.start_mark.line + 1 if event.start_mark is not None else 1
        if isinstance(event, yaml.AliasEvent):
            raise UserError("YAML aliases (*name) are not used here; write the value out or use extends")
        tag = getattr(event, "tag", None)
        if tag is not None and tag != "!":
            shown = tag.replace("tag:yaml.org,2002:", "!!")
            raise UserError(
                f"not valid YAML: line {line}: the tag {shown[:80]} is not used here; write the plain value"
            )
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise UserError(
                    f"not valid YAML: line {line} begins a second document (---); keep one in a file"
                )
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            depth += 1
            if depth > DEEPEST:
                raise UserError(
                    f"not valid YAML: line {line}: lists and mappings lie more than {DEEPEST} deep; a config has a few levels"
                )
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            depth -= 1


def read_text(path: Path) -> str:
    """The text of a small UTF-8 file that people write.

    Raises:
        UserError: no plain file, not readable, too large, or not UTF-8; the sentence begins with the path.
    """
    try:
        if not path.is_file():
            kind = "a directory" if path.is_dir() else "no plain file" if path.exists() else "not there"
            raise UserError(f"{path} is {kind}; give a YAML file")
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise UserError(
                f"{path}: {size:,} bytes are no config, which has {LARGEST_FILE:,} at most; give another file"
            )
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if raw.startswith(_UTF16):
        raise UserError(f"{path}: is UTF-16 and not UTF-8 text; save it as UTF-8")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text at byte {error.start}; save it as UTF-8") from None
