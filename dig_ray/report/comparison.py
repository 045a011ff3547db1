"""A comparison as a table and a page: every variant's figures over its seeds, and what each differs from the first one.

All seeds' test cases stand together, a user's cases of all seeds as one draw of the bootstrap; a difference pairs the same user and seed of
two variants. What a Semantic ID is good for is measured alike for all variants, against what people did and, in the demo world, against the
intents that made them do it: recall of neighbours in a variant's own vectors would be a yardstick that each variant brings along.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dig_ray import ranking
from dig_ray.base import Stage
from dig_ray.errors import UserError
from dig_ray.evaluation.slices import NEW, REPEAT
from dig_ray.report import figures, results
from dig_ray.report.evidence import follow_items, pairs_kept
from dig_ray.report.gather import RULES, read_json
from dig_ray.report.page import render_page

if TYPE_CHECKING:
    from dig_ray.catalog.dataset import Dataset
    from dig_ray.semantic_ids.sid_catalog import SidCatalog

SHOWN = ("HR@5", "HR@10", "NDCG@5", "NDCG@10")
Inputs = Mapping[str, Path]


def write_comparison(
    name: str,
    variants: Mapping[str, tuple[Sequence[str], str]],
    artifacts: Mapping[tuple[str, int], Inputs],
    ks: Sequence[int],
    n_bootstrap: int,
    stage: Stage,
) -> None:
    """Write ``comparison.json`` and ``comparison.html``.

    Args:
        name: of the comparison.
        variants: name -> its settings and whose lists stand for it, the reference first.
        artifacts: (variant, seed) -> stage -> directory; the catalogue and what made the lists at least.
        ks: cut-offs.
        n_bootstrap: resamples of users.
        stage: the artifact that is made.

    Raises:
        UserError: two variants with the same seed stand on different splits.
    """
    from dig_ray.catalog.dataset import Dataset

    report = compare_variants(name, variants, artifacts, ks, n_bootstrap)
    seed = report["seeds"][0]
    catalog = artifacts[next(iter(variants)), seed]["catalog"]
    with_sids = {v: artifacts[v, seed] for v in variants if "semantic_ids" in artifacts[v, seed]}
    followed = (
        follow_items(Dataset.load(catalog), with_sids) if with_sids else {"thumbnails": {}, "items": []}
    )
    thumbnails = followed.pop("thumbnails")
    report["items"] = followed["items"]
    (stage.out / "comparison.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    page = render_page(
        "comparison.html", comparison=report, tables=page_tables(report), thumbnails=thumbnails
    )
    (stage.out / "comparison.html").write_bytes(page.encode("utf-8"))
    stage.stats.update(rows=len(artifacts), variants=len(variants))
    for line in comparison_lines(report):
        stage.log(line)


def compare_variants(
    name: str,
    variants: Mapping[str, tuple[Sequence[str], str]],
    artifacts: Mapping[tuple[str, int], Inputs],
    ks: Sequence[int],
    n_bootstrap: int,
) -> dict[str, Any]:
    """All figures, JSON-able; arguments as in ``write_comparison``.

    Where some targets repeat an item of their case's history, ``by_target`` has the figures of these and of the other cases apart, and
    ``minus_first_new`` the differences on the other cases alone.
    """
    from dig_ray.catalog.dataset import Dataset
    from dig_ray.evaluation import intervals
    from dig_ray.evaluation.comparison import paired
    from dig_ray.evaluation.metrics import number, target_in_history
    from dig_ray.evaluation.recommendations import read_recommendations

    seeds = sorted({seed for _, seed in artifacts})
    first = next(iter(variants))
    datasets = {seed: Dataset.load(artifacts[first, seed]["catalog"]) for seed in seeds}
    cases = {seed: datasets[seed].cases("test") for seed in seeds}
    worlds = {
        seed: list(dict.fromkeys(d.split_hash for d in datasets.values())).index(datasets[seed].split_hash)
        for seed in seeds
    }
    most_users = max(dataset.n_users for dataset in datasets.values())
    users = np.concatenate([worlds[seed] * most_users + np.asarray(cases[seed].user) for seed in seeds])
    repeat = np.concatenate([target_in_history(datasets[seed].events, cases[seed]) for seed in seeds])
    parts = {NEW: ~repeat, REPEAT: repeat} if 0 < repeat.sum() < len(repeat) else {}
    groups = np.stack([np.ones(len(users), bool), *parts.values()], axis=1)

    found: list[dict[str, Any]] = []
    reference: dict[str, np.ndarray] = {}
    names: list[str] = []
    first_sids = {
        seed: next((of for (_, s), of in artifacts.items() if s == seed and "semantic_ids" in of), None)
        for seed in seeds
    }
    for variant, (settings, of) in variants.items():
        entry: dict[str, Any] = {
            "name": variant,
            "settings": list(settings),
            "lists": of,
            "llm": [llm_figures(artifacts[variant, seed]) for seed in seeds],
            "results": {},
            "minus_first": {},
        }
        if parts:
            entry |= {"by_target": {}, "minus_first_new": {}}
        for rule in RULES:
            per_seed = []
            for seed in seeds:
                inputs = artifacts[variant, seed]
                if Dataset.load(inputs["catalog"]).split_hash != datasets[seed].split_hash:
                    raise UserError(
                        f"variants {first} and {variant} stand on different splits with seed {seed}; a comparison needs one catalogue"
                    )
                recs = read_recommendations(_lists_of(inputs, of, rule), datasets[seed], cases[seed])
                names, scored = ranking.per_case(ranking.rank_of_target(recs, cases[seed].target), ks)
                per_seed.append(scored)
            values = np.concatenate(per_seed)
            low, high = intervals.percentile_interval(
                intervals.bootstrap_means(users, values, groups, n_bootstrap, 0)
            )
            whole, *by_part = [
                {
                    metric: {
                        "mean": number(values[groups[:, g], m].mean()),
                        "low": number(low[g, m]),
                        "high": number(high[g, m]),
                    }
                    for m, metric in enumerate(names)
                }
                for g in range(groups.shape[1])
            ]
            entry["results"][rule] = {
                metric: {**of, "by_seed": [number(one[:, m].mean()) for one in per_seed]}
                for m, (metric, of) in enumerate(whole.items())
            }
            if parts:
                entry["by_target"][rule] = dict(zip(parts, by_part, strict=True))
            if variant == first:
                reference[rule] = values
                continue
            entry["minus_first"][rule] = paired(users, names, reference[rule], values, 0, n_bootstrap)
            if parts:
                entry["minus_first_new"][rule] = paired(
                    users[~repeat], names, reference[rule][~repeat], values[~repeat], 0, n_bootstrap
                )
        entry["sids"] = [
            sid_figures(datasets[seed], artifacts[variant, seed], reference_sids)
            for seed in seeds
            if (reference_sids := first_sids[seed]) is not None and "semantic_ids" in artifacts[variant, seed]
        ]
        found.append(entry)
    return {
        "name": name,
        "seeds": seeds,
        "splits": {str(seed): datasets[seed].split_hash for seed in seeds},
        "test_cases": len(users),
        "repeats": {"n": int(repeat.sum()), "share": number(repeat.mean())} if repeat.any() else None,
        "metrics": names,
        "variants": found,
    }


def _lists_of(inputs: Inputs, of: str, rule: str) -> Path:
    """The lists of a recommender; a multi-interest model's are called after the model."""
    if of == "multi_interest":
        return next(inputs[of].glob(f"recommendations_*_{rule}.parquet"))
    made = "recommend" if of == "policy" else "baselines"
    return inputs[made] / f"recommendations_{of}_{rule}.parquet"


def llm_figures(inputs: Inputs) -> dict[str, float]:
    """What language models were asked for a run: ``calls``, ``tokens`` and ``cost`` in US dollars, over all of its stages."""
    found = {"calls": 0.0, "tokens": 0.0, "cost": 0.0}
    for directory in inputs.values():
        stats = (read_json(directory / "manifest.json") or {}).get("stats", {})
        for miner in (stats.get("miners") or {}).values():
            if miner["llm"]:
                told = miner["all"]
                found["calls"] += told["calls"]
                found["tokens"] += told["tokens_in"] + told["tokens_out"]
                found["cost"] += told["cost"]
    return found


def sid_figures(dataset: Dataset, inputs: Inputs, first: Inputs) -> dict[str, float | None]:
    """What the Semantic IDs of one run are like.

    Args:
        dataset: the catalogue.
        inputs: the run's artifacts.
        first: those of the first variant with the same seed.

    Returns:
        ``collision_rate``: share of items that share their full code before the suffix; ``next_item_prefix_1`` and ``_2``: share of
        steps in the training histories that stay within a prefix of one or two codes, over what chance would give (a lift);
        ``pairs_kept``: of all pairs of items that share their first two codes here or in the first variant, the part that does in both;
        ``intent_information``: adjusted mutual information of the first code and an item's first true intent, None outside the demo world.
    """
    from dig_ray.semantic_ids.sid_catalog import SidCatalog

    sids = SidCatalog.load(inputs["semantic_ids"] / "semantic_ids.parquet")
    quality = json.loads((inputs["semantic_ids"] / "sid_quality.json").read_text(encoding="utf-8"))
    found: dict[str, float | None] = {"collision_rate": quality["collisions"]["collision_rate"]}
    owner = np.repeat(np.arange(dataset.n_users), np.diff(dataset.offsets))
    train = np.flatnonzero(dataset.split == 0)
    step = train[1:][(owner[train[1:]] == owner[train[:-1]])]
    before, after = dataset.events[step - 1], dataset.events[step]
    other = before != after
    for length in (1, 2):
        found[f"next_item_prefix_{length}"] = _lift(sids, length, before[other], after[other])
    reference = SidCatalog.load(first["semantic_ids"] / "semantic_ids.parquet")
    found["pairs_kept"] = pairs_kept(
        *(one.prefix_ids(min(2, one.codes.shape[1])).astype(np.int64) for one in (reference, sids))
    )
    found["intent_information"] = _intent_information(dataset, sids)
    return found


def _lift(sids: SidCatalog, length: int, before: np.ndarray, after: np.ndarray) -> float | None:
    prefix = sids.prefix_ids(min(length, sids.codes.shape[1]))
    stays = float((prefix[before] == prefix[after]).mean()) if len(before) else 0.0
    # what chance gives: the same items, drawn independently
    here, there = (
        np.bincount(prefix[at], minlength=int(prefix.max()) + 1) / max(len(at), 1) for at in (before, after)
    )
    chance = float(here @ there)
    return stays / chance if chance else None


def _intent_information(dataset: Dataset, sids: SidCatalog) -> float | None:
    if "intents" not in dataset.items.column_names:
        return None
    from sklearn.metrics import adjusted_mutual_info_score

    first = [intents[0] if intents else "" for intents in dataset.items["intents"].to_pylist()]
    return float(adjusted_mutual_info_score(first, sids.codes[:, 0]))


LLM = (("calls", 0), ("tokens", 0), ("cost", 2))
"""Of ``llm_figures``, with the digits that are shown."""
SID_FIGURES = {
    "collision_rate": "Items that share a code",
    "next_item_prefix_1": "Next item, first code: lift",
    "next_item_prefix_2": "Next item, two codes: lift",
    "pairs_kept": "Neighbours kept",
    "intent_information": "First code and true intent: AMI",
}


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
                "bars": results.bars(
                    {
                        v["name"]: {"ks": [10], "metrics": {"NDCG@10": v["results"][rule][main]}}
                        for v in variants
                    }
                ),
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
                                        results.Cell(figures.metric(x))
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
                    figures.metric(e["mean"]), figures.interval(e["low"], e["high"]), "best" if mark else ""
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


def _differences(
    key: str, words: str, variants: Sequence[Mapping[str, Any]], rule: str, shown: Sequence[str]
) -> results.Table | None:
    """What every other variant differs from the first; None where there is no other."""
    rows = [
        results.Row(
            f"{variant['name']} − {variants[0]['name']}",
            [
                results.Cell(
                    figures.metric(d["difference"], signed=True),
                    figures.interval(d["low"], d["high"], signed=True),
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
        return figures.NONE
    mean = float(np.mean(some))
    return figures.percent(mean) if key in ("collision_rate", "pairs_kept") else figures.number(mean)


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
                text = f"{metric} {figures.metric(of['mean'])} ({figures.interval(of['low'], of['high'])})"
                if variant["minus_first"]:
                    d = variant["minus_first"][rule][metric]
                    text += f", {figures.metric(d['difference'], signed=True)} ({figures.interval(d['low'], d['high'], signed=True)})"
                parts.append(text)
            lines.append(f"  {variant['name']:<{widest}}  " + "; ".join(parts))
    return lines
