"""Which trials are best, which of them a sweep goes by, and which parameter mattered.

Importance is the share of a random forest's variance that a parameter explains (fANOVA, Hutter et al. 2014, by Optuna) over the trials
that came to an end; with few of them it is a hint and no more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dig_ray.report.sweep_page import Standings

Row = Mapping[str, Any]
"""A trial as ``rows_of`` has it."""
Ways = Mapping[str, str]
"""Figure -> ``max`` or ``min``; the first decides."""
FEWEST = 4
"""Trials below which importance is not computed."""


def in_order(rows: Sequence[Row], directions: Ways) -> list[dict[str, Any]]:
    """Best first by the first figure, then by the others; those that lack it come last."""

    def key(row: Row) -> tuple[float, ...]:
        signs = {"max": -1.0, "min": 1.0}
        return tuple(
            signs[way] * row["figures"].get(name, -signs[way] * math.inf) for name, way in directions.items()
        )

    return [dict(row) for row in sorted(rows, key=key)]


def pareto(rows: Sequence[Row], directions: Ways) -> list[dict[str, Any]]:
    """Rows that no other row beats in one figure without losing in another."""
    whole = [row for row in rows if all(name in row["figures"] for name in directions)]

    def losses(row: Row) -> list[float]:
        return [row["figures"][name] * (-1.0 if way == "max" else 1.0) for name, way in directions.items()]

    def beaten(row: Row) -> bool:
        mine = losses(row)
        others = (losses(other) for other in whole if other is not row)
        return any(
            all(a <= b for a, b in zip(other, mine, strict=True)) and other != mine for other in others
        )

    return [dict(row) for row in in_order(whole, directions) if not beaten(row)]


def judged_rows(
    trials: Sequence[Row], finalists: Sequence[Row], ways: Ways, final_ways: Ways
) -> tuple[list[Row], Ways]:
    """The rows that the winner is taken from, and by what.

    Args:
        trials: all of them.
        finalists: those that were taken further.
        ways: what trials are judged by.
        final_ways: what finalists are judged by.

    Returns:
        Finalists that came to an end; where none did, trials that did.
    """
    ended = [row for row in finalists if row["complete"]]
    if ended:
        return ended, final_ways
    return [row for row in trials if row["complete"]], ways


def standings(report: Mapping[str, Any]) -> Standings:
    """The order in which a sweep's page shows its trials, and what mattered.

    Args:
        report: the content of ``sweep.json``.
    """
    trials, finalists = report["trials"], report["finalists"]
    judged, ways = judged_rows(trials, finalists, report["directions"], report["final_directions"])
    (figure, way), (first, first_way) = next(iter(ways.items())), next(iter(report["directions"].items()))
    return Standings(
        figure=figure,
        way=way,
        judged=in_order(judged, {figure: way}),
        trials=in_order(trials, {first: first_way}),
        finalists=in_order(finalists, {figure: way}),
        importance=None  # members of a population change their values on the way
        if report["generations"]
        else importance(trials, first, list(report["config"]["space"])),
    )


def importance(rows: Sequence[Row], figure: str, keys: Sequence[str]) -> dict[str, float] | None:
    """How much of a figure each parameter explains.

    Args:
        rows: trials, of which those count that came to an end.
        figure: what is explained.
        keys: the parameters.

    Returns:
        Parameter -> share between 0 and 1, largest first; None where trials are too few, or all alike.
    """
    import optuna

    whole = [row for row in rows if row["complete"] and figure in row["figures"]]
    values = [row["figures"][figure] for row in whole]
    if len(whole) < FEWEST or max(values) == min(values):
        return None
    domains = {key: [row["point"][key] for row in whole if key in row["point"]] for key in keys}
    spread = {
        key: found for key, found in domains.items() if len(found) == len(whole) and len(set(found)) > 1
    }
    if len(spread) < 2:
        return dict.fromkeys(spread, 1.0) or None
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
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def _distribution(found: Sequence[Any]) -> Any:
    import optuna

    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in found)
    if not numbers:
        return optuna.distributions.CategoricalDistribution(sorted(set(found), key=str))
    low, high = min(found), max(found)
    if all(isinstance(v, int) for v in found):
        return optuna.distributions.IntDistribution(low, high)
    return optuna.distributions.FloatDistribution(low, high, log=low > 0 and high / low > 20)
