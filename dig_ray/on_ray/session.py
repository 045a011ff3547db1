"""Which Ray a run works on: one of its own, unless a cluster is meant.

``ray.init()`` without an address joins whatever cluster it finds on the machine. A run here does not: it starts
its own with ``address="local"``, listening on 127.0.0.1 only, and takes it down at the end. It joins a cluster in
two cases: it was submitted to one with ``ray job submit``, or ``ray.address`` names one.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

from pydantic import Field, model_validator

from dig_ray.base import Config
from dig_ray.errors import UserError, causes
from dig_ray.guards.offspring import end, offspring
from dig_ray.guards.signals import active, keep
from dig_ray.on_ray.telemetry import forget

LEAST_CPUS = 8  # logical; below, Ray Data can hang for ever with every CPU held by an actor pool
_IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray for the driver of a submitted job, and only there


class RayConfig(Config):
    """Where Ray comes from. Without an address a run starts its own and joins nobody's cluster.

    Attributes:
        address: None for a cluster of this run's own, or the address of one to join
            (``"auto"``, ``"HOST:6379"``, ``"ray://HOST:10001"``).
        num_cpus: logical CPUs of an own cluster; at least 8 by default, because Ray Data stops for ever
            when an actor pool holds all CPUs and none is left to read with.
        num_gpus: GPUs of an own cluster; what the machine has, by default.
        dashboard: serve Ray's dashboard on 127.0.0.1 (costs 2 s at start).
        linger: seconds that a Ray of this run's own with a dashboard stays up after it, so that Prometheus reads the last stages' figures:
            Ray gives them out every 10 s, and Prometheus comes by every 10 s.
        worker_logs: print what workers print.
    """

    address: str | None = Field(default=None, min_length=1)
    num_cpus: int | None = Field(default=None, ge=1)
    num_gpus: int | None = Field(default=None, ge=0)
    dashboard: bool = False
    linger: float = Field(default=20.0, ge=0)
    worker_logs: bool = False

    @model_validator(mode="after")
    def _own_or_joined(self) -> RayConfig:
        if self.address is not None and (self.num_cpus is not None or self.num_gpus is not None):
            raise ValueError(
                f"address={self.address} joins a running cluster, whose num_cpus and num_gpus are given; "
                "remove them, or remove address"
            )
        return self


def in_ray_job() -> bool:
    """Whether this process was started by ``ray job submit``."""
    return _IN_A_JOB in os.environ


class RaySession:
    """Ray from the first ``start`` to the end of the ``with`` block; never started, it costs nothing."""

    def __init__(self, config: RayConfig, log: Callable[[str], None] = print) -> None:
        self.config, self.log = config, log
        self._ours = False
        self.own = config.address is None and not in_ray_job()
        self.gpus = 0.0

    def start(self) -> None:
        """Start or join Ray, once.

        Raises:
            UserError: the cluster at ``ray.address`` does not answer.
        """
        set_environment(self.config)
        settings = init_settings(self.config)
        import ray

        if ray.is_initialized():
            self.gpus = float(ray.cluster_resources().get("GPU", 0))
            return
        for last_try in (False, True):
            try:
                with _without_line("Set ray log level from environment variable"), _without_handlers():
                    ray.init(**settings)
                break
            except (ConnectionError, ValueError, RuntimeError) as error:
                if settings["address"] == "local":
                    raise
                reason = str(error).strip().splitlines()[0]
                raise UserError(
                    f"ray.address {settings['address']} cannot be joined ({reason}); start that cluster, "
                    "or remove ray.address for one of this run's own"
                ) from None
            except Exception as error:  # a plain one, told by its words
                if "timed out during startup" not in str(error):
                    raise
                ray.shutdown()
                if last_try:
                    raise UserError(
                        "Ray did not start in time on this machine, which is too busy or short of memory; try again, or name a running "
                        "cluster in ray.address"
                    ) from None
                self.log("Ray did not start in time; trying once more")
            except BaseException:  # ^C or SIGTERM meanwhile: some of its servers would outlive it by a minute
                started = offspring() if settings["address"] == "local" else []
                ray.shutdown()
                end(started)
                raise
        self._ours = True
        keep()
        quiet_ray_data()
        where = "its own Ray" if settings["address"] == "local" else f"Ray at {settings['address']}"
        resources = ray.cluster_resources()
        self.gpus = float(resources.get("GPU", 0))
        self.log(f"on {where}: {resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs")

    def __enter__(self) -> RaySession:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._ours:
            import ray

            if self.own and self.config.dashboard and self.config.linger and kind is None:
                self.log(
                    f"for the dashboard's last figures Ray stays up for {self.config.linger:g} s (ray.linger)"
                )
                time.sleep(self.config.linger)
            forget()
            ray.shutdown()
            self._ours = False


def set_environment(config: RayConfig) -> None:
    """What Ray reads when it is first imported: whoever imports it before a session starts calls this first."""
    quiet = {
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",  # Ray's core prints a stack of C++ at SIGTERM, and aborts
        "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Tune's takes ^C for the end of the search and goes on with what was found
    }
    if init_settings(config)["address"] == "local":
        # a token guards the dashboard and its job server; said here, Ray does not warn that it is so. The native
        # log prints a line per actor pool ("constructor arguments in the object store"); set info to see it
        quiet |= {"RAY_AUTH_MODE": "token", "RAY_BACKEND_LOG_LEVEL": "fatal"}
        # On Linux Ray's own servers (scheduler, object store, workers, metrics) listen on every interface of the machine, as
        # other machines could join. On other systems they keep to 127.0.0.1, and this is what makes them.
        quiet["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        if sys.platform == "linux":
            quiet["GLOO_SOCKET_IFNAME"] = "lo"  # else the interface of the machine's name
        # Beside other work on the same cores, threads that spin while they wait cost most of the machine: two made 1,600
        # tokens/s in training where a single thread made 9,400. And Ray's workers start at niceness 15, so that
        # anything else that runs starves them. And Ray warns of more processes than it has processors, which a sweep
        # has to have: trials' drivers ask for none.
        quiet |= {
            "OMP_WAIT_POLICY": "PASSIVE",
            "RAY_worker_niceness": "0",
            "RAY_worker_maximum_startup_concurrency": "8",
        }
    elif only_on_loopback(init_settings(config)["address"]):
        # a run's own Ray: without this Ray would look for it at this machine's other address
        quiet["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    for name, value in quiet.items():
        os.environ.setdefault(name, value)


def only_on_loopback(address: str) -> bool:
    """Whether a Ray at 127.0.0.1 listens there and not at the address that this machine has for others."""
    host, _, port = address.rpartition(":")
    if host not in ("127.0.0.1", "localhost") or not port.isdigit():
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way_out:
        try:
            # sends nothing: the system says which of its addresses it would take
            way_out.connect(("192.0.2.1", 9))
            own = way_out.getsockname()[0]
        except OSError:  # it has no other
            return True
    return _listens(host, int(port)) and not _listens(own, int(port))


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=2).close()
    except (OSError, OverflowError):
        return False
    return True


def init_settings(config: RayConfig) -> dict[str, Any]:
    """Arguments for ``ray.init``."""
    common: dict[str, Any] = {
        "log_to_driver": config.worker_logs,
        "logging_level": "WARNING",
        "ignore_reinit_error": True,
    }
    if config.address is None and not in_ray_job():
        return common | {
            "address": "local",
            "num_cpus": config.num_cpus or max(LEAST_CPUS, os.cpu_count() or 1),
            "num_gpus": config.num_gpus,
            "include_dashboard": config.dashboard,
            "dashboard_host": "127.0.0.1",
        }
    return common | {"address": config.address or os.environ.get("RAY_ADDRESS") or "auto"}


@contextmanager
def _without_line(noise: str) -> Iterator[None]:
    """Standard error without the lines that hold ``noise``; the rest appears when the block ends."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as aside:
        os.dup2(aside.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            aside.seek(0)
            for line in aside.read().decode(errors="replace").splitlines():
                if noise not in line:
                    print(line, file=sys.stderr, flush=True)


@contextmanager
def _without_handlers() -> Iterator[None]:
    """Keep Ray from replacing a job's handler of SIGTERM while it starts; its own would exit in the middle of it."""
    from ray._private import utils

    theirs = utils.set_sigterm_handler
    if active():
        utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = theirs


def quiet_ray_data() -> None:
    """No progress bars and no per-operator chatter; stages report in their own words."""
    import logging

    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # advice on Ray's own settings, which nobody who runs a stage can follow
    context.issue_detectors_config.detectors = []
    for name in ("ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.WARNING)


def join_ray() -> dict[str, float]:
    """The cluster's resources; starts Ray on this machine where nothing has."""
    import ray

    if not ray.is_initialized():
        ray.init(address="local", include_dashboard=False, log_to_driver=False)
    quiet_ray_data()
    found: dict[str, float] = ray.cluster_resources()
    return found


def processors() -> int:
    """CPUs of all machines, as the machines count them: a run of its own gives Ray more than there are."""
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]
    return (os.cpu_count() or 1) if len(nodes) == 1 else int(ray.cluster_resources().get("CPU", 1))


def actor_pool(actors: int, num_cpus: float, num_gpus: float | None = None) -> Any:
    """Ray Data's pool of so many actors, all of which start at once where the cluster has room for them.

    A pool of a fixed size waits for all its actors, and hangs without a word where they take the CPUs that its input needs; one that grows
    by itself adds the second actor when the work is half done.
    """
    import ray
    from ray.data import ActorPoolStrategy

    total = ray.cluster_resources()
    room = (total.get("CPU", 1.0) - 1.0) / num_cpus if num_cpus else actors
    if num_gpus:
        room = min(room, total.get("GPU", 0.0) / num_gpus)
    return ActorPoolStrategy(min_size=1, max_size=actors, initial_size=max(1, min(actors, int(room))))


def beside_the_driver() -> Any:
    """Scheduling strategy of what others depend on: another machine's death takes workers only, and those are replaced."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def teller(lines: Any) -> Callable[[Any], None]:
    """What puts a line into a Ray queue, and goes on without it where the call was lost or nobody reads any more."""
    from ray.exceptions import RayActorError

    def tell(said: Any) -> None:
        with suppress(RayActorError):
            lines.put(said)

    return tell


def find_user_error(error: BaseException) -> str | None:
    """The sentence of the UserError behind an error, raised here or in a Ray worker; None if there is none.

    Ray raises what a worker raised as a class of two bases, whose text is a whole trace; the plain one is behind.
    """
    for inner in causes(error):
        if isinstance(inner, UserError) and inner.args and getattr(inner, "cause", None) is None:
            return str(inner.args[0])
    return None
