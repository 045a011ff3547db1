"""Mine what items are for and what users want: captions, item interests, user interests, clusters of users' items, as the config asks.

Answers are kept in the store and never paid for twice: after a kill, a spend limit or a change of a few items the same
command asks only for what is missing. --dry-run says first what it would cost.

    python jobs/mine.py demo --dry-run
    python jobs/mine.py demo 'mining.items=[{engine: openai, name: gpt, model: gpt-5.1, base_url: "https://api.openai.com/v1"}]'
    ray job submit --working-dir . -- python jobs/mine.py demo store=s3://bucket/runs
"""

import sys
from pathlib import Path
from typing import Any

from dig_ray.console.cli import can_run, run_job


def asked(config: Any, stage: str) -> bool:
    """Whether a config has this stage, and an LLM is to do it."""
    return can_run(config, stage) and (config.mining.clusters is not None or not stage.endswith("_clusters"))


def dry_run(config: Any) -> None:
    from dig_ray.artifacts.store import Store
    from dig_ray.catalog.dataset import Dataset
    from dig_ray.console.summary import cost_lines, run_and_tell
    from dig_ray.mining.costs import estimate
    from dig_ray.multi_interest.cluster_stage import latest_items, read_crowd
    from dig_ray.pipeline import find_published

    catalog = run_and_tell(config, only="catalog")["catalog"]
    clustered = {}
    if asked(config, "user_clusters"):
        clustered["user"] = latest_items(
            Dataset.load(catalog.path), config.mining.cluster_items, config.multi_interest.hold_out
        )
    if asked(config, "crowd_clusters"):
        clustered["crowd"] = read_crowd(run_and_tell(config, only="crowd")["crowd"].path)
    names = ("item_interests", "captions", "pictures")
    items, captions, pictures = (find_published(config, name) for name in names)
    found = estimate(
        config.mining,
        catalog.path,
        items.path if items else None,
        Store(config.store).kept,
        config.seed,
        captions.path if captions else None,
        pictures.path if pictures else None,
        clustered,
    )
    for line in cost_lines(found):
        print(line)


if __name__ == "__main__":
    stages = ("item_interests", "captions", "user_interests", "user_clusters", "crowd_clusters")
    sys.exit(
        run_job(__doc__, stages, configs=Path(__file__).parent / "configs", dry_run=dry_run, asked=asked)
    )
