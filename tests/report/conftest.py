"""One finished run for all tests of the page."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


def _world() -> ModuleType:
    if "report_world" not in sys.modules:
        spec = importlib.util.spec_from_file_location("report_world", Path(__file__).parent / "world.py")
        assert spec is not None and spec.loader is not None
        module = sys.modules["report_world"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules["report_world"]


@pytest.fixture(scope="session")
def world() -> ModuleType:
    return _world()


@pytest.fixture(scope="session")
def finished(world: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run whose first items have hostile titles."""
    data = world.dataset(40, 60)
    titles = data.items.column("title").to_pylist()
    titles[: len(world.HOSTILE)] = world.HOSTILE
    return world.write_run(tmp_path_factory.mktemp("run"), world.dataset(40, 60, titles), sizes=(4, 4, 4))
