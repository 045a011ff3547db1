"""Metrics without Ray: nothing breaks, nothing is loaded, and what calls name is what is declared."""

from __future__ import annotations

import ast
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dig_ray.on_ray import telemetry
from dig_ray.on_ray.telemetry import METRICS, count, named, observe, put, word

ROOT = Path(__file__).parents[2]


def test_without_ray_nothing_happens_and_nothing_is_loaded() -> None:
    code = (
        "import sys\nfrom dig_ray.on_ray.telemetry import count, observe, put\n"
        "count('dig_decode_users', 3, stage='recommend')\nput('dig_grpo_kl', 0.1)\n"
        "observe('dig_decode_batch_seconds', 0.1, stage='recommend')\n"
        "print(sorted({'ray', 'torch', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stdout.strip() == "[]", done.stderr


def test_names_follow_the_rule_and_tags_are_few() -> None:
    for name, metric in METRICS.items():
        assert re.fullmatch(r"dig(_[a-z0-9]+)+", name) and metric.kind in ("counter", "gauge", "histogram")
        assert metric.meaning and len(metric.tags) <= 3
        assert not {"item", "user", "path", "text", "id"} & set(metric.tags)


def test_every_call_names_a_metric_with_its_tags_and_every_metric_is_called() -> None:
    """Names that a call takes from a table of its module count as called where they stand in that table."""
    called, in_tables = set(), set()
    for path in sorted((ROOT / "dig_ray").rglob("*.py")):
        if path.name == "telemetry.py" or "dashboard" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Constant)
                and str(node.value).startswith("dig_")
                and node.value in METRICS
            ):
                in_tables.add(node.value)
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            if node.func.id not in ("count", "put", "observe") or not node.args:
                continue
            name = node.args[0]
            if not isinstance(name, ast.Constant):
                continue
            kind = {"count": "counter", "put": "gauge", "observe": "histogram"}[node.func.id]
            metric = METRICS[str(name.value)]
            assert metric.kind == kind, (path, name.value)
            given = {key.arg for key in node.keywords}
            assert None in given or given == set(metric.tags), (path, name.value)
            called.add(name.value)
    assert called <= in_tables and in_tables == set(METRICS)


@pytest.mark.parametrize(
    ("text", "shown"),
    [("bad_json", "bad_json"), ("status_503", "status_503"), ("a sentence of the model", "other"), ("", "other"), ("x" * 60, "other")],
)  # fmt: skip
def test_only_short_words_become_tags(text: str, shown: str) -> None:
    assert word(text) == shown


class Worker:
    """A worker."""

    def __call__(self) -> str:
        return "works"


def test_a_named_class_is_the_same_class_elsewhere() -> None:
    cloudpickle = pytest.importorskip("ray.cloudpickle")
    there = pickle.loads(cloudpickle.dumps(named(Worker, "Mine(qwen)")))
    assert there.__name__ == "Mine(qwen)" and there()() == "works"


@pytest.mark.usefixtures("ray_here")
def test_what_is_not_finite_or_nothing_is_left_out_and_a_call_costs_microseconds() -> None:
    import time

    put("dig_grpo_kl", float("nan"))
    put("dig_grpo_kl", None)
    count("dig_decode_users", 0, stage="recommend")
    observe("dig_decode_batch_seconds", 0.01, stage="recommend")
    best = float("inf")
    for _ in range(5):
        begun = time.process_time()
        for _ in range(1000):
            observe("dig_decode_batch_seconds", 0.01, stage="recommend")
            count("dig_decode_users", 32, stage="recommend")
        best = min(best, (time.process_time() - begun) / 1000)
    print(f"{best * 1e6:.1f} us for a histogram and a counter")
    assert best < 200e-6  # a batch takes 20 ms and more
    assert telemetry.alive()
