"""A sweep as a page: the decision, every trial through its parameters, which parameter mattered, curves, the front, and commands.

Importance is the share of a random forest's variance that a parameter explains (fANOVA, Hutter et al. 2014, by Optuna) over the trials
that came to an end; with few of them it is a hint and no more, and the page says over how many it was taken.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from dig_ray.base import Stage
from dig_ray.report.charts import chart, ticks
from dig_ray.report.figures import metric as written
from dig_ray.report.figures import seconds
from dig_ray.report.page import render_page

WIDTH, HEIGHT = 1040, 330
TOP, BOTTOM, SIDE = 46, 40, 74
CURVES = 8
"""Trials whose curves are drawn: as many as there are colours."""
SHOWN = 10
FEWEST = 4
"""Trials below which importance is not computed."""


def write_sweep(report: Mapping[str, Any], stage: Stage) -> None:
    """Write ``sweep.html`` and leave the lines for the terminal in the stage's stats.

    Args:
        report: what ``sweeps.run`` found; every trial, the finalists and the winner.
        stage: the artifact that is made.
    """
    page = render_page("sweep.html", **context(report))
    (stage.out / "sweep.html").write_bytes(page.encode("utf-8"))
    stage.stats.update(rows=len(report["trials"]), lines=sweep_lines(report))


def context(report: Mapping[str, Any]) -> dict[str, Any]:
    """What the template is given."""
    judged, ways = _judged(report)
    figure, way = next(iter(ways.items()))
    first, first_way = next(iter(report["directions"].items()))
    order = in_order(judged, {figure: way})
    by_end = counts(report)
    return {
        "sweep": report,
        "figure": figure,
        "way": way,
        "first": first,
        "winner": next(row for row in order if row["name"] == report["winner"]),
        "base": next((row for row in order if _is_base(row, report)), None),
        "counts": by_end,
        "parallel": parallel(report, first, first_way),
        "importance": None
        if report["generations"]
        else importance(report["trials"], first, list(report["config"]["space"])),
        "schedule": schedule(report),
        "population": population(report, first),
        "judged": by_end["complete"],
        "curves": curves(report, first, first_way),
        "final_curves": curves(report, figure, way, report["finalists"]) if report["finalists"] else None,
        "front": front(report),
        "final": table(report["finalists"], figure, way, report) if report["finalists"] else None,
        "every": table(report["trials"], first, first_way, report),
        "commands": [
            {"name": row["name"], "value": row["figures"].get(figure), "command": command(row, report)}
            for row in order[:3]
        ],
    }


def _judged(report: Mapping[str, Any]) -> tuple[list[Any], Mapping[str, str]]:
    """The rows that the winner was taken from, and by what."""
    if any(row["complete"] for row in report["finalists"]):
        return [row for row in report["finalists"] if row["complete"]], report["final_directions"]
    return [row for row in report["trials"] if row["complete"]], report["directions"]


def _is_base(row: Mapping[str, Any], report: Mapping[str, Any]) -> bool:
    return json.dumps(row["point"], sort_keys=True) == json.dumps(report["base"], sort_keys=True)


def in_order(rows: Sequence[Mapping[str, Any]], directions: Mapping[str, str]) -> list[dict[str, Any]]:
    """Best first by the first figure, then by the others; those that lack it come last."""

    def key(row: Mapping[str, Any]) -> tuple[float, ...]:
        signs = {"max": -1.0, "min": 1.0}
        return tuple(
            signs[way] * row["figures"].get(name, -signs[way] * math.inf) for name, way in directions.items()
        )

    return [dict(row) for row in sorted(rows, key=key)]


def counts(report: Mapping[str, Any]) -> dict[str, int]:
    """Trials by how they ended."""
    rows = report["trials"]
    return {
        "complete": sum(row["complete"] for row in rows),
        "stopped": sum(row["stopped"] for row in rows),
        "failed": sum(bool(row["error"]) for row in (*rows, *_replaced(report))),
        "impossible": report["impossible"],
    }


def _replaced(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Members of a population that failed before its last generation."""
    return [one for generation in report["generations"][:-1] for one in generation["members"] if one["error"]]


def command(row: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """The command that runs a trial as a whole run."""
    import shlex

    words = [*report["config"]["settings"], *row["settings"]]
    return " ".join(
        ["python jobs/pipeline.py", shlex.quote(report["config"]["base"]), *map(shlex.quote, words)]
    )


def sweep_lines(report: Mapping[str, Any]) -> list[str]:
    """What a person reads at the end."""
    judged, ways = _judged(report)
    figure, way = next(iter(ways.items()))
    by_end = counts(report)
    lines = [
        f"{len(report['trials'])} trials: {by_end['complete']} complete, {by_end['stopped']} stopped early, {by_end['failed']} failed; "
        f"{by_end['impossible']} impossible points left out; {seconds(report['seconds'])}"
    ]
    for row in in_order(judged, {figure: way})[:SHOWN]:
        mark = " (the base run)" if _is_base(row, report) else ""
        value = row["figures"].get(figure)
        shown = "none" if value is None else f"{value:.4f}"
        lines.append(f"{figure} {shown}  {row['name']}{mark}  {' '.join(row['settings'])}")
    failed = [row for row in (*_replaced(report), *report["trials"]) if row["error"]]
    lines.extend(f"failed: {row['name']}: {row['error']}" for row in failed)
    return lines


# --- pictures ------------------------------------------------------------------------------------------------


def parallel(report: Mapping[str, Any], figure: str, way: str) -> dict[str, Any] | None:
    """Parallel coordinates: an axis for every parameter and one for the figure, a line for every trial that has it."""
    rows = [row for row in report["trials"] if figure in row["figures"]]
    keys = list(report["config"]["space"])
    if not rows:
        return None
    places = [round(SIDE + i * (WIDTH - 2 * SIDE) / len(keys), 1) for i in range(len(keys) + 1)]
    axes = [_axis(key, [row["last"].get(key) for row in rows]) for key in keys]
    values = [row["figures"][figure] for row in rows]
    axes.append(_axis(figure, values))
    low, high = min(values), max(values)
    lines = []
    for row in in_order(rows, {figure: way})[::-1]:  # the best are drawn last, over the others
        own = [*(row["last"].get(key) for key in keys), row["figures"][figure]]
        goodness = 0.5 if high == low else (row["figures"][figure] - low) / (high - low)
        goodness = goodness if way == "max" else 1 - goodness
        points = [(x, axis["at"](value)) for x, axis, value in zip(places, axes, own, strict=True)]
        lines.append(
            {
                "path": " ".join(f"{x},{y}" for x, y in points if y is not None),
                "strength": round(0.12 + 0.75 * goodness**2, 2),
                "complete": row["complete"],
                "best": row["name"] == report["winner"],
                "title": f"{row['name']}: {figure} {row['figures'][figure]:.4f}",
            }
        )
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "top": TOP,
        "floor": HEIGHT - BOTTOM,
        "axes": [
            {"x": x, "name": _short(axis["name"]), "whole": axis["name"], "ticks": axis["ticks"], "up": i % 2}
            for i, (x, axis) in enumerate(zip(places, axes, strict=True))
        ],
        "lines": lines,
    }


def _axis(name: str, values: Sequence[Any]) -> dict[str, Any]:
    """Where values lie on an axis, bottom to top, and what is written beside it."""
    floor, top = HEIGHT - BOTTOM, TOP
    known = [v for v in values if v is not None]
    numbers = [v for v in known if isinstance(v, (int, float)) and not isinstance(v, bool)]
    fractions = any(isinstance(v, float) for v in numbers)
    if len(numbers) == len(known) and len(set(numbers)) > (1 if fractions else 5):
        low, high = min(numbers), max(numbers)
        log = low > 0 and high / low > 20
        span = math.log(high / low) if log else high - low

        def at(value: Any) -> float | None:
            if value is None:
                return None
            share = math.log(value / low) if log else value - low
            return round(floor - share / span * (floor - top), 1)

        marks = [low, math.sqrt(low * high), high] if log else [low, *ticks(low, high, 4), high]
        kept: list[float] = []
        for mark in marks:
            if all(abs((at(mark) or 0) - (at(one) or 0)) > 14 for one in kept):
                kept.append(mark)
        return {"name": name, "at": at, "ticks": [(at(mark), f"{mark:.4g}") for mark in kept]}
    order = sorted(set(numbers)) if len(numbers) == len(known) else sorted({str(v) for v in known})
    names: dict[Any, int] = {value: i for i, value in enumerate(order)}
    gap = (floor - top) / max(1, len(order) - 1) if len(order) > 1 else 0.0

    def place(value: Any) -> float | None:
        if value is None:
            return None
        number = names[value if value in names else str(value)]
        return round(floor - number * gap, 1) if gap else round((floor + top) / 2, 1)

    shown = [(place(value), _text(value)) for value in order]
    return {"name": name, "at": place, "ticks": shown}


def _text(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)
    return text if len(text) <= 16 else text[:15] + "…"


def _short(key: str) -> str:
    """The last word of a dotted key."""
    return key.rpartition(".")[2]


def importance(
    rows: Sequence[Mapping[str, Any]], figure: str, keys: Sequence[str]
) -> list[dict[str, Any]] | None:
    """Each parameter's share, largest first, of trials that came to an end; None where they are too few or all alike."""
    import optuna

    whole = [row for row in rows if row["complete"] and figure in row["figures"]]
    values = [row["figures"][figure] for row in whole]
    if len(whole) < FEWEST or max(values) == min(values):
        return None
    domains = {key: [row["point"][key] for row in whole if key in row["point"]] for key in keys}
    spread = {
        key: found for key, found in domains.items() if len(found) == len(whole) and len(set(found)) > 1
    }
    if not spread:
        return None
    if len(spread) == 1:
        return [{"name": next(iter(spread)), "share": 1.0, "width": 100.0}]
    distributions = {key: _distribution(found) for key, found in spread.items()}
    study = optuna.create_study()
    for row, value in zip(whole, values, strict=True):
        study.add_trial(
            optuna.trial.create_trial(
                value=value, params={key: row["point"][key] for key in spread}, distributions=distributions
            )
        )
    found = optuna.importance.get_param_importances(
        study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
    )
    most = max(found.values()) or 1.0
    return [
        {"name": name, "share": share, "width": round(100 * share / most, 1)}
        for name, share in sorted(found.items(), key=lambda pair: -pair[1])
    ]


def _distribution(found: Sequence[Any]) -> Any:
    import optuna

    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in found)
    if not numbers:
        return optuna.distributions.CategoricalDistribution(sorted(set(found), key=str))
    low, high = min(found), max(found)
    if all(isinstance(v, int) for v in found):
        return optuna.distributions.IntDistribution(low, high)
    return optuna.distributions.FloatDistribution(low, high, log=low > 0 and high / low > 20)


def curves(
    report: Mapping[str, Any], figure: str, way: str, rows: Sequence[Any] | None = None
) -> dict[str, Any] | None:
    """How the best trials came to their figure; None where nothing was reported on the way."""
    time = report["time" if rows is None else "final_time"]
    drawn = []
    for row in in_order(report["trials"] if rows is None else rows, {figure: way}):
        points = [(one[time], one[figure]) for one in row["curve"] if figure in one and time in one]
        if points:
            drawn.append((row["name"], points))
    most = max((abs(y) for _, points in drawn for _, y in points), default=0.0)
    found = chart(
        f"{figure} by {time}, the best {min(len(drawn), CURVES)}", drawn[:CURVES], span=0.1 * most
    )  # less is chance, not a mountain
    return None if found is None else {**found, "axis": time}


def front(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """The first two objectives against each other, with those that no other trial beats marked; None with one objective."""
    if len(report["directions"]) < 2:
        return None
    (y_name, y_way), (x_name, x_way) = list(report["directions"].items())[:2]
    rows = [
        r for r in report["trials"] if r["complete"] and x_name in r["figures"] and y_name in r["figures"]
    ]
    if not rows:
        return None
    points = sorted((row["figures"][x_name], row["figures"][y_name]) for row in rows)
    best = sorted((r["figures"][x_name], r["figures"][y_name]) for r in rows if r["name"] in report["front"])
    drawn = chart(f"{y_name} ({y_way}) against {x_name} ({x_way})", [("all", points), ("front", best)])
    assert drawn is not None
    every, *rest = drawn["lines"]
    return {
        **{k: drawn[k] for k in ("title", "x", "y", "width", "height", "left", "right", "floor")},
        "dots": _dots(every["path"]),
        "path": rest[0]["path"] if rest else "",
        "marks": _dots(rest[0]["path"]) if rest else [],
        "axis": x_name,
        "said": f"{y_name} against {x_name} for {len(rows)} trials, {len(best)} of them on the front",
    }


def _dots(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, _, y in (pair.partition(",") for pair in path.split())]


def schedule(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the winner of a population was trained with, and from when on; None without a population."""
    winner = next((row for row in report["trials"] if row["name"] == report["winner"]), None)
    if winner is None or not report["generations"]:
        return None
    keys = list(report["config"]["space"])
    rows = [
        {
            "label": f"from {report['time']} {one['time']}",
            "note": "",
            "policy": False,
            "cells": [{"text": _text(one["values"].get(key)), "mark": "", "interval": ""} for key in keys],
        }
        for one in winner["schedule"]
    ]
    caption = f"Values of {winner['name']}; chosen.yaml holds them as changes, and trains the same policy from nothing"
    return {"caption": caption, "columns": keys, "groups": [("", rows)]}


def population(report: Mapping[str, Any], figure: str) -> dict[str, Any] | None:
    """Every meeting of a population: its members' figures, and who took up whom; None without one."""
    if not report["generations"]:
        return None
    places = max(len(generation["members"]) for generation in report["generations"])
    rows = []
    for generation in report["generations"]:
        until = "at the end" if generation["until"] is None else f"at {report['time']} {generation['until']}"
        cells = [
            {
                "text": "failed" if member["error"] else f"{written(member['figure'])} {member['name']}",
                "mark": "best" if member["name"] == report["winner"] else "",
                "interval": f"from {member['copied']}" if member["copied"] else "",
            }
            for member in generation["members"]
        ]
        cells += [{"text": "", "mark": "", "interval": ""}] * (places - len(cells))
        rows.append({"label": until, "note": "", "policy": False, "cells": cells})
    caption = f"{figure} of the latest validation (at the end of the best one), and whose weights a member took up before"
    return {"caption": caption, "columns": [str(i + 1) for i in range(places)], "groups": [("", rows)]}


def table(rows: Sequence[Any], figure: str, way: str, report: Mapping[str, Any]) -> dict[str, Any]:
    """All trials, best first, for the table macro."""
    names = list(dict.fromkeys([figure, *(n for row in rows for n in row["figures"])]))
    order = in_order(rows, {figure: way})
    groups: dict[str, list[dict[str, Any]]] = {"complete": [], "stopped early": [], "failed": []}
    for row in order:
        end = "complete" if row["complete"] else "failed" if row["error"] else "stopped early"
        best = row["name"] == report["winner"]
        groups[end].append(
            {
                "label": row["name"] + (" (base run)" if _is_base(row, report) else ""),
                "note": row["error"] or ", ".join(row["settings"]),
                "policy": best,
                "cells": [
                    *(
                        {
                            "text": written(row["figures"].get(n)),
                            "mark": "best" if best and n == figure else "",
                            "interval": "",
                        }
                        for n in names
                    ),
                    {"text": f"{row['seconds']:.0f} s", "mark": "", "interval": ""},
                ],
            }
        )
    return {
        "caption": f"{len(rows)} trials, best {figure} first",
        "columns": [*names, "took"],
        "groups": [(end, found) for end, found in groups.items() if found],
    }
