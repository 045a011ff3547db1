"""Run a whole experiment: from a catalogue and what people did to Semantic IDs, a trained policy and a table of results.

What is published already is not run again.

    python jobs/pipeline.py demo seed=1
    ray job submit --working-dir . -- python jobs/pipeline.py demo seed=1 store=s3://bucket/runs
"""

import sys
from pathlib import Path

from dig_ray.console.cli import run_job

if __name__ == "__main__":
    sys.exit(run_job(__doc__, configs=Path(__file__).parent / "configs"))
