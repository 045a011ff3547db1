"""The plan of the house: few loose files, one name for one thing, and no two modules that need each other."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import grimp
import networkx
import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "dig_ray"
EACH_ROOM_HAS = {"__init__", "config", "stages", "stage"}


def test_few_files_lie_loose() -> None:
    loose = [path.name for path in PACKAGE.iterdir() if path.is_file()]
    assert len(loose) <= 8, loose


def test_no_two_modules_have_one_base_name() -> None:
    places = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        places[path.stem].append(str(path.relative_to(PACKAGE)))
    twice = {stem: found for stem, found in places.items() if len(found) > 1 and stem not in EACH_ROOM_HAS}
    assert not twice


def test_no_circle_of_imports() -> None:
    """Also not by an import inside a function; what is imported for type checkers alone is left out."""
    imports = grimp.build_graph("dig_ray", exclude_type_checking_imports=True, cache_dir=None)
    graph = networkx.DiGraph(
        (name, read) for name in imports.modules for read in imports.find_modules_directly_imported_by(name)
    )
    assert graph.number_of_edges() > 1000
    circles = [sorted(found) for found in networkx.strongly_connected_components(graph) if len(found) > 1]
    assert circles == []


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
