"""Which reward, and how much of each part? GRPO under many rewards, judged by validation NDCG@10 and never by the reward itself.

alpha, lambda_valid, lambda_pref, the quality variant, beta, G and temperature by Optuna, every trial with each seed; the SFT policies that
all start from are trained once.

    python jobs/sweep_rewards.py demo_rewards
    python jobs/sweep_rewards.py amazon14_beauty_rewards
"""

import sys
from pathlib import Path

from dig_ray.console.cli import sweep_job

if __name__ == "__main__":
    sys.exit(sweep_job(__doc__, Path(__file__).parent / "configs", target="grpo"))
