"""Turn item vectors into Semantic IDs and report on their quality.

What it needs is run first, unless it is published already.

    python jobs/semantic_ids.py demo seed=1
    ray job submit --working-dir . -- python jobs/semantic_ids.py demo seed=1 store=s3://bucket/runs
"""

import sys
from pathlib import Path

from dig_ray.console.cli import run_job

if __name__ == "__main__":
    sys.exit(run_job(__doc__, stage="semantic_ids", configs=Path(__file__).parent / "configs"))
