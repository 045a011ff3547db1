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
from dig_ray.report.comparison_tables import comparison_lines, page_tables
from dig_ray.report.evidence import follow_items, pairs_kept
from dig_ray.report.gather import RULES, read_json
from dig_ray.report.page import render_page

if TYPE_CHECKING:
    from dig_ray.catalog.dataset import Dataset
    from dig_ray.semantic_ids.sid_catalog import SidCatalog

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
    from dig_ray.evaluation.case_histories import train_counts
    from dig_ray.evaluation.comparison import paired
    from dig_ray.evaluation.metrics import beyond_accuracy, by_category, number, target_in_history
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
            "beyond": {},
            "minus_first": {},
        }
        if parts:
            entry |= {"by_target": {}, "minus_first_new": {}}
        for rule in RULES:
            per_seed, beyond = [], []
            for seed in seeds:
                inputs = artifacts[variant, seed]
                if Dataset.load(inputs["catalog"]).split_hash != datasets[seed].split_hash:
                    raise UserError(
                        f"variants {first} and {variant} stand on different splits with seed {seed}; a comparison needs one catalogue"
                    )
                recs = read_recommendations(_lists_of(inputs, of, rule), datasets[seed], cases[seed])
                names, scored = ranking.per_case(ranking.rank_of_target(recs, cases[seed].target), ks)
                per_seed.append(scored)
                beyond.append(
                    beyond_accuracy(recs, train_counts(datasets[seed]))
                    | by_category(datasets[seed], cases[seed], recs)
                )
            values = np.concatenate(per_seed)
            entry["beyond"][rule] = {name: _mean([one[name] for one in beyond]) for name in beyond[0]}
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


def _mean(values: Sequence[float | None]) -> float | None:
    some = [value for value in values if value is not None]
    return float(np.mean(some)) if some else None


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
