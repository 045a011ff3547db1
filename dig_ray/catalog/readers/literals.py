"""Lists and objects that a table holds as text: JSON, or what Python and pandas print. Nothing is ever run.

pandas writes a cell that is a list into a CSV as ``['Home', 'Cups']``, one that is an array as ``['Home' 'Cups']`` (which Python would
read as one glued text), one with a gap as ``['Home', nan]``, and an array in a list as ``[array(['Home'], dtype=object)]``.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from typing import Any

LONGEST = 10_000_000  # characters of a list written as JSON
LONGEST_LITERAL = 100_000  # of one that is no JSON: Python's parser needs far more memory than the text
NAMES: dict[str, Any] = {
    "nan": None,
    "NaN": None,
    "NaT": None,
    "null": None,
    "None": None,
    "true": True,
    "false": False,
    "True": True,
    "False": False,
}
_STRING = r"""'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*\""""
_STRINGS = re.compile(rf"""({_STRING})(\s*)(?=(['"])?)""", re.DOTALL)
_MISSING = re.compile(rf"({_STRING})|<NA>", re.DOTALL)


def is_container_text(text: str) -> bool:
    """Whether a text begins and ends as a list or an object does."""
    text = text.strip()
    return len(text) > 1 and (text[0], text[-1]) in (("[", "]"), ("{", "}"))


def read_literal(text: str) -> Any:
    """The value that a text writes down as JSON or as a Python literal; tuples, sets and arrays are lists, NaN and the like are None.

    Raises:
        ValueError: it is neither, or too long.
    """
    text = text.strip()
    if len(text) > LONGEST:
        raise ValueError(f"more than {LONGEST:,} characters")
    try:
        return json.loads(text, parse_constant=_constant)
    except (ValueError, RecursionError):
        pass
    if len(text) > LONGEST_LITERAL:
        raise ValueError(f"no JSON, and more than {LONGEST_LITERAL:,} characters")
    parted = _STRINGS.sub(lambda found: found[1] + (", " if found[3] else found[2]), text)
    named = _MISSING.sub(lambda found: found[1] or "None", parted)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that Python does not know
            return _value(ast.parse(named, mode="eval").body)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(f"neither JSON nor a Python literal ({str(error)[:80]})") from None


def _constant(word: str) -> float | None:
    return None if word == "NaN" else float(word)


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and not isinstance(node.value, (bytes, complex, type(...))):
        return node.value
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        return [_value(part) for part in node.elts]
    if isinstance(node, ast.Dict) and None not in node.keys:
        return {_value(k): _value(v) for k, v in zip(node.keys, node.values, strict=True) if k is not None}
    if isinstance(node, ast.Name) and node.id in NAMES:
        return NAMES[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        number = _value(node.operand)
        if isinstance(number, (int, float)) and not isinstance(number, bool):
            return -number if isinstance(node.op, ast.USub) else number
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "array"
        and node.args
    ):
        return _value(node.args[0])
    raise ValueError(f"a {type(node).__name__.lower()} is no value")
