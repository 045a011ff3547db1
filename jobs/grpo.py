"""Train the policy on by reinforcement learning: GRPO with rewards on Semantic IDs, judged by decoding.

What it needs is run first, unless it is published already.

    python jobs/grpo.py demo grpo.rewards.lambda_pref=0.5
    ray job submit --working-dir . -- python jobs/grpo.py demo store=s3://bucket/runs
"""

import sys
from pathlib import Path

from dig_ray.console.cli import run_job

if __name__ == "__main__":
    sys.exit(run_job(__doc__, stage="grpo", configs=Path(__file__).parent / "configs"))
