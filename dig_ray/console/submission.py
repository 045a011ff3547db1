"""A job on a running cluster: the same submission has the same id, so it is made once, followed, and gone on with after a failure.

The id is ``<job>-<name>-<hash>-<attempt>``; the hash is of the command, of the resolved config and of the code that goes along. What the
dashboard shows of a job, its command, metadata and ``runtime_env``, holds no secret: those are set on the cluster's machines.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from dig_ray import __version__
from dig_ray.artifacts.folders import is_uri
from dig_ray.artifacts.manifest import hash_json
from dig_ray.artifacts.store_files import sha256_file
from dig_ray.errors import UserError
from dig_ray.guards.redaction import SECRET_NAME, hide

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
EXCLUDES = (".git", ".venv", "runs", "shared", "tests", "docs", "build", "dist", "**/__pycache__", ".*_cache")
AGENT_SECONDS = 60.0
"""How long a cluster that has just started is asked again."""
POLL_SECONDS = 1.0
SWEEPS = {"sweep": None, "sweep_tokenizer": "semantic_ids", "sweep_rewards": "grpo"}


@dataclass(frozen=True)
class Submission:
    """What is submitted.

    Attributes:
        stem: the job's id without the number of its attempt.
        entrypoint: the command that runs on the cluster.
        runtime_env: files, variables and packages that go along, as Ray takes them; plain to see on the dashboard.
        metadata: what the dashboard shows beside the job: its name, its config's name, and the hashes of config and code.
    """

    stem: str
    entrypoint: str
    runtime_env: Mapping[str, Any]
    metadata: Mapping[str, str]


def plan_submission(
    command: Sequence[str],
    root: Path,
    env: Sequence[str] = (),
    install: bool = False,
    python: str = "python",
) -> Submission:
    """What a job script and its arguments are submitted as. Reads its config, so that a typo costs a second.

    Args:
        command: a script of ``root`` and its arguments, such as ``jobs/pipeline.py demo seed=1``.
        root: directory that goes along.
        env: ``NAME=VALUE`` for the job; no secrets.
        install: install the versions of this environment on the cluster.
        python: interpreter on the cluster.

    Raises:
        UserError: no such script, a config that is wrong or stores inside the job, a secret in ``env``.
    """
    script = (root / command[0]).resolve()
    if not script.is_file() or not script.is_relative_to(root.resolve()):
        raise UserError(f"{command[0]} is no script below {root}; name one, such as jobs/pipeline.py")
    name, config = _read_config(script, list(command[1:]))
    for word in command:
        if hide(word, secrets=()) != word:
            raise UserError(
                f"the argument {hide(word, secrets=())} holds a secret, and everyone who sees the dashboard could read the command; set it "
                "on the cluster's machines"
            )
    code = hash_json({str(p.relative_to(root)): sha256_file(p) for p in _sources(root)})[:16]
    config_hash = hash_json(config)[:16]
    variables = _variables(env)
    runtime_env: dict[str, Any] = {"working_dir": str(root), "excludes": list(EXCLUDES)}
    if variables:
        runtime_env["env_vars"] = variables
    if install:
        runtime_env["pip"] = {"packages": pinned_requirements(), "pip_check": False}
    whole = hash_json([command, config, code, variables, install])[:12]
    job = script.stem
    return Submission(
        stem="-".join(re.sub(r"[^A-Za-z0-9_.]+", "_", word) for word in (job, name) if word) + f"-{whole}",
        entrypoint=shlex.join([python, *command]),
        runtime_env=runtime_env,
        metadata={
            "job": job,
            "config": name,
            "config_hash": config_hash,
            "code_hash": code,
            "dig_ray": __version__,
        },
    )


def _read_config(script: Path, arguments: list[str]) -> tuple[str, Any]:
    """(name, resolved config) of a job of ours; of another script its arguments."""
    words = [word for word in arguments if not word.startswith("-")]
    configs = script.parent / "configs"
    if script.parent.name != "jobs" or not configs.is_dir() or not words:
        return "", arguments
    source, overrides = words[0], [word for word in words[1:] if "=" in word]
    if script.stem in SWEEPS:
        from dig_ray.config import load_config
        from dig_ray.experiments.sweeps.read_sweep import read_sweep

        sweep = read_sweep(source, overrides, configs, SWEEPS[script.stem])
        _check_store(load_config(sweep.base, sweep.settings, configs).store)
        return sweep.name, sweep.model_dump(mode="json")
    if script.stem == "compare":
        from dig_ray.experiments.comparison_config import load_comparison

        comparison = load_comparison(source, overrides, configs / "comparisons")
        return comparison.name, comparison.model_dump(mode="json")
    from dig_ray.config import load_config

    config = load_config(source, overrides, configs)
    _check_store(config.store)
    return config.name, config.model_dump(mode="json")


def _check_store(store: str) -> None:
    if not is_uri(store) and not Path(store.removeprefix("file://")).is_absolute():
        raise UserError(
            f"store={store} would be inside the job's own directory on the cluster, and go with it; set store= to a URI or to a directory "
            "that all machines share, such as store=/shared/runs"
        )


def _variables(env: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in env:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(
                "--env takes NAME=VALUE, and one was given that has no ="
            )  # which may be a secret itself
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise UserError(f"--env {name} is not NAME=VALUE")
        if SECRET_NAME.search(name):
            raise UserError(
                f"--env {name} looks like a secret, and everyone who sees the dashboard could read it; set it on the cluster's machines"
            )
        if hide(value, secrets=()) != value:
            raise UserError(
                f"--env {name} holds an address with a secret in it, and everyone who sees the dashboard could read it; set it on the "
                "cluster's machines"
            )
        found[name] = value
    return found


def _sources(root: Path) -> Iterator[Path]:
    """Python files and configs that go along."""
    for folder in ("dig_ray", "jobs", "benchmarks"):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in (".py", ".yaml") and path.is_file():
                yield path


def pinned_requirements() -> list[str]:
    """``name==version`` of what dig_ray needs, as installed here; Ray itself is the cluster's."""
    try:
        lines = requires("dig-ray") or ()
    except PackageNotFoundError:
        raise UserError(
            "--install pins what is installed here, and dig_ray is not; pip install -e ."
        ) from None
    names = (re.match(r"[A-Za-z0-9_.-]+", line) for line in lines if "extra ==" not in line)
    return [f"{m[0]}=={version(m[0]).partition('+')[0]}" for m in names if m and m[0] != "ray"]


# --- the cluster ---------------------------------------------------------------------------------------------


@contextmanager
def _said(address: str) -> Iterator[None]:
    """What a cluster that does not answer as it should means to a user."""
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError:
        raise UserError(
            f"the cluster at {address} asks for its token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or ~/.ray/auth_token to the token"
        ) from None
    except ConnectionError as error:
        raise UserError(
            f"no cluster answers at {address} ({str(error).splitlines()[0][:120]}); start one with `ray start --head`, open the way to it "
            "with `ray dashboard cluster.yaml`, or give --address"
        ) from None


def connect(address: str) -> Any:
    """A client of the cluster's job server.

    Raises:
        UserError: nobody answers, or the token is missing or wrong.
    """
    folder = Path("~/.ray/auth_token").expanduser()
    if folder.exists() or {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # read when Ray is first imported
    from ray.job_submission import JobSubmissionClient

    # a line for every file that does not go along, and one when a log ends
    for name in ("ray", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with _said(address):
        return JobSubmissionClient(address)


def submit(client: Any, address: str, what: Submission, again: bool, log: Callable[[str], None]) -> str:
    """The id of the job: of the one that runs or has succeeded already, or of a new one.

    Args:
        client: the job server's client, of :func:`connect`.
        address: the cluster's address, as messages show it.
        what: what is submitted.
        again: submit it once more although it has succeeded.
        log: prints one line.

    Raises:
        UserError: the cluster takes no jobs.
    """
    with _said(address):
        attempts = _attempts(client, what.stem)
        last = max(attempts, default=0)
        if last:
            status = attempts[last]
            if status in ("PENDING", "RUNNING"):
                log(f"{what.stem}-{last} is {status.lower()} already; following it")
                return f"{what.stem}-{last}"
            if status == "SUCCEEDED" and not again:
                log(f"{what.stem}-{last} has succeeded already; --again submits it once more")
                return f"{what.stem}-{last}"
            log(f"{what.stem}-{last} {status.lower()}; submitting it again, it goes on from the store")
        job = f"{what.stem}-{last + 1}"
        _submit(client, job, what, log)
    return job


def _attempts(client: Any, stem: str) -> dict[int, str]:
    """Attempt -> status."""
    found = {}
    for job in _patiently(client.list_jobs):
        name, _, attempt = (job.submission_id or "").rpartition("-")
        if name == stem and attempt.isdigit():
            found[int(attempt)] = job.status.value
    return found


def _submit(client: Any, job: str, what: Submission, log: Callable[[str], None]) -> None:
    def ask() -> None:
        try:
            client.submit_job(
                submission_id=job,
                entrypoint=what.entrypoint,
                runtime_env=dict(what.runtime_env),
                metadata=dict(what.metadata),
            )
        except RuntimeError as error:
            if "already exists" not in str(error):
                raise
            log(f"{job} was submitted by somebody else just now; following it")

    _patiently(ask)


def _patiently(ask: Callable[[], Any]) -> Any:
    """Ask again while a cluster that has just started has no agent yet."""
    deadline = time.monotonic() + AGENT_SECONDS
    while True:
        try:
            return ask()
        except RuntimeError as error:
            if "agent" not in str(error).lower() or time.monotonic() > deadline:
                raise UserError(
                    f"the cluster takes no job: {' '.join(str(error).split())[:300]}; see logs/dashboard_agent.log of its head"
                ) from None
            time.sleep(POLL_SECONDS)


def follow(client: Any, address: str, job: str, write: Callable[[str], None]) -> int:
    """Show a job's log until it ends; its exit code.

    A connection that breaks is opened again where it was.

    Args:
        client: the job server's client, of :func:`connect`.
        address: the cluster's address, as messages show it.
        job: the job's submission id.
        write: takes the log's text as it comes.

    Raises:
        UserError: the cluster is gone.
    """
    shown = failures = 0

    async def show() -> None:
        """What of the log was not shown yet; a tail begins at the log's beginning."""
        nonlocal shown
        at = 0
        async for text in client.tail_job_logs(job):
            new = text[max(0, shown - at) :]
            at += len(text)
            shown = max(shown, at)
            if new:
                write(new)

    while True:
        try:
            with _said(address):
                ended = _patiently(lambda: client.get_job_status(job)).is_terminal()
                asyncio.run(show())
            failures = 0
        except (RuntimeError, OSError):
            failures += 1
            if failures > AGENT_SECONDS / POLL_SECONDS:
                raise UserError(f"the log of {job} cannot be read at {address}; see its dashboard") from None
            ended = False
        if ended:
            break
        time.sleep(POLL_SECONDS)
    info = client.get_job_info(job)
    if info.status.value == "SUCCEEDED":
        return 0
    write(f"{job} {info.status.value.lower()}: {' '.join((info.message or '').split())[:500]}\n")
    return int(info.driver_exit_code or 1)
