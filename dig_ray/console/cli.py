"""What every job script shares: arguments, the config, and errors a user can read.

A job prints ``error: ...`` and ends with code 1 for what the user can mend, 130 when interrupted, by ^C or SIGTERM. Anything else
is a fault of ours and keeps its trace.
"""

from __future__ import annotations

import argparse
import atexit
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from dig_ray.errors import UserError
from dig_ray.guards.redaction import hide
from dig_ray.guards.signals import INTERRUPTED, asked_by, ending_well, note_exit

CONFIGS = Path("jobs/configs")


def run_job(
    description: str,
    stage: str | Sequence[str] | None = None,
    argv: Sequence[str] | None = None,
    configs: str | Path | None = None,
    dry_run: Callable[[Any], None] | None = None,
    asked: Callable[[Any, str], bool] | None = None,
) -> int:
    """Read arguments and config and run the pipeline, or some stages with what they need.

    Args:
        description: the job's first words in ``--help``.
        stage: the stage this job is for, or the stages, of which it runs those that the config asks for; None for the whole pipeline.
        argv: arguments; those of the process by default.
        configs: where named configs are; ``jobs/configs`` by default.
        dry_run: adds ``--dry-run``, which calls this with the config instead.
        asked: whether a config asks for one of several stages; whether it can run by default.

    Returns:
        exit code.
    """
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", metavar="NAME|FILE", help="a config in jobs/configs, or a YAML file")
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="settings laid over the file's")
    parser.add_argument("--print-config", action="store_true", help="show the whole config as YAML and stop")
    if stage is None:
        parser.add_argument("--until", metavar="STAGE", help="stop after this stage")
        parser.add_argument(
            "--force",
            metavar="STAGE",
            action="append",
            default=[],
            help="run this stage again (may be repeated)",
        )
    else:
        named = [stage] if isinstance(stage, str) else list(stage)
        parser.add_argument(
            "--force", action="store_true", help=f"run {', '.join(named)} again although published"
        )
    if dry_run is not None:
        parser.add_argument("--dry-run", action="store_true", help="say what it would cost, and stop")
    args = parser.parse_intermixed_args(argv)

    def work() -> None:
        from dig_ray.config import load_config, to_yaml

        config = load_config(args.config, args.overrides, Path(configs) if configs else CONFIGS)
        if args.print_config:
            sys.stdout.write(to_yaml(config))
            return
        if dry_run is not None and args.dry_run:
            dry_run(config)
            return
        from dig_ray.console.summary import run_and_tell

        if stage is None:
            run_and_tell(config, until=args.until, force=args.force)
            return
        chosen = [name for name in named if (asked or can_run)(config, name)] or named[:1]
        run_and_tell(config, only=chosen, force=chosen if args.force else [])

    return guarded(work)


def sweep_job(
    description: str, configs: Path, target: str | None = None, argv: Sequence[str] | None = None
) -> int:
    """Read a sweep and its overrides and run it.

    Args:
        description: the job's first words in ``--help``.
        configs: where named runs are; named sweeps are in ``sweeps`` below.
        target: what this job judges; a sweep of something else is refused.
        argv: arguments; those of the process by default.

    Returns:
        exit code.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "sweep", metavar="NAME|FILE", help="a sweep in jobs/configs/sweeps, a run, or a YAML file"
    )
    parser.add_argument(
        "settings", metavar="key=...", nargs="*", help="a distribution to search, or a value for every trial"
    )
    parser.add_argument("--samples", type=int, metavar="N", help="trials")
    parser.add_argument("--search", metavar="HOW", help="grid, random or optuna")
    parser.add_argument("--print-config", action="store_true", help="show the whole sweep as YAML and stop")
    args = parser.parse_intermixed_args(argv)

    def work() -> None:
        from dig_ray.config import to_yaml
        from dig_ray.console.terminal import Terminal
        from dig_ray.experiments.sweeps.read_sweep import read_sweep
        from dig_ray.experiments.sweeps.run_sweep import run_sweep

        sweep = read_sweep(args.sweep, args.settings, configs, target, args.samples, args.search)
        if args.print_config:
            sys.stdout.write(to_yaml(sweep))
            return
        terminal = Terminal()
        try:
            run_sweep(sweep, configs, terminal.say, terminal.now if terminal.live else None)
        finally:
            terminal.clear()

    return guarded(work)


def can_run(config: Any, stage: str) -> bool:
    """Whether a stage can run under a config."""
    from dig_ray import pipeline

    return pipeline.can_run(config, stage)


def guarded(work: Callable[[], None]) -> int:
    """Call ``work``; 0, or 1 with one ``error:`` line for a UserError (also one from a Ray worker), 130 for ^C and SIGTERM."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # stages report in their own words
    with ending_well():
        code = _guarded(work)
    return code


def _guarded(work: Callable[[], None]) -> int:
    try:
        work()
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _interrupted()
    except SystemExit:
        note_exit()
        return _interrupted()
    except BrokenPipeError:  # | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except UserError as error:
        sentence = str(error.args[0]) if error.args else str(error)
    except Exception as error:
        if asked_by():  # what was cut off failed for that
            return _interrupted()
        from dig_ray.on_ray.session import find_user_error

        found = find_user_error(error)
        if found is None:
            sys.excepthook = _trace_without_secrets
            raise
        sentence = found
    else:
        return 0
    if asked_by():
        return _interrupted()
    sys.stdout.flush()
    print(f"error: {' '.join(hide(sentence).split())}", file=sys.stderr, flush=True)
    return 1


def _trace_without_secrets(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    sys.stderr.write(hide("".join(traceback.format_exception(kind, error, trace))))


def _interrupted() -> int:
    by = f" by {asked_by()}" if asked_by() == "SIGTERM" else ""
    with suppress(OSError):
        print(f"interrupted{by}; run the same command again to go on from here", file=sys.stderr, flush=True)
    if asked_by() and "ray" in sys.modules:
        # Ray is down by now; what it leaves of a start that was cut off can crash in the interpreter's own end
        with suppress(BaseException):
            sys.stdout.flush()
            atexit._run_exitfuncs()
        os._exit(INTERRUPTED)
    return INTERRUPTED
