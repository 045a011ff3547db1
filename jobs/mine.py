"""Mine what items are for and what users want: captions, item interests, user interests, as the config asks.

Answers are kept in the store and never paid for twice: after a kill, a spend limit or a change of a few items the same
command asks only for what is missing. --dry-run says first what it would cost.

    python jobs/mine.py demo --dry-run
    python jobs/mine.py demo 'mining.items=[{engine: openai, name: gpt, model: gpt-5.1, base_url: "https://api.openai.com/v1"}]'
    ray job submit --working-dir . -- python jobs/mine.py demo store=s3://bucket/runs
"""

import sys
from pathlib import Path
from typing import Any

from dig_ray.cli import run_job


def dry_run(config: Any) -> None:
    from dig_ray.mining.costs import estimate
    from dig_ray.pipeline import find_published, run_pipeline
    from dig_ray.store import Store
    from dig_ray.summary import cost_lines

    catalog = run_pipeline(config, only="catalog")["catalog"]
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
    )
    for line in cost_lines(found):
        print(line)


if __name__ == "__main__":
    stages = ("item_interests", "captions", "user_interests")
    sys.exit(run_job(__doc__, stages, configs=Path(__file__).parent / "configs", dry_run=dry_run))
