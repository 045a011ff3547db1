"""Train a multi-interest retriever (ComiRec or LDMI) and recommend with it.

What it needs is run first, unless it is published already: users' items in clusters, synthesized users and their clusters.

    python jobs/ldmi.py demo_ldmi
    python jobs/ldmi.py demo_ldmi multi_interest.routing=attention multi_interest.alignment.weight=0 multi_interest.crowd.weight=0
    ray job submit --working-dir . -- python jobs/ldmi.py demo_ldmi store=s3://bucket/runs
"""

import sys
from pathlib import Path

from dig_ray.console.cli import run_job

if __name__ == "__main__":
    sys.exit(run_job(__doc__, stage="multi_interest", configs=Path(__file__).parent / "configs"))
