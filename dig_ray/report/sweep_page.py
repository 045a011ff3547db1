"""A sweep as a page: the decision, every trial through its parameters, which parameter mattered, curves, the front, and commands."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dig_ray.base import Stage
from dig_ray.report.charts import chart, ticks
from dig_ray.report.figure_text import metric as written
from dig_ray.report.figure_text import seconds
from dig_ray.report.page import render_page

WIDTH, HEIGHT = 1040, 330
TOP, BOTTOM, SIDE = 46, 40, 74
CURVES = 8
"""Trials whose curves are drawn: as many as there are colours."""
SHOWN = 10
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Standings:
    """What a sweep decided; the page keeps this order.

    Attributes:
        figure: what the winner was chosen by.
        way: ``max`` or ``min``, whichever is better.
        judged: the rows that the winner was taken from, best first.
        trials: all of them, best first by the sweep's first objective.
        finalists: best first.
        importance: parameter -> its share of the variance of the first objective, largest first; None where nothing can be said.
    """

    figure: str
    way: str
    judged: Sequence[Row]
    trials: Sequence[Row]
    finalists: Sequence[Row]
    importance: Mapping[str, float] | None


def write_sweep(report: Mapping[str, Any], standings: Standings, stage: Stage) -> None:
    """Write ``sweep.html`` and leave the lines for the terminal in the stage's stats.

    Args:
        report: the content of ``sweep.json``: every trial, the finalists and the winner.
        standings: what was decided about them.
        stage: the artifact that is made.
    """
    page = render_page("sweep.html", **context(report, standings))
    (stage.out / "sweep.html").write_bytes(page.encode("utf-8"))
    stage.stats.update(rows=len(report["trials"]), lines=sweep_lines(report, standings))


def context(report: Mapping[str, Any], standings: Standings) -> dict[str, Any]:
    """What the template is given; arguments as of ``write_sweep``."""
    figure = standings.figure
    first, first_way = next(iter(report["directions"].items()))
    by_end = counts(report)
    finalists = standings.finalists
    return {
        "sweep": report,
        "figure": figure,
        "way": standings.way,
        "first": first,
        "winner": next(row for row in standings.judged if row["name"] == report["winner"]),
        "base": next((row for row in standings.judged if _is_base(row, report)), None),
        "counts": by_end,
        "parallel": parallel(report, standings.trials, first, first_way),
        "importance": _bars(standings.importance),
        "schedule": schedule(report),
        "population": population(report, first),
        "judged": by_end["complete"],
        "curves": curves(standings.trials, first, report["time"]),
        "final_curves": curves(finalists, figure, report["final_time"]) if finalists else None,
        "front": front(report),
        "final": table(finalists, figure, report) if finalists else None,
        "every": table(standings.trials, first, report),
        "commands": [
            {"name": row["name"], "value": row["figures"].get(figure), "command": command(row, report)}
            for row in standings.judged[:3]
        ],
    }


def _is_base(row: Row, report: Mapping[str, Any]) -> bool:
    return json.dumps(row["point"], sort_keys=True) == json.dumps(report["base"], sort_keys=True)


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


def sweep_lines(report: Mapping[str, Any], standings: Standings) -> list[str]:
    """What a person reads at the end; arguments as of ``write_sweep``."""
    figure = standings.figure
    by_end = counts(report)
    lines = [
        f"{len(report['trials'])} trials: {by_end['complete']} complete, {by_end['stopped']} stopped early, {by_end['failed']} failed; "
        f"{by_end['impossible']} impossible points left out; {seconds(report['seconds'])}"
    ]
    for row in standings.judged[:SHOWN]:
        mark = " (the base run)" if _is_base(row, report) else ""
        value = row["figures"].get(figure)
        shown = "none" if value is None else f"{value:.4f}"
        lines.append(f"{figure} {shown}  {row['name']}{mark}  {' '.join(row['settings'])}")
    failed = [row for row in (*_replaced(report), *report["trials"]) if row["error"]]
    lines.extend(f"failed: {row['name']}: {row['error']}" for row in failed)
    return lines


# --- pictures ------------------------------------------------------------------------------------------------


def parallel(
    report: Mapping[str, Any], trials: Sequence[Row], figure: str, way: str
) -> dict[str, Any] | None:
    """Parallel coordinates: an axis for every parameter and one for the figure, a line for every trial that has it.

    Args:
        report: the sweep's report.
        trials: best first by the figure.
        figure: on the last axis.
        way: ``max`` or ``min``, whichever is better.

    Returns:
        coordinates and texts for the template; None where no trial has the figure.
    """
    rows = [row for row in trials if figure in row["figures"]]
    keys = list(report["config"]["space"])
    if not rows:
        return None
    places = [round(SIDE + i * (WIDTH - 2 * SIDE) / len(keys), 1) for i in range(len(keys) + 1)]
    axes = [_axis(key, [row["last"].get(key) for row in rows]) for key in keys]
    values = [row["figures"][figure] for row in rows]
    axes.append(_axis(figure, values))
    low, high = min(values), max(values)
    lines = []
    for row in rows[::-1]:  # the best are drawn last, over the others
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


def _bars(importance: Mapping[str, float] | None) -> list[dict[str, Any]] | None:
    """Shares as bars, whose width is in per cent of the longest."""
    if importance is None:
        return None
    most = max(importance.values()) or 1.0
    return [
        {"name": name, "share": share, "width": round(100 * share / most, 1)}
        for name, share in importance.items()
    ]


def curves(rows: Sequence[Row], figure: str, time: str) -> dict[str, Any] | None:
    """How the best trials came to their figure; None where nothing was reported on the way.

    Args:
        rows: best first by the figure.
        figure: what is drawn.
        time: what it is drawn by, ``epoch`` or ``step``.
    """
    drawn = []
    for row in rows:
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


def table(rows: Sequence[Row], figure: str, report: Mapping[str, Any]) -> dict[str, Any]:
    """Trials for the table macro, by how they ended.

    Args:
        rows: best first by the figure.
        figure: the first column.
        report: the sweep's report.
    """
    names = list(dict.fromkeys([figure, *(n for row in rows for n in row["figures"])]))
    groups: dict[str, list[dict[str, Any]]] = {"complete": [], "stopped early": [], "failed": []}
    for row in rows:
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
