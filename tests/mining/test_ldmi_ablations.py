"""The ablations of LDMI with an endpoint that clusters users' items: one command, one table, and what each variant cost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dig_ray.experiments.comparison_config import load_comparison
from dig_ray.experiments.run_comparison import run_comparison

CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"


def by_last_word(evidence: str, number: int) -> str:
    """A cluster for each last word of a title."""
    groups: dict[str, list[int]] = {}
    for item in json.loads(evidence)["items"]:
        groups.setdefault(item["title"].split()[-1], []).append(item["n"])
    return json.dumps({"clusters": [{"name": f"for {word}", "items": of} for word, of in groups.items()]})


@pytest.mark.slow
def test_each_part_of_ldmi_stands_in_one_table_with_its_cost(serve, tmp_path) -> None:
    server = serve(by_last_word)
    overrides = [
        f"store={tmp_path / 'store'}",
        "seeds=[0]",
        "catalog.demo={n_items: 60, n_users: 90, n_intents: 6}",
        "multi_interest.max_epochs=2",
        "multi_interest.crowd.budget=15",
        f"mining.clusters.base_url={server.url}",
        "mining.clusters.price={input: 1, output: 2}",
    ]
    comparison = load_comparison("ldmi_ablations", overrides, CONFIGS / "comparisons")
    artifact = run_comparison(comparison, CONFIGS, print)
    report = json.loads((artifact.path / "comparison.json").read_text())
    cost = {one["name"]: one["llm"][0] for one in report["variants"]}
    users, crowd = 90, int(cost["with crowd"]["calls"])
    assert 1 < crowd <= 15  # covering ends where nobody is left to cover
    random = cost["random users"].pop("calls")
    assert users < random <= users + 15
    assert {name: one["calls"] for name, one in cost.items() if "calls" in one} == {
        "base": 0,
        "with alignment": users,
        "with crowd": crowd,
        "LDMI": users + crowd,
        "no LLM": 0,
    }
    assert cost["LDMI"]["cost"] > cost["with alignment"]["cost"] > cost["with crowd"]["cost"] > 0
    assert sum(server.calls.values()) <= users + crowd + 15  # what variants share is asked once
    page = (artifact.path / "comparison.html").read_text()
    assert "What it cost" in page and "US dollars" in page
