"""A comparison's figures: those of every variant over its seeds, and what each differs from the first one.

All seeds' test cases stand together, a user's cases of all seeds as one draw of the bootstrap; a difference pairs the same user and seed of
two variants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dig_ray.base import Inputs
from dig_ray.errors import UserError
from dig_ray.evaluation.slices import NEW, REPEAT
from dig_ray.experiments.comparison_sids import sid_figures
from dig_ray.numerics import ranking
from dig_ray.report.gather import RULES, read_json

if TYPE_CHECKING:
    from dig_ray.catalog.dataset import Cases, Dataset

Compared = Mapping[str, tuple[Sequence[str], str]]
"""Variant -> its settings and whose lists stand for it, the reference first."""
Artifacts = Mapping[tuple[str, int], Inputs]
"""(variant, seed) -> stage -> directory; the catalogue and what made the lists at least."""


@dataclass(frozen=True)
class AllCases:
    """The test cases of all seeds, one after the other.

    Attributes:
        datasets: seed -> catalogue and split.
        cases: seed -> its cases.
        users: int (C,), whose case it is; users of seeds with different splits are different users.
        repeat: bool (C,), whether the target is in the case's history.
    """

    datasets: Mapping[int, Dataset]
    cases: Mapping[int, Cases]
    users: np.ndarray
    repeat: np.ndarray

    @property
    def parts(self) -> dict[str, np.ndarray]:
        """Slice -> bool (C,): targets that are new to the user and those that are not; {} where all are of one kind."""
        mixed = 0 < self.repeat.sum() < len(self.repeat)
        return {NEW: ~self.repeat, REPEAT: self.repeat} if mixed else {}


@dataclass(frozen=True)
class Scored:
    """One variant's lists under one rule.

    Attributes:
        names: the names of the M metrics.
        values: float (C, M), each case's.
        by_seed: the mean of every metric, for each seed a dict.
        beyond: what is beside accuracy, mean over the seeds; None where no seed has it.
    """

    names: list[str]
    values: np.ndarray
    by_seed: list[dict[str, float | None]]
    beyond: dict[str, float | None]


def compare_variants(
    name: str, variants: Compared, artifacts: Artifacts, ks: Sequence[int], n_bootstrap: int
) -> dict[str, Any]:
    """All figures, JSON-able.

    Where some targets repeat an item of their case's history, ``by_target`` has the figures of these and of the other cases apart, and
    ``minus_first_new`` the differences on the other cases alone.

    Args:
        name: the comparison's name.
        variants: what is compared.
        artifacts: the artifacts of every variant with every seed.
        ks: cut-offs of the lists.
        n_bootstrap: resamples of users.

    Raises:
        UserError: two variants with the same seed stand on different splits.
    """
    from dig_ray.evaluation.metrics import number

    seeds = sorted({seed for _, seed in artifacts})
    first = next(iter(variants))
    tests = _test_cases({seed: artifacts[first, seed] for seed in seeds})
    first_sids = {
        seed: next((of for (_, s), of in artifacts.items() if s == seed and "semantic_ids" in of), None)
        for seed in seeds
    }
    found: list[dict[str, Any]] = []
    reference: dict[str, Scored] = {}
    for variant, (settings, of) in variants.items():
        own = {seed: artifacts[variant, seed] for seed in seeds}
        _check_splits(first, variant, own, tests)
        scored = {rule: _score(own, of, rule, tests, ks) for rule in RULES}
        entry: dict[str, Any] = {
            "name": variant,
            "settings": list(settings),
            "lists": of,
            "llm": [llm_figures(own[seed]) for seed in seeds],
            **_results(scored, reference, tests, n_bootstrap),
        }
        entry["sids"] = [
            sid_figures(tests.datasets[seed], own[seed], reference_sids)
            for seed in seeds
            if (reference_sids := first_sids[seed]) is not None and "semantic_ids" in own[seed]
        ]
        found.append(entry)
        reference = reference or scored
    return {
        "name": name,
        "seeds": seeds,
        "splits": {str(seed): tests.datasets[seed].split_hash for seed in seeds},
        "test_cases": len(tests.users),
        "repeats": {"n": int(tests.repeat.sum()), "share": number(tests.repeat.mean())}
        if tests.repeat.any()
        else None,
        "metrics": reference[RULES[0]].names,
        "variants": found,
    }


def _test_cases(inputs: Mapping[int, Inputs]) -> AllCases:
    """The test cases of the first variant's catalogues, one of each seed."""
    from dig_ray.catalog.dataset import Dataset
    from dig_ray.evaluation.metrics import target_in_history

    datasets = {seed: Dataset.load(own["catalog"]) for seed, own in inputs.items()}
    cases = {seed: dataset.cases("test") for seed, dataset in datasets.items()}
    splits = list(dict.fromkeys(dataset.split_hash for dataset in datasets.values()))
    most_users = max(dataset.n_users for dataset in datasets.values())
    users = [
        splits.index(dataset.split_hash) * most_users + np.asarray(cases[seed].user)
        for seed, dataset in datasets.items()
    ]
    repeat = [target_in_history(dataset.events, cases[seed]) for seed, dataset in datasets.items()]
    return AllCases(datasets, cases, np.concatenate(users), np.concatenate(repeat))


def _check_splits(first: str, variant: str, own: Mapping[int, Inputs], tests: AllCases) -> None:
    from dig_ray.catalog.dataset import Dataset

    for seed, inputs in own.items():
        if Dataset.load(inputs["catalog"]).split_hash != tests.datasets[seed].split_hash:
            raise UserError(
                f"variants {first} and {variant} stand on different splits with seed {seed}; a comparison needs one catalogue"
            )


def _score(own: Mapping[int, Inputs], of: str, rule: str, tests: AllCases, ks: Sequence[int]) -> Scored:
    """A variant's lists of all seeds under one rule."""
    from dig_ray.evaluation.case_histories import train_counts
    from dig_ray.evaluation.metrics import beyond_accuracy, by_category, number
    from dig_ray.evaluation.recommendations import read_recommendations

    names: list[str] = []
    per_seed, beyond = [], []
    for seed, inputs in own.items():
        dataset, cases = tests.datasets[seed], tests.cases[seed]
        recs = read_recommendations(_lists_of(inputs, of, rule), dataset, cases)
        names, scored = ranking.per_case(ranking.rank_of_target(recs, cases.target), ks)
        per_seed.append(scored)
        beyond.append(beyond_accuracy(recs, train_counts(dataset)) | by_category(dataset, cases, recs))
    return Scored(
        names,
        np.concatenate(per_seed),
        [{name: number(one[:, m].mean()) for m, name in enumerate(names)} for one in per_seed],
        {name: _mean([one[name] for one in beyond]) for name in beyond[0]},
    )


def _results(
    scored: Mapping[str, Scored], reference: Mapping[str, Scored], tests: AllCases, n_bootstrap: int
) -> dict[str, Any]:
    """One variant's figures under every rule, and what it differs from the reference, which is {} for the reference itself.

    Returns:
        ``results`` (rule -> metric -> mean, low, high, by_seed), ``beyond``, ``minus_first``, and where targets are of both kinds
        ``by_target`` and ``minus_first_new``.
    """
    parts = tests.parts
    found: dict[str, Any] = {"results": {}, "beyond": {}, "minus_first": {}}
    if parts:
        found |= {"by_target": {}, "minus_first_new": {}}
    every = np.ones(len(tests.users), bool)
    for rule, one in scored.items():
        whole, *by_part = _with_intervals(one, tests, [every, *parts.values()], n_bootstrap)
        found["beyond"][rule] = one.beyond
        found["results"][rule] = {
            metric: {**of, "by_seed": [means[metric] for means in one.by_seed]}
            for metric, of in whole.items()
        }
        if parts:
            found["by_target"][rule] = dict(zip(parts, by_part, strict=True))
        if reference:
            found["minus_first"][rule] = _minus(one, reference[rule], tests, every, n_bootstrap)
            if parts:
                found["minus_first_new"][rule] = _minus(one, reference[rule], tests, parts[NEW], n_bootstrap)
    return found


def _with_intervals(
    scored: Scored, tests: AllCases, groups: Sequence[np.ndarray], n_bootstrap: int
) -> list[dict[str, dict[str, float | None]]]:
    """Metric -> ``mean``, ``low`` and ``high`` of its 95% interval, for each group of cases, bool (C,)."""
    from dig_ray.evaluation import intervals
    from dig_ray.evaluation.metrics import number

    inside = np.stack(groups, axis=1)
    samples = intervals.bootstrap_means(tests.users, scored.values, inside, n_bootstrap, 0)
    low, high = intervals.percentile_interval(samples)
    return [
        {
            metric: {
                "mean": number(scored.values[group, m].mean()),
                "low": number(low[g, m]),
                "high": number(high[g, m]),
            }
            for m, metric in enumerate(scored.names)
        }
        for g, group in enumerate(groups)
    ]


def _minus(
    scored: Scored, reference: Scored, tests: AllCases, only: np.ndarray, n_bootstrap: int
) -> dict[str, dict[str, float | None]]:
    """What a variant differs from the reference on some cases, bool (C,), paired."""
    from dig_ray.evaluation.comparison import paired

    values = reference.values[only], scored.values[only]
    return paired(tests.users[only], scored.names, *values, 0, n_bootstrap)


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
