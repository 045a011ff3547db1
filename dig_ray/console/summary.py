"""A run for people to read: what it prints at its end, and the table of what mining would cost."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dig_ray.artifacts.store import Artifact
from dig_ray.console.terminal import Terminal
from dig_ray.pipeline import Outcome, duration, run_pipeline
from dig_ray.stage_spec import StageSpec
from dig_ray.stages import STAGES

SHOWN = ("HR@5", "HR@10", "NDCG@5", "NDCG@10")
RULES = {"seen": "seen items allowed", "unseen": "seen items left out"}


def run_and_tell(
    config: Any,
    until: str | None = None,
    only: str | Sequence[str] | None = None,
    force: Sequence[str] = (),
    stages: Sequence[StageSpec] = STAGES,
    log: Callable[[str], None] | None = None,
) -> Outcome:
    """Run the pipeline, and say at the end where everything is, what came out of it and how long it took.

    Args:
        config: the run's config.
        until, only, force, stages: which stages run, as of :func:`dig_ray.pipeline.run_pipeline`.
        log: prints one line; by default to standard output, at once.

    Raises:
        UserError: as of :func:`dig_ray.pipeline.run_pipeline`.
    """
    started = time.perf_counter()
    log = log or Terminal().say
    done = run_pipeline(config, until, only, force, stages, log)
    for line in closing_lines(config.name, done, time.perf_counter() - started):
        log(line)
    return done


def closing_lines(name: str, done: Outcome, seconds: float) -> list[str]:
    """A run's last lines: its artifacts, its results, its page, and one line that counts its stages.

    Args:
        name: the run's name.
        done: what it has at its end.
        seconds: that it took.
    """
    results = result_lines(done["evaluation"]) if "evaluation" in done else []
    return [
        "",
        *artifact_lines(done),
        "",
        *results,
        *([""] if results else []),
        *([f"report: {done['report'].path / 'report.html'}"] if "report" in done else []),
        f"{name}: {len(done)} stages, {len(done.made)} run, {seconds:.1f} s",
    ]


def artifact_lines(done: Outcome) -> list[str]:
    """A table of the artifacts: stage, what happened, rows, time when it was made, place."""
    table = [("stage", "", "rows", "took", "where")]
    for name, artifact in done.items():
        rows = artifact.stats.get("rows")
        count = f"{rows:,}" if isinstance(rows, int) else "-"
        how = "run" if name in done.made else "found"
        table.append((name, how, count, duration(artifact), artifact.location))
    return _aligned(table, "<<>><")


def result_lines(evaluation: Artifact) -> list[str]:
    """The tables of results, seen items allowed and left out, with 95% intervals at the last metric and the best NDCG@10 first.

    Empty where the evaluation's ``metrics.json`` cannot be read: a run does not fail for its last words.
    """
    try:
        report = json.loads((evaluation.path / "metrics.json").read_text())
        return _result_lines(report)
    except (OSError, ValueError, KeyError, TypeError):
        return []  # the page and the file have it all


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
