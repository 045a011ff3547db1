"""Embed the text of all items.

What it needs is run first, unless it is published already.

    python jobs/embed.py demo seed=1
    ray job submit --working-dir . -- python jobs/embed.py demo seed=1 store=s3://bucket/runs
"""

import sys
from pathlib import Path

from dig_ray.console.cli import run_job

if __name__ == "__main__":
    sys.exit(run_job(__doc__, stage="embedding", configs=Path(__file__).parent / "configs"))
