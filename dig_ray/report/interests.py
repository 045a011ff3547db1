"""Interests of some test users: which events are strongest in each, and what each found on its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dig_ray.numerics.ranking import rank_of_target
from dig_ray.report.example_users import pick

if TYPE_CHECKING:
    from dig_ray.catalog.dataset import Dataset

USERS = 6
OF_HISTORY = 8
"""Latest items of an interest that are shown."""
OF_FOUND = 6
NAMES = 4
"""Of an interest's clusters."""


def gather_interests(
    dataset: Dataset, inputs: Mapping[str, Path], manifests: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any] | None:
    """What a multi-interest model left on the users that are shown; None for a run without one.

    Returns:
        ``stats`` of its stage, and ``cases``: number of a test case -> its interests as ``retrieved.parquet`` has them.

    Raises:
        UserError: a file cannot be read.
    """
    from dig_ray.evaluation.recommendations import read_recommendations
    from dig_ray.multi_interest.retrieved import read_retrieved

    if "multi_interest" not in inputs:
        return None
    folder = inputs["multi_interest"]
    cases = dataset.cases("test")
    lists = read_recommendations(next(folder.glob("recommendations_*_unseen.parquet")), dataset, cases)
    shown = pick(rank_of_target(lists, cases.target), USERS)
    return {
        "stats": manifests.get("multi_interest", {}).get("stats") or {},
        "cases": read_retrieved(folder / "retrieved.parquet", shown),
    }


def interests_of_users(dataset: Dataset, found: Mapping[str, Any], titles: Sequence[str]) -> dict[str, Any]:
    """``gather_interests`` as the template takes it, with titles in place of ids."""
    row_of = {item: row for row, item in enumerate(dataset.item_ids.tolist())}
    cases = dataset.cases("test")
    users = []
    for case, interests in found["cases"].items():
        target = str(dataset.item_ids[cases.target[case]])
        users.append(
            {
                "user": str(dataset.user_ids[cases.user[case]]),
                "target": titles[row_of[target]],
                "interests": [
                    {
                        "number": place,
                        "share": one["share"],
                        "clusters": one["clusters"][:NAMES],
                        "more": max(0, len(one["clusters"]) - NAMES),
                        "items": [titles[row_of[item]] for item in one["item_ids"][-OF_HISTORY:]],
                        "earlier": max(0, len(one["item_ids"]) - OF_HISTORY),
                        "found": [
                            {"title": titles[row_of[item]], "hit": item == target}
                            for item in one["found_ids"][:OF_FOUND]
                        ],
                        "hit_below": target in one["found_ids"][OF_FOUND:],
                    }
                    for place, one in enumerate(interests, 1)
                ],
            }
        )
    return {"users": users, "stats": found["stats"]}
