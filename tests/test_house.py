"""The plan of the house: few loose files, one name for one thing, and no two modules that need each other."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "dig_ray"
EACH_ROOM_HAS = {"__init__", "config", "stages", "stage"}


def modules() -> dict[str, Path]:
    """Dotted name -> file, of all code of the package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """The package's modules that a file imports when it runs; those for type checkers alone are left out."""
    found: set[str] = set()

    def walk(node: ast.AST) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in known else str(node.module))
        for child in ast.iter_child_nodes(node):
            walk(child)

    walk(ast.parse(path.read_text(encoding="utf-8")))
    return found & set(known)


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules of which each reaches each other."""
    reach = {}
    for start in graph:
        todo, seen = list(graph[start]), set()
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                todo.extend(graph[name])
        reach[start] = seen
    return [
        sorted(n for n in reach[name] if name in reach[n]) for name in sorted(graph) if name in reach[name]
    ]


def test_few_files_lie_loose() -> None:
    loose = [path.name for path in PACKAGE.iterdir() if path.is_file()]
    assert len(loose) <= 8, loose


def test_no_two_modules_have_one_base_name() -> None:
    places = defaultdict(list)
    for name, path in modules().items():
        places[path.stem].append(name)
    twice = {stem: found for stem, found in places.items() if len(found) > 1 and stem not in EACH_ROOM_HAS}
    assert not twice


def test_no_circle_of_imports() -> None:
    known = modules()
    assert circles({name: imports(path, known) for name, path in known.items()}) == []


def test_a_circle_would_be_seen() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}
    assert circles(graph) == [["b", "c"], ["b", "c"]]


def test_every_folder_and_loose_file_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = [path.name for path in PACKAGE.iterdir() if path.is_dir() or path.suffix in (".py", ".pth")]
    missing = [name for name in named if not name.startswith("__") and name not in text]
    assert not missing
    for path in sorted((ROOT / "docs").glob("*.md")):
        assert f"docs/{path.name}" in text, f"README.md does not name docs/{path.name}"


@pytest.mark.parametrize(
    "page", ["README.md", *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md") if p.stem != "LOG")]
)
def test_a_file_that_a_page_names_is_there(page: str) -> None:
    """``LOG.md`` is dated, and speaks of files that there were."""
    named = re.findall(
        r"(?<![\w/.-])(?:[a-z_0-9]+/)+[a-z_0-9]+\.py\b", (ROOT / page).read_text(encoding="utf-8")
    )
    lost = [
        name
        for name in named
        if not any((base / name).is_file() for base in (ROOT, PACKAGE, ROOT / "tests", *PACKAGE.iterdir()))
    ]
    assert not lost
