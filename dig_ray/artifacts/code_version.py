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

_ROOT = Path(__file__).parents[1]
_PACKAGE = _ROOT.name
# what carries results but does not make them
_CARRIERS = frozenset(
    {_PACKAGE}
    | {
        f"{_PACKAGE}.{name}"
        for name in (
            "artifacts.code_version",
            "artifacts.folders",
            "artifacts.manifest",
            "artifacts.parts",
            "artifacts.remote",
            "artifacts.store",
            "artifacts.store_files",
            "base",
            "errors",
            "on_ray.loopback",
            "on_ray.progress",
            "on_ray.run_folder",
            "on_ray.said",
            "on_ray.session",
            "on_ray.telemetry",
            "on_ray.training_figures",
            "on_ray.worker_failures",
            "on_ray.workers",
        )
    }
)

_RIVALS = frozenset({f"{_PACKAGE}.{name}" for name in ("catalog.readers", "mining.engines")})
"""Packages whose ``__init__`` gathers rivals, of which a config chooses: a stage names the chosen ones as its code, and no other counts."""


def _file(module: str) -> Path | None:
    base = _ROOT.joinpath(*module.split(".")[1:])
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


@cache
def _read(module: str) -> tuple[str, frozenset[str]]:
    """Hash of a module's code and the dig_ray modules it names; of a package that says only what it is, "" and none."""
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
    if path.name == "__init__.py" and all(isinstance(node, ast.Pass) for node in tree.body):
        return "", frozenset()
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), frozenset(n for n in inside if _file(n))


def modules_behind(entries: Iterable[str]) -> list[str]:
    """The dig_ray modules that ``entries`` reach, themselves included, sorted; a package brings its ``__init__``, where that has code.

    Raises:
        ValueError: an entry does not exist.
    """
    todo, found = list(entries), set()
    for entry in todo:
        if _file(entry) is None:
            raise ValueError(f"{entry} is no module of {_PACKAGE}")
    while todo:
        module = todo.pop()
        if module in found or module in _CARRIERS or module in _RIVALS:
            continue
        found.add(module)
        parts = module.split(".")
        todo.extend(".".join(parts[:n]) for n in range(2, len(parts)))
        todo.extend(_read(module)[1])
    return sorted(module for module in found if _read(module)[0])


def code_hash(entries: Iterable[str]) -> str:
    """16 hex digits over all modules behind ``entries``, and the data files of the packages they are in, such as prompts and templates."""
    digest = hashlib.sha256()
    modules = modules_behind(entries)
    for module in modules:
        digest.update(f"{module} {_read(module)[0]}\n".encode())
    for package in sorted(
        {module if _is_package(module) else module.rpartition(".")[0] for module in modules}
    ):
        for path in _data_files(_ROOT.joinpath(*package.split(".")[1:])) if package != _PACKAGE else ():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.relative_to(_ROOT)} {content}\n".encode())
    return digest.hexdigest()[:16]


def _is_package(module: str) -> bool:
    return _ROOT.joinpath(*module.split(".")[1:], "__init__.py").is_file()


def _data_files(package: Path) -> list[Path]:
    """Files of a package that are no code; those of the packages within it are theirs."""
    found: list[Path] = []
    for path in sorted(package.iterdir()):
        if path.is_dir() and path.name != "__pycache__" and not (path / "__init__.py").is_file():
            found += _data_files(path)
        elif path.is_file() and path.suffix not in (".py", ".pyc"):
            found.append(path)
    return found
