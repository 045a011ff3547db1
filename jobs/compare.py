"""Compare variants of a run over several seeds: one table with paired differences, and one page.

What variants share is made once, what is published already is found, and a killed comparison goes on where it was.

    python jobs/compare.py demo_evidence
    python jobs/compare.py demo_evidence 'seeds=[0,1,2,3,4]' store=s3://bucket/runs
    ray job submit --working-dir . -- python jobs/compare.py demo_evidence store=s3://bucket/runs
"""

import argparse
import sys
from pathlib import Path

from dig_ray.console.cli import guarded

CONFIGS = Path(__file__).parent / "configs"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "comparison", metavar="NAME|FILE", help="a comparison in jobs/configs/comparisons, or a YAML file"
    )
    parser.add_argument(
        "overrides", metavar="key=value", nargs="*", help="settings of the comparison, or of all its runs"
    )
    args = parser.parse_intermixed_args()

    def work() -> None:
        from dig_ray.console.terminal import Terminal
        from dig_ray.experiments.comparison_config import load_comparison
        from dig_ray.experiments.run_comparison import run_comparison

        comparison = load_comparison(args.comparison, args.overrides, CONFIGS / "comparisons")
        artifact = run_comparison(comparison, CONFIGS, Terminal().say)
        print(f"page: {artifact.path / 'comparison.html'}")

    return guarded(work)


if __name__ == "__main__":
    sys.exit(main())
