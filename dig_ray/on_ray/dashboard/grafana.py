"""Where a Ray session keeps Grafana's and Prometheus' configurations, our panel set among its own, and the commands that start both."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path
from typing import Any

import yaml

from dig_ray.errors import UserError
from dig_ray.on_ray.dashboard.panels import FILE, UID

GRAFANA, PROMETHEUS = "127.0.0.1:3000", "127.0.0.1:9090"
HOMES = ("/usr/share/grafana", "/opt/homebrew/opt/grafana/share/grafana", "/usr/local/share/grafana")
GET = {"prometheus": "prometheus.io/download", "grafana": "grafana.com/grafana/download"}


def find_address() -> str:
    """The Ray that runs on this machine, or the one of the job that this process is.

    Raises:
        UserError: there is none, or there are several.
    """
    from ray._private.services import find_gcs_addresses

    found = {address} if (address := os.environ.get("RAY_ADDRESS", "")) else set(find_gcs_addresses())
    if not found:
        raise UserError(
            "no Ray runs on this machine; start a run with ray.dashboard=true, or name a cluster with --address HOST:PORT"
        )
    if len(found) > 1:
        raise UserError(
            f"several Rays run on this machine ({', '.join(sorted(found))}); name one with --address"
        )
    return str(found.pop())


def check_address(address: str) -> None:
    """Refuse an address where nothing listens: Ray would try it for minutes.

    Raises:
        UserError: it is no HOST:PORT, or nothing listens there.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        raise UserError(
            f"--address {address} is no HOST:PORT; give the address that ray.init or ray start has printed, port and all"
        )
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--address {address} does not answer ({type(error).__name__}); give the address of a Ray that runs"
        ) from None


def session_folder() -> Path:
    """Where the Ray that this process is part of keeps its session, on this machine."""
    from ray._private import worker

    node: Any = worker._global_node
    return Path(node.get_session_dir_path())


def install(session: Path) -> Path:
    """Put the panel set where the session's Grafana looks for Ray's own; the file's place.

    Raises:
        UserError: the session has no Grafana configuration here, or the place cannot be written to.
    """
    provisioning = session / "metrics" / "grafana" / "provisioning" / "dashboards" / "default.yml"
    try:
        provider = yaml.safe_load(provisioning.read_text(encoding="utf-8"))["providers"][0]
        folder = Path(provider["options"]["path"])
    except FileNotFoundError:
        raise UserError(
            f"{session} has no Grafana configuration: Ray writes one on the head's machine when its dashboard starts; start the run with "
            "ray.dashboard=true, or call this on the head"
        ) from None
    except (yaml.YAMLError, KeyError, IndexError, TypeError):
        raise UserError(
            f"{provisioning} names no folder of dashboards; remove it and start Ray anew"
        ) from None
    target = folder / FILE.name
    aside = target.with_suffix(f".{os.getpid()}.tmp")
    try:
        shutil.copyfile(FILE, aside)
        os.replace(aside, target)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise UserError(
            f"{folder} cannot be written to ({error.strerror}); call this as the user who started Ray"
        ) from None
    return target


def commands(session: Path) -> list[str]:
    """Lines that say how to start Prometheus and Grafana with the session's configurations, on this machine only."""
    metrics = session / "metrics"
    home = next((one for one in HOMES if Path(one).is_dir()), "GRAFANA_FOLDER")
    lines = [
        f"prometheus --config.file={metrics}/prometheus/prometheus.yml --storage.tsdb.path={metrics}/prometheus/data "
        f"--web.listen-address={PROMETHEUS}",
        f"GF_SERVER_HTTP_ADDR={GRAFANA.partition(':')[0]} GF_PATHS_PROVISIONING={metrics}/grafana/provisioning "
        f"grafana server --homepath {home} --config {metrics}/grafana/grafana.ini",
    ]
    missing = [name for name in GET if shutil.which(name) is None]
    if missing:
        places = ", ".join(GET[name] for name in missing)
        lines += ["", f"not on this machine's PATH: {' and '.join(missing)}; install from {places}"]
    return lines


def url() -> str:
    """Where the panel set is when Grafana runs."""
    return f"http://{GRAFANA}/d/{UID}"
