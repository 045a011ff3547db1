"""See the platform's figures beside Ray's own: put the panel set into the running Ray's Grafana configuration, and say how to start it.

The Ray that a run on this machine has started is found by itself, if it was started with ray.dashboard=true; --address names another.
With --check the figures of now are printed instead, which needs neither Prometheus nor Grafana, nor Ray's dashboard.

    python jobs/pipeline.py demo ray.dashboard=true    # and meanwhile, in another terminal:
    python jobs/dashboard.py
    python jobs/dashboard.py --check
"""

import argparse
import os
import sys
from pathlib import Path

from dig_ray.console.cli import guarded

TOKEN = Path("~/.ray/auth_token")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--address", metavar="HOST:PORT", help="of the Ray to look at; the one that runs here"
    )
    parser.add_argument("--check", action="store_true", help="print the figures of now")
    args = parser.parse_args()

    def work() -> None:
        if TOKEN.expanduser().is_file():
            os.environ.setdefault("RAY_AUTH_MODE", "token")
        from dig_ray.on_ray.dashboard import grafana, scrape
        from dig_ray.on_ray.session import RayConfig, RaySession, set_environment

        config = RayConfig(address=args.address)
        set_environment(config)
        address = args.address or grafana.find_address()
        grafana.check_address(address)
        with RaySession(RayConfig(address=address)) as session:
            session.start()
            if args.check:
                lines = scrape.table(scrape.now(scrape.endpoints()))
                print("\n".join(lines or ["this Ray has no figures of dig_ray yet; they come every 10 s"]))
                return
            folder = grafana.session_folder()
            print(f"panels: {grafana.install(folder)}", *grafana.commands(folder), "", sep="\n")
            print(f"then open {grafana.url()}; Ray's own panels are in the folder Ray beside it")

    return guarded(work)


if __name__ == "__main__":
    sys.exit(main())
