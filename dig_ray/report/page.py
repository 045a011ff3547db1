"""The page: templates filled with a run's tables, curves, tree and examples, in one file that needs nothing else.

Titles and ids come from anybody's data. The template escapes every value, the tree travels as JSON whose ``<``, ``>`` and ``&``
are escaped and is put on the page as text only, and a content security policy allows no script but ours and no address at all.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from dig_ray.report import charts, figure_text, results
from dig_ray.report.example_users import examples
from dig_ray.report.gather import RULES, RunData
from dig_ray.report.interests import interests_of_users
from dig_ray.report.sid_tree import tree
from dig_ray.report.vector_sources import made_from

TEMPLATES = Path(__file__).parent / "templates"
LONGEST_TITLE = 80  # characters; a title is a label here


def template_files() -> list[Path]:
    """What the page's looks are made from, next to the code."""
    return sorted(TEMPLATES.iterdir())


def build_page(run: RunData) -> str:
    """A run as one HTML document. The same data gives the same text."""
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    return render_page(
        "page.html",
        **context(run),
        script=_raw(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def render_page(template: str, **values: Any) -> str:
    """A template filled with values, which it escapes, and the style that all pages share."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        metric=figure_text.metric,
        number=figure_text.number,
        percent=figure_text.percent,
        seconds=figure_text.seconds,
    )
    style = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    page = environment.get_template(template).render(**values, style=_raw(style))
    return page.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate in a title is no reason to fail


def context(run: RunData) -> dict[str, Any]:
    """What the template is given."""
    titles = item_titles(run)
    train = run.dataset.events[run.dataset.split == 0]
    counts = np.bincount(train, minlength=run.dataset.n_items)
    rules = [rule for rule in RULES if rule in run.lists]
    scored = []
    for rule in RULES if run.metrics else ():
        found = results.by_rule(run.metrics or {}, rule)
        if not found:
            continue
        scored.append(
            {
                "rule": rule,
                "name": results.RULE_NAMES[rule],
                "verdict": results.verdict(run.metrics or {}, rule),
                "gain_of_rl": results.gain_of_rl(run.metrics or {}, rule),
                "chance": results.chance(run.manifests, rule),
                "metric": results.main_metric(next(iter(found.values()))),
                "bars": results.bars(found),
                "accuracy": results.accuracy_table(found),
                "beyond": results.beyond_table(found),
                "paired": results.paired_table(run.metrics or {}, rule),
                "slices": results.slice_tables(found),
                "repeats": results.repeats(found),
                "n_bootstrap": next(iter(found.values())).get("n_bootstrap"),
                "seed": next(iter(found.values())).get("seed"),
            }
        )
    return {
        "run": run,
        "stats": run.manifests.get("catalog", {}).get("stats") or run.dataset.stats,
        "n_train": len(train),
        "n_test": len(run.dataset.cases("test")),
        "results": scored,
        "rules": [r for r in RULES if r in rules or any(s["rule"] == r for s in scored)],
        "rule_names": results.RULE_NAMES,
        "training": charts.training(run.curves) if run.curves else None,
        "rl": charts.reinforcement(run.rl) if run.rl else None,
        "mining": run.mining,
        "interests": None
        if run.interests is None
        else interests_of_users(run.dataset, run.interests, titles),
        "names": results.LABELS,
        "made_from": made_from(run.manifests),
        "picture": None if run.picture is None else base64.b64encode(run.picture).decode(),
        "tree": _json_script(tree(run.sids, titles, counts)),
        "n_nodes": int(run.sids.prefix_ids(1).max()) + 1,
        "examples": examples(run.dataset, run.sids, titles, {rule: run.lists[rule] for rule in rules}),
        "stages": stages(run),
        "versions": versions(run),
        "config": config_text(run),
    }


def item_titles(run: RunData) -> list[str]:
    """(N,) what every item is called: its title cut to a label, or its id where it has none."""
    ids = run.dataset.item_ids
    if "title" not in run.dataset.items.column_names:
        return [f"item {i}"[:LONGEST_TITLE] for i in ids]
    found = []
    for title, item_id in zip(run.dataset.items.column("title").to_pylist(), ids, strict=True):
        text = " ".join((title or "")[: 4 * LONGEST_TITLE].split()) or f"item {item_id}"
        found.append(text if len(text) <= LONGEST_TITLE else text[: LONGEST_TITLE - 1].rstrip() + "…")
    return found


def stages(run: RunData) -> list[dict[str, Any]]:
    """One row per stage, from its manifest."""
    rows = []
    for name, manifest in run.manifests.items():
        recipe = manifest.get("recipe") or {}
        rows.append(
            {
                "name": name,
                "fingerprint": manifest.get("fingerprint"),
                "code": recipe.get("code"),
                "seed": recipe.get("seed"),
                "seconds": manifest.get("seconds"),
                "rows": (manifest.get("stats") or {}).get("rows"),
                "created": str(manifest.get("created") or "").replace("T", " ").removesuffix("+00:00"),
            }
        )
    return rows


def versions(run: RunData) -> list[tuple[str, list[str]]]:
    """Package -> its versions over all stages: more than one when stages ran at different times."""
    found: dict[str, list[str]] = {}
    for manifest in run.manifests.values():
        for package, version in (manifest.get("versions") or {}).items():
            if version not in found.setdefault(package, []):
                found[package].append(version)
    first = ("dig_ray", "python")
    return sorted(found.items(), key=lambda entry: (entry[0] not in first, entry[0]))


def config_text(run: RunData) -> str:
    """The resolved config as YAML."""
    import yaml

    return yaml.safe_dump(dict(run.config), sort_keys=False, allow_unicode=True, width=88)


def _json_script(value: Any) -> Any:
    """JSON that can stand inside a script element: nothing in it can end the element or open another."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return _raw(text)


def _raw(text: str) -> Any:
    """Text of our own, or escaped already, that the template takes as it is."""
    from markupsafe import Markup

    return Markup(text)
