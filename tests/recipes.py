"""Recipes of all named configs and comparisons, and what engines count of themselves: to see that a move of code changes nothing.

    python tests/recipes.py > before.json        # at one commit
    python tests/recipes.py before.json          # at another: says what differs, exit code 1 where something does
    python tests/recipes.py before.json --but code

``--but code`` compares everything but the hashes of code, and the fingerprints that follow from them.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "jobs" / "configs"
MORE = (
    ("demo", "catalog.images.missing=drop"),
    ("demo", "catalog.demo.seed=3", "seed=5"),
    (
        "demo",
        "mining.items=[{engine: keyphrase}]",
        "mining.judge={engine: similarity}",
        "embedding.fields=[title,interests]",
    ),
    (
        "demo",
        "mining.items=[{engine: keyphrase}]",
        "mining.judge={engine: similarity}",
        "embedding.interests=positive",
        "embedding.fields=[title,interests]",
    ),
    ("demo", "mining.caption={engine: vllm, name: a, model: m}", "embedding.fields=[title,caption]"),
    (
        "demo",
        "mining.clusters={engine: openai, name: a, model: m, base_url: http://h/v1}",
        "multi_interest={}",
    ),
    ("demo", "multi_interest={}", "semantic_ids.vectors=multi_interest"),
    ("demo", "multi_interest={crowd: {choose: random}, search: faiss}"),
    ("demo", "multi_interest={negatives: null, routing: attention}"),
    ("demo", "multi_interest={negatives: 64}"),
    ("demo", "semantic_ids.method=rqvae"),
    ("demo", "semantic_ids.method=residual_kmeans"),
    ("demo", "fusion={target: cooccurrence}", "image_embedding.model=pixels"),
    ("demo", "grpo=null"),
    ("demo", "grpo={}", "evaluation.num_actors=2", "sft.num_workers=2"),
)


def runs() -> Iterator[tuple[str, Any]]:
    """Name and config of every run that the named configs, comparisons and the list above stand for."""
    from dig_ray.config import load_config

    for path in sorted(CONFIGS.glob("*.yaml")):
        yield path.stem, load_config(path, [], CONFIGS)
    for name, *overrides in MORE:
        try:
            yield f"{name} {' '.join(overrides)}", load_config(name, overrides, CONFIGS)
        except Exception as error:
            print(f"left out: {name} {overrides}: {str(error)[:120]}", file=sys.stderr)
    import yaml

    for path in sorted((CONFIGS / "comparisons").glob("*.yaml")):
        told = yaml.safe_load(path.read_text())
        for variant, settings in (told.get("variants") or {}).items():
            overrides = [*(told.get("settings") or ()), *(settings or ())]
            try:
                yield f"{path.stem}: {variant}", load_config(told["base"], overrides, CONFIGS)
            except Exception as error:
                print(f"left out: {path.stem}: {variant}: {str(error)[:120]}", file=sys.stderr)


def recipes() -> dict[str, Any]:
    """Run -> stage -> recipe and whether it needs Ray; stages of files that are not there are named with the reason."""
    from dig_ray.artifacts.store import Store
    from dig_ray.pipeline import can_run, plan, select
    from dig_ray.stages import STAGES

    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, config in runs():
            chosen = (
                select(config) if config.catalog.has_interactions else select(config, until="semantic_ids")
            )
            stages: dict[str, Any] = {}
            without_files = [_without_files(spec) for spec in chosen]
            for step in plan(config, without_files, Store(folder)):
                stages[step.spec.name] = step.recipe.payload() | {
                    "reads": sorted(step.recipe.inputs),
                    "fingerprint": step.recipe.fingerprint,
                    "on_ray": bool(step.spec.on_ray(config)),
                }
            for spec in chosen:
                stages[spec.name]["files"] = sorted(spec.files(config))
            found[name] = {
                "stages": stages,
                "askable": [s.name for s in STAGES if can_run(config, s.name)],
                "identity": {},
            }
            mining = config.mining
            for miner in (
                *mining.item_miners,
                *mining.users,
                *filter(None, (mining.caption, mining.judge, mining.clusters)),
            ):
                found[name]["identity"][miner.name] = miner.identity()
    return found


def _without_files(spec: Any) -> Any:
    from dataclasses import replace

    return replace(spec, files=lambda config: {})


def differences(before: Any, now: Any, but: frozenset[str], path: str = "") -> Iterator[str]:
    """One line for each value that differs, with its place."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*before, *(key for key in now if key not in before)]:
            if key in but:
                continue
            if key not in now or key not in before:
                yield f"{path}/{key}: only {'before' if key in before else 'now'}"
            else:
                yield from differences(before[key], now[key], but, f"{path}/{key}")
    elif before != now:
        yield f"{path}: {json.dumps(before)[:100]} -> {json.dumps(now)[:100]}"


def main() -> int:
    sys.path.insert(0, str(ROOT))
    arguments = [one for one in sys.argv[1:] if one != "--but"]
    now = recipes()
    if not arguments:
        print(json.dumps(now, indent=1, sort_keys=True))
        return 0
    before = json.loads(Path(arguments[0]).read_text())
    but = frozenset(("code", "fingerprint", "inputs") if "code" in arguments[1:] else ())
    found = list(differences(before, json.loads(json.dumps(now)), but))
    print("\n".join(found[:200]))
    print(
        f"{sum(len(one['stages']) for one in now.values())} recipes of {len(now)} runs, {len(found)} differences"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
