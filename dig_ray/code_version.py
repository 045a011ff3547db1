"""The code version of a stage: a hash of the modules it can reach, found by reading, not importing, them.

A stage's result depends on its code, so the hash of its code is part of its fingerprint. Which code that is, is
read off the ``import`` statements, also those inside functions, from the stage's entry module on. Comments,
docstrings and layout do not count: to improve a sentence should not cost a night of training.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

_ROOT = Path(__file__).parent
_PACKAGE = _ROOT.name
# what carries results but does not make them
_CARRIERS = frozenset(
    {_PACKAGE}
    | {
        f"{_PACKAGE}.{name}"
        for name in (
            "base",
            "cluster",
            "code_version",
            "errors",
            "folders",
            "manifest",
            "on_ray",
            "on_ray.loopback",
            "on_ray.run_folder",
            "on_ray.said",
            "on_ray.training_figures",
            "on_ray.worker_failures",
            "on_ray.workers",
            "parts",
            "progress",
            "remote",
            "store",
            "store_files",
            "telemetry",
        )
    }
)


def _file(module: str) -> Path | None:
    base = _ROOT.joinpath(*module.split(".")[1:])
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


@cache
def _read(module: str) -> tuple[str, frozenset[str]]:
    """Hash of a module's code and the dig_ray modules it names."""
    path = _file(module)
    assert path is not None, module
    tree = ast.parse(path.read_bytes(), filename=str(path))
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    named: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            named.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            named.add(base)
            named.update(f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body[0] = ast.Pass()
    inside = {name for name in named if name == _PACKAGE or name.startswith(f"{_PACKAGE}.")}
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), frozenset(n for n in inside if _file(n))


def modules_behind(entries: Iterable[str]) -> list[str]:
    """The dig_ray modules that ``entries`` reach, themselves included, sorted; packages bring their ``__init__``.

    Raises:
        ValueError: an entry does not exist.
    """
    todo, found = list(entries), set()
    for entry in todo:
        if _file(entry) is None:
            raise ValueError(f"{entry} is no module of {_PACKAGE}")
    while todo:
        module = todo.pop()
        if module in found or module in _CARRIERS:
            continue
        found.add(module)
        parts = module.split(".")
        todo.extend(".".join(parts[:n]) for n in range(2, len(parts)))
        todo.extend(_read(module)[1])
    return sorted(found)


def code_hash(entries: Iterable[str]) -> str:
    """16 hex digits over all modules behind ``entries``, and the data files that lie beside them."""
    digest = hashlib.sha256()
    modules = modules_behind(entries)
    for module in modules:
        digest.update(f"{module} {_read(module)[0]}\n".encode())
    for module in modules:
        folder = _ROOT.joinpath(*module.split(".")[1:])
        for path in sorted(folder.rglob("*")) if folder.is_dir() else ():  # templates, word lists
            if path.is_file() and path.suffix not in (".py", ".pyc"):
                digest.update(
                    f"{path.relative_to(_ROOT)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode()
                )
    return digest.hexdigest()[:16]
