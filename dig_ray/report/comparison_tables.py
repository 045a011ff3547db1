"""A comparison's figures as tables, as the page around them, and as lines of a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dig_ray.evaluation.slices import NEW, REPEAT
from dig_ray.report import figure_text, results
from dig_ray.report.gather import RULES
from dig_ray.report.page import render_page

SHOWN = ("HR@5", "HR@10", "HR@20", "HR@50", "NDCG@5", "NDCG@10", "MRR@10")
LLM = (("calls", 0), ("tokens", 0), ("cost", 2))
"""Of ``llm_figures``, with the digits that are shown."""
SID_FIGURES = {
    "collision_rate": "Items that share a code",
    "next_item_prefix_1": "Next item, first code: lift",
    "next_item_prefix_2": "Next item, two codes: lift",
    "pairs_kept": "Neighbours kept",
    "intent_information": "First code and true intent: AMI",
}


def comparison_page(report: Mapping[str, Any], thumbnails: Mapping[str, str]) -> str:
    """A comparison as one HTML document.

    Args:
        report: the content of ``comparison.json``.
        thumbnails: name -> small picture as a data URI, of the items that it follows through the variants.
    """
    return render_page(
        "comparison.html", comparison=report, tables=page_tables(report), thumbnails=thumbnails
    )


def page_tables(report: Mapping[str, Any]) -> dict[str, Any]:
    """The report's figures as the page's tables."""
    variants = report["variants"]
    by_rule = []
    for rule in RULES:
        shown = [metric for metric in SHOWN if metric in report["metrics"]] or report["metrics"][:4]
        main = "NDCG@10" if "NDCG@10" in shown else shown[-1]
        by_rule.append(
            {
                "rule": rule,
                "name": results.RULE_NAMES[rule],
                "main": main,
                "bars": _bars(variants, rule, main),
                "beyond": _beyond(variants, rule),
                "accuracy": _accuracy(
                    "Mean over the seeds", variants, [v["results"][rule] for v in variants], shown
                ),
                "paired": _differences("minus_first", "paired by user and seed", variants, rule, shown),
                "by_target": _by_target(variants, rule, shown) if rule == "seen" else [],
                "by_seed": results.Table(
                    f"{main} of each seed",
                    [str(seed) for seed in report["seeds"]],
                    [
                        (
                            "",
                            [
                                results.Row(
                                    v["name"],
                                    [
                                        results.Cell(figure_text.metric(x))
                                        for x in v["results"][rule][main]["by_seed"]
                                    ],
                                )
                                for v in variants
                            ],
                        )
                    ],
                ),
            }
        )
    known = [key for key in SID_FIGURES if any(one[key] is not None for v in variants for one in v["sids"])]
    sid_rows = [
        results.Row(v["name"], [results.Cell(_mean([one[key] for one in v["sids"]], key)) for key in known])
        for v in variants
        if v["sids"]
    ]
    llm_rows = [
        results.Row(
            v["name"],
            [results.Cell(f"{np.mean([one[key] for one in v['llm']]):,.{digits}f}") for key, digits in LLM],
        )
        for v in variants
    ]
    return {
        "rules": by_rule,
        "sids": results.Table(
            "Semantic IDs, mean over the seeds", [SID_FIGURES[key] for key in known], [("", sid_rows)]
        )
        if sid_rows
        else None,
        "llm": results.Table(
            "Asked of language models, mean over the seeds",
            ["Calls", "Tokens", "US dollars"],
            [("", llm_rows)],
        )
        if any(one["calls"] for v in variants for one in v["llm"])
        else None,
    }


def _accuracy(
    caption: str,
    variants: Sequence[Mapping[str, Any]],
    found: Sequence[Mapping[str, Any]],
    shown: Sequence[str],
) -> results.Table:
    """A row of figures for each variant, the best of each column marked."""
    columns = []
    for metric in shown:
        entries = [one[metric] for one in found]
        marks = results.best_of([entry["mean"] for entry in entries])
        columns.append(
            [
                results.Cell(
                    figure_text.metric(e["mean"]),
                    figure_text.interval(e["low"], e["high"]),
                    "best" if mark else "",
                )
                for e, mark in zip(entries, marks, strict=True)
            ]
        )
    rows = [
        results.Row(
            variant["name"],
            [column[n] for column in columns],
            ", ".join(variant["settings"]) or "the base run",
        )
        for n, variant in enumerate(variants)
    ]
    return results.Table(caption, list(shown), [("", rows)])


def _bars(variants: Sequence[Mapping[str, Any]], rule: str, main: str) -> list[dict[str, Any]]:
    """The main metric of every variant, under the name that the comparison gives it."""
    found = {v["name"]: {"ks": [10], "metrics": {"NDCG@10": v["results"][rule][main]}} for v in variants}
    return [bar | {"label": name} for name, bar in zip(found, results.bars(found), strict=True)]


def _beyond(variants: Sequence[Mapping[str, Any]], rule: str) -> results.Table:
    """What is beside accuracy, mean over the seeds."""
    found = [v["beyond"][rule] for v in variants]
    names = [name for name in results.BEYOND if any(one.get(name) is not None for one in found)]
    rows = [
        results.Row(v["name"], [results.beyond_cell(name, one.get(name)) for name in names])
        for v, one in zip(variants, found, strict=True)
    ]
    return results.Table(
        "Beyond accuracy, at 10, mean over the seeds", [results.BEYOND[name] for name in names], [("", rows)]
    )


def _differences(
    key: str, words: str, variants: Sequence[Mapping[str, Any]], rule: str, shown: Sequence[str]
) -> results.Table | None:
    """What every other variant differs from the first; None where there is no other."""
    rows = [
        results.Row(
            f"{variant['name']} − {variants[0]['name']}",
            [
                results.Cell(
                    figure_text.metric(d["difference"], signed=True),
                    figure_text.interval(d["low"], d["high"], signed=True),
                    results.direction(d),
                )
                for d in (variant[key][rule][metric] for metric in shown)
            ],
        )
        for variant in variants[1:]
    ]
    return (
        results.Table(f"Difference from {variants[0]['name']}, {words}", list(shown), [("", rows)])
        if rows
        else None
    )


def _by_target(variants: Sequence[Mapping[str, Any]], rule: str, shown: Sequence[str]) -> list[results.Table]:
    """The figures of cases whose target is new, what they differ, and the figures of repeats; [] where no target is a repeat."""
    if "by_target" not in variants[0]:
        return []
    new, repeat = (
        _accuracy(
            f"Where the target is {words}", variants, [v["by_target"][rule][part] for v in variants], shown
        )
        for part, words in ((NEW, "new to the user"), (REPEAT, "in the history already"))
    )
    apart = _differences("minus_first_new", "where the target is new to the user", variants, rule, shown)
    return [new, *([apart] if apart else []), repeat]


def _mean(values: Sequence[float | None], key: str) -> str:
    some = [value for value in values if value is not None]
    if not some:
        return figure_text.NONE
    mean = float(np.mean(some))
    return figure_text.percent(mean) if key in ("collision_rate", "pairs_kept") else figure_text.number(mean)


def comparison_lines(report: Mapping[str, Any]) -> list[str]:
    """What a terminal shows: NDCG@10 and HR@10 of every variant, and its difference from the first."""
    shown = [metric for metric in ("HR@10", "NDCG@10") if metric in report["metrics"]]
    widest = max(len(variant["name"]) for variant in report["variants"])
    lines = []
    for rule in RULES:
        lines.append(results.RULE_NAMES[rule].lower())
        for variant in report["variants"]:
            parts = []
            for metric in shown:
                of = variant["results"][rule][metric]
                text = f"{metric} {figure_text.metric(of['mean'])} ({figure_text.interval(of['low'], of['high'])})"
                if variant["minus_first"]:
                    d = variant["minus_first"][rule][metric]
                    between = figure_text.interval(d["low"], d["high"], signed=True)
                    text += f", {figure_text.metric(d['difference'], signed=True)} ({between})"
                parts.append(text)
            lines.append(f"  {variant['name']:<{widest}}  " + "; ".join(parts))
    return lines
