"""What a run prints at its end: its artifacts with their places, and the table of results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dig_ray.store import Artifact

SHOWN = ("HR@5", "HR@10", "NDCG@5", "NDCG@10")
RULES = {"seen": "seen items allowed", "unseen": "seen items left out"}


def duration(artifact: Artifact) -> str:
    """How long a stage took when it was made."""
    seconds = float(artifact.manifest["seconds"])
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def rows_and_rate(artifact: Artifact, fresh: bool) -> str:
    """``", 12,101 rows (1,234 rows/s)"``; empty for a stage that counts no rows, no rate for one that was found."""
    rows = artifact.stats.get("rows")
    if not isinstance(rows, int):
        return ""
    rate = rows / max(float(artifact.manifest["seconds"]), 1e-3)
    shown = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
    return f", {rows:,} rows" + (f" ({shown} rows/s)" if fresh else "")


def artifact_lines(done: Mapping[str, Artifact], made: Mapping[str, bool]) -> list[str]:
    """A table of the artifacts: stage, what happened, rows, time when it was made, place."""
    table = [("stage", "", "rows", "took", "where")]
    for name, artifact in done.items():
        rows = artifact.stats.get("rows")
        count = f"{rows:,}" if isinstance(rows, int) else "-"
        table.append((name, "run" if made[name] else "found", count, duration(artifact), artifact.location))
    return _aligned(table, "<<>><")


def result_lines(evaluation: Artifact) -> list[str]:
    """The table of results with 95% intervals at the last metric, best NDCG@10 first; [] if there is none to read."""
    try:
        report = json.loads((evaluation.path / "metrics.json").read_text())
        return _result_lines(report)
    except (OSError, ValueError, KeyError, TypeError):
        return []  # the page and the file have it all; a run does not fail for its last words


def _result_lines(report: Mapping[str, Any]) -> list[str]:
    lines = [
        f"test users {report['test_users']:,}, items {report['items']:,}, "
        f"split {report['split_name']} {report['split_hash'][:12]}"
    ]
    for rule, words in RULES.items():
        scored = {
            name: by_rule[rule]["metrics"] for name, by_rule in report["results"].items() if rule in by_rule
        }
        if not scored:
            continue
        shown = [metric for metric in SHOWN if all(metric in metrics for metrics in scored.values())]
        table: list[tuple[str, ...]] = [(words, *shown, "95%")]
        for name, metrics in sorted(scored.items(), key=lambda pair: -pair[1][shown[-1]]["mean"]):
            last = metrics[shown[-1]]
            interval = f"{last['low']:.4f} - {last['high']:.4f}" if last.get("low") is not None else ""
            table.append((name, *(f"{metrics[metric]['mean']:.4f}" for metric in shown), interval))
        lines += ["", *_aligned(table, "<" + ">" * len(shown) + "<")]
    return lines


def cost_lines(found: Sequence[Any]) -> list[str]:
    """What mining would cost, as a table: one row for each ``dig_ray.mining.costs.Estimate``, and their sum."""
    if not found:
        return ["this config mines nothing; set mining.items, mining.users or mining.caption"]
    head = (
        "stage",
        "miner",
        "rows",
        "known",
        "calls",
        "tokens in",
        "tokens out",
        "at most",
        "$",
        "at most $",
        "",
    )
    table: list[tuple[str, ...]] = [head]
    for one in found:
        counts = (one.rows, one.known, one.calls, one.tokens_in, one.tokens_out, one.most_out)
        table.append(
            (
                one.stage,
                one.miner,
                *(f"{count:,}" for count in counts),
                f"{one.dollars:,.2f}",
                f"{one.most_dollars:,.2f}",
                one.note,
            )
        )
    dollars, most = (sum(getattr(one, name) for one in found) for name in ("dollars", "most_dollars"))
    table.append(("all", "", *[""] * 6, f"{dollars:,.2f}", f"{most:,.2f}", ""))
    return [
        "",
        *_aligned(table, "<<>>>>>>>><"),
        "",
        "estimated without the models' tokenizers; prices are the config's",
    ]


def _aligned(table: Sequence[Sequence[str]], sides: str) -> list[str]:
    widths = [max(len(row[column]) for row in table) for column in range(len(sides))]
    return [
        "  ".join(
            f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)
        ).rstrip()
        for row in table
    ]
