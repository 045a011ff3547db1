"""Rank the whole catalogue for every test user with the baselines.

What it needs is run first, unless it is published already.

    python jobs/baselines.py demo seed=1
    ray job submit --working-dir . -- python jobs/baselines.py demo seed=1 store=s3://bucket/runs
"""

import sys
from pathlib import Path

from dig_ray.console.cli import run_job

if __name__ == "__main__":
    sys.exit(run_job(__doc__, stage="baselines", configs=Path(__file__).parent / "configs"))
