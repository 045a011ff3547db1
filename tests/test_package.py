"""The package: quick to import, its floors kept, and torchvision importable beside a CPU torch."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = [
    path for folder in ("dig_ray", "jobs", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))
]


def python(code: str, timeout: float = 120) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, timeout=timeout, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_import_is_quick() -> None:
    times = []
    for _ in range(5):
        started = time.perf_counter()
        python("import dig_ray")
        times.append(time.perf_counter() - started)
    assert min(times) < 0.5


@pytest.mark.parametrize(
    "module",
    ["dig_ray", "dig_ray.config", "dig_ray.artifacts.store", "dig_ray.pipeline", "dig_ray.console.cli"],
)
def test_light_modules_load_nothing_heavy(module: str) -> None:
    heavy = {"torch", "transformers", "ray", "pandas", "sklearn", "matplotlib", "datasets", "trl", "pyarrow"}
    loaded = set(python(f"import sys, {module}; print(*sys.modules)").split())
    assert not heavy & loaded


def test_torchvision_and_what_needs_it_can_be_imported() -> None:
    out = python(
        "import dig_ray, torch, torchvision\n"
        "from torchvision.transforms import v2\n"
        "from torchvision.ops import nms\n"
        "print(v2.functional.resize(torch.zeros(3, 8, 8), [4, 4]).shape[-1])"
    )
    assert out.strip() == "4"


def test_the_hook_leaves_a_matching_torchvision_alone() -> None:
    code = (
        "import sys, types\n"
        "from dig_ray import torchvision_ops as ops\n"
        "torch = types.ModuleType('torch'); torch.version = types.SimpleNamespace(cuda='13.0')\n"
        "sys.modules['torch'] = torch\n"
        "print(ops.declare_missing_ops(), sum(type(f).__name__ == '_TorchvisionHook' for f in sys.meta_path))\n"
        "ops.install(); print(sum(type(f).__name__ == '_TorchvisionHook' for f in sys.meta_path))"
    )
    assert python(code).split() == ["False", "1", "1"]


def test_no_unsafe_loading_anywhere() -> None:
    """No pickle, eval, exec or unsafe YAML; torch.load only with weights_only=True; numpy without pickles."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            where = f"{path}:{getattr(node, 'lineno', 0)}"
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            given = {key.arg: ast.unparse(key.value) for key in node.keywords}
            assert name not in {"eval", "exec", "yaml.unsafe_load", "yaml.full_load"}, where
            assert name.split(".")[0] not in {
                "pickle",
                "cPickle",
                "dill",
                "cloudpickle",
                "marshal",
                "shelve",
            }, where
            if name == "torch.load":
                assert given.get("weights_only") == "True", where
            if name == "np.load":
                assert given.get("allow_pickle", "False") == "False", where
            if name == "yaml.load":
                assert given.get("Loader") == "_Loader", where  # a SafeLoader


def test_versions_are_bounded_so_that_a_fresh_machine_gets_what_was_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = {line.split("=")[0].split(">")[0].split("[")[0]: line for line in project["dependencies"]}
    assert pins["torch"] == "torch>=2.13,<2.14" and pins["ray"].endswith("==2.60.*")
    assert not any("vllm" in line for line in project["dependencies"])
    assert project["license"] == "Apache-2.0" and (ROOT / "LICENSE").is_file()


def test_floors_are_kept() -> None:
    pytest.importorskip("importlinter", reason="import-linter is in the test extra")
    command = [
        sys.executable,
        "-c",
        "import sys; from importlinter.cli import lint_imports_command as c; c()",
    ]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout
