"""The evaluation's nested figures as tables: rows, cells, which is best, and one sentence that says how it went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dig_ray.evaluation.slices import REPEAT
from dig_ray.report import figure_text

POLICY = "policy"
BEFORE_RL = "policy_sft"
METRICS = {"HR": "Hit rate", "NDCG": "NDCG", "MRR": "MRR"}
LABELS = {
    POLICY: "Policy",
    BEFORE_RL: "Policy before RL",
    "ldmi": "LDMI",
    "comirec_dr": "ComiRec-DR",
    "comirec_sa": "ComiRec-SA",
    "popularity": "Popularity",
    "repeat_last": "Repeat last",
    "item_knn": "Item-KNN",
    "sasrec": "SASRec",
}
BEYOND = {
    "coverage@10": "Coverage",
    "gini@10": "Gini",
    "novelty@10": "Novelty",
    "diversity@10": "Diversity",
    "interest_coverage@10": "Interests met",
    "short_lists": "Short lists",
}
RULE_NAMES = {"unseen": "Seen items left out", "seen": "Seen items allowed"}
MAIN = "NDCG@10"


@dataclass(frozen=True)
class Cell:
    """One figure: its text, its interval's, and how it stands out (``best``, ``up``, ``down``, ``flat`` or nothing)."""

    text: str
    interval: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Row:
    """A row of a table: its heading, a smaller remark on it, whether it is the policy's, and its cells."""

    label: str
    cells: list[Cell]
    note: str = ""
    policy: bool = False


@dataclass(frozen=True)
class Table:
    """A table with one body per group: caption, column headings, and (group heading, rows) pairs."""

    caption: str
    columns: list[str]
    groups: list[tuple[str, list[Row]]]


WORTH_SAYING = 0.001
"""Share of cases from which ties are told."""


def label(name: str) -> str:
    """A recommender's name for people."""
    return LABELS.get(name, name)


def order(names: Sequence[str]) -> list[str]:
    """Policy first, then the known baselines, then others by name."""
    known = list(LABELS)
    return sorted(names, key=lambda name: (known.index(name) if name in known else len(known), name))


def by_rule(metrics: Mapping[str, Any], rule: str) -> dict[str, Mapping[str, Any]]:
    """Recommender -> its figures under one rule, in the order of the page."""
    results = metrics["results"]
    return {name: results[name][rule] for name in order(list(results)) if rule in results[name]}


def main_metric(result: Mapping[str, Any]) -> str:
    """NDCG@10, or the NDCG with the longest cut-off where 10 was not evaluated."""
    return MAIN if MAIN in result["metrics"] else f"NDCG@{max(result['ks'])}"


def best_of(values: Sequence[Any]) -> list[bool]:
    """Which are the highest, as shown; none when there is nothing above zero or only one to choose from."""
    shown = [None if value is None else round(value, 4) for value in values]
    top = max((value for value in shown if value is not None), default=0)
    return [len(values) > 1 and value == top and top > 0 for value in shown]


def accuracy_table(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """HR, NDCG and MRR at every cut-off with intervals, the best of each column marked."""
    ks = next(iter(results.values()))["ks"]
    groups = []
    for short, long in METRICS.items():
        columns = []
        for k in ks:
            entries = [result["metrics"][f"{short}@{k}"] for result in results.values()]
            marks = best_of([entry["mean"] for entry in entries])
            columns.append(
                [
                    Cell(
                        figure_text.metric(e["mean"]),
                        figure_text.interval(e["low"], e["high"]),
                        "best" if mark else "",
                    )
                    for e, mark in zip(entries, marks, strict=True)
                ]
            )
        groups.append((long, _rows(results, columns)))
    return Table("Accuracy over the whole catalogue", [f"@{k}" for k in ks], groups)


def gain_of_rl(metrics: Mapping[str, Any], rule: str) -> str:
    """One sentence: what RL changed on the test split, by the paired difference; empty for a run without RL."""
    results = by_rule(metrics, rule)
    if BEFORE_RL not in results or POLICY not in results:
        return ""
    name = main_metric(results[POLICY])
    entry = ((metrics.get("policy_minus") or {}).get(BEFORE_RL, {}).get(rule) or {}).get(name)
    if entry is None:
        return ""
    words = {"up": "RL helped", "down": "RL hurt", "flat": "No effect of RL can be told from chance"}
    between = figure_text.interval(entry["low"], entry["high"], signed=True)
    return (
        f"{words[direction(entry)]}: test {name} {figure_text.metric(entry['a'])} before, {figure_text.metric(entry['b'])} after, "
        f"{figure_text.metric(entry['difference'], signed=True)}, paired 95% interval {between}."
    )


def chance(manifests: Mapping[str, Mapping[str, Any]], rule: str) -> str:
    """One sentence: for how many targets chance among items of one score decided, by baseline; empty where it hardly did."""
    stats = manifests.get("baselines", {}).get("stats") or {}
    shares = {
        label(name): told["ties"].get(rule, 0.0)
        for name, told in stats.items()
        if isinstance(told, dict) and isinstance(told.get("ties"), dict)
    }
    said = [f"{name} {share:.1%}" for name, share in shares.items() if share >= WORTH_SAYING]
    if not said:
        return ""
    return f"Share of test cases in which the order of items of one score, which is by a hash of their ids, decided: {', '.join(said)}."


def _rows(names: Mapping[str, Any], columns: list[list[Cell]]) -> list[Row]:
    return [
        Row(label(name), [column[i] for column in columns], policy=name == POLICY)
        for i, name in enumerate(names)
    ]


def beyond_table(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """Coverage, Gini of exposure, novelty and variety at 10; nothing is best here, they trade against accuracy."""
    some = results.values()
    shown = [name for name in BEYOND if any(r.get(name) is not None for r in some)]
    columns = [[beyond_cell(name, r.get(name)) for r in some] for name in shown]
    return Table("Beyond accuracy, at 10", [BEYOND[name] for name in shown], [("", _rows(results, columns))])


def beyond_cell(name: str, value: float | None) -> Cell:
    """One of ``BEYOND`` as it is shown: shares in per cent."""
    if name in ("gini@10", "novelty@10", "short_lists"):
        return Cell(figure_text.number(value, 3) if name == "gini@10" else figure_text.number(value))
    return Cell(figure_text.percent(value))


def paired_table(metrics: Mapping[str, Any], rule: str) -> Table | None:
    """Policy minus each baseline with the interval of the paired difference; None when there is nothing to pair."""
    paired = metrics.get("policy_minus") or {}
    names = [name for name in order(list(paired)) if rule in paired[name]]
    if not names:
        return None
    ks = metrics["results"][names[0]][rule]["ks"]
    groups = []
    for short, long in METRICS.items():
        rows = []
        for name in names:
            cells = []
            for k in ks:
                entry = paired[name][rule][f"{short}@{k}"]
                cells.append(
                    Cell(
                        figure_text.metric(entry["difference"], signed=True),
                        figure_text.interval(entry["low"], entry["high"], signed=True),
                        direction(entry),
                    )
                )
            rows.append(Row(f"− {label(name)}", cells))
        groups.append((long, rows))
    return Table("Policy minus baseline", [f"@{k}" for k in ks], groups)


def direction(entry: Mapping[str, Any]) -> str:
    """``up`` or ``down`` when the 95% interval leaves zero out, else ``flat``."""
    low, high = entry["low"], entry["high"]
    if low is not None and low > 0:
        return "up"
    return "down" if high is not None and high < 0 else "flat"


def slice_tables(results: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """The main metric by popularity of the target, by length of the history, and for repeats where there are any."""
    headings = {
        "popularity": "by training events of the target",
        "history": "by length of the history",
    }
    if repeats(results):
        headings["target"] = "by whether the target is in the history"
    first = next(iter(results.values()))
    name = main_metric(first)
    tables = []
    for kind, heading in headings.items():
        rows = []
        for i, part in enumerate(first.get("slices", {}).get(kind, [])):
            entries = [result["slices"][kind][i]["metrics"][name] for result in results.values()]
            marks = best_of([entry["mean"] for entry in entries])
            cells = [
                Cell(
                    figure_text.metric(e["mean"]),
                    figure_text.interval(e["low"], e["high"]),
                    "best" if mark else "",
                )
                for e, mark in zip(entries, marks, strict=True)
            ]
            rows.append(Row(part["slice"], cells, f"{part['n']:,}, {figure_text.percent(part['share'], 0)}"))
        if rows:
            tables.append(Table(f"{name} {heading}", [label(n) for n in results], [("", rows)]))
    return tables


def repeats(results: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """How many targets are in the user's history already (``n``, ``share``); None when there is none."""
    parts = next(iter(results.values())).get("slices", {}).get("target", [])
    return next((part for part in parts if part["slice"] == REPEAT), None)


def bars(results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The main metric as bars: shares of the longest in per cent, with the interval's ends."""
    name = main_metric(next(iter(results.values())))
    entries = {key: result["metrics"][name] for key, result in results.items()}
    top = max(max(e["high"] or 0, e["mean"] or 0) for e in entries.values()) or 1.0
    marks = best_of([e["mean"] for e in entries.values()])

    def share(value: float | None) -> float:
        return round(100 * (value or 0) / top, 2)

    return [
        {
            "label": label(key),
            "policy": key == POLICY,
            "best": mark,
            "text": figure_text.metric(e["mean"]),
            "width": share(e["mean"]),
            "low": None if e["low"] is None else share(e["low"]),
            "span": None if e["low"] is None else round(share(e["high"]) - share(e["low"]), 2),
        }
        for (key, e), mark in zip(entries.items(), marks, strict=True)
    ]


def verdict(metrics: Mapping[str, Any], rule: str) -> str:
    """One or two sentences: where the policy stands, and against the strongest baseline by the paired difference."""
    results = by_rule(metrics, rule)
    if POLICY not in results:
        return ""
    name = main_metric(results[POLICY])
    own = results[POLICY]["metrics"][name]
    text = f"The policy reaches {name} {figure_text.metric(own['mean'])}"
    if own["low"] is not None:
        text += f" (95% interval {figure_text.interval(own['low'], own['high'])})"
    others = {key: result for key, result in results.items() if key not in (POLICY, BEFORE_RL)}
    if not others:
        return text + "."
    rival = max(others, key=lambda key: others[key]["metrics"][name]["mean"] or 0)
    other = others[rival]["metrics"][name]["mean"] or 0.0
    text += f"; the strongest baseline, {label(rival)}, reaches {figure_text.metric(other)}"
    entry = ((metrics.get("policy_minus") or {}).get(rival, {}).get(rule) or {}).get(name)
    if entry is None:
        return text + "."
    words = {
        "up": "The policy is ahead",
        "down": "The policy is behind",
        "flat": "The two cannot be told apart",
    }
    gap = f"{figure_text.metric(entry['difference'], signed=True)}"
    if entry["relative"] is not None:
        gap += f", {'+' if entry['relative'] > 0 else ''}{figure_text.percent(entry['relative'])}"
    between = figure_text.interval(entry["low"], entry["high"], signed=True)
    return f"{text}. {words[direction(entry)]}: {gap}, paired 95% interval {between}."
