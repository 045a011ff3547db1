"""Search over any keys of a run's config with Ray Tune; validation decides, the test split is never read.

    python jobs/sweep.py demo 'sft.learning_rate=loguniform(1e-4, 3e-3)' 'semantic_ids.levels=choice(2, 3)' --samples 8
    python jobs/sweep.py amazon14_beauty_tokenizer          # a named sweep of jobs/configs/sweeps, or a YAML file
    ray job submit --working-dir . -- python jobs/sweep.py demo_tokenizer store=/shared/runs

A killed sweep goes on with the same command; a finished one is found. Other ``key=value`` settings go to every trial.
"""

import sys
from pathlib import Path

from dig_ray.console.cli import sweep_job

if __name__ == "__main__":
    sys.exit(sweep_job(__doc__, Path(__file__).parent / "configs"))
