"""Submit a job to a running Ray cluster, follow its log, and end with its exit code.

    python jobs/submit.py jobs/pipeline.py demo store=/shared/runs
    python jobs/submit.py --no-wait --address http://127.0.0.1:8265 jobs/sweep.py demo_tokenizer store=s3://bucket/runs

The same command again follows the job that runs, finds the one that has succeeded, or submits once more after a failure, which goes on from
the store. Interrupting it leaves the job running. Plain `ray job submit --working-dir . -- python jobs/pipeline.py ...` does as well.
"""

import argparse
import os
import sys
from pathlib import Path

from dig_ray.console.cli import guarded
from dig_ray.console.submission import DEFAULT_ADDRESS, connect, follow, plan_submission, submit


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS") or ""
    parser.add_argument(
        "--address",
        default=known if known.startswith("http") else DEFAULT_ADDRESS,
        help="of the dashboard (default: RAY_API_SERVER_ADDRESS, RAY_ADDRESS or %(default)s)",
    )
    parser.add_argument("--no-wait", action="store_true", help="print the job's id and leave it running")
    parser.add_argument("--again", action="store_true", help="also where the same job has succeeded already")
    parser.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="for the job; no secrets"
    )
    parser.add_argument(
        "--install", action="store_true", help="install this environment's versions on the cluster first"
    )
    parser.add_argument(
        "--python", default="python", help="interpreter on the cluster (default: %(default)s)"
    )
    parser.add_argument("job", nargs=argparse.REMAINDER, metavar="jobs/NAME.py ...", help="what to run")
    args = parser.parse_args()
    command = args.job[1:] if args.job[:1] == ["--"] else args.job
    if not command:
        parser.error("name a job, such as jobs/pipeline.py demo store=/shared/runs")
    code = 0

    def show(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    def work() -> None:
        nonlocal code
        root = Path(__file__).resolve().parents[1]
        what = plan_submission(command, root, args.env, args.install, args.python)
        client = connect(args.address)
        job = submit(client, args.address, what, args.again, lambda line: show(f"{line}\n"))
        show(f"job {job} on {args.address}\n")
        if not args.no_wait:
            try:
                code = follow(client, args.address, job, show)
            except KeyboardInterrupt:
                show(f"\n{job} goes on; stop it with: ray job stop --address {args.address} {job}\n")
                raise

    return guarded(work) or code


if __name__ == "__main__":
    sys.exit(main())
