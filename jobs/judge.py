"""Label mined interests: the judge's 0 or 1, RLDI's for the rest, and each item's quality.

What it needs is run first, unless it is published already. The config names the judge:

    python jobs/judge.py demo 'mining.judge={engine: openai, name: judge, model: gpt-5.1, base_url: "https://api.openai.com/v1"}'
    ray job submit --working-dir . -- python jobs/judge.py demo mining.rldi.share=0.2 store=s3://bucket/runs
"""

import sys
from pathlib import Path

from dig_ray.console.cli import run_job

if __name__ == "__main__":
    sys.exit(run_job(__doc__, stage="judgements", configs=Path(__file__).parent / "configs"))
