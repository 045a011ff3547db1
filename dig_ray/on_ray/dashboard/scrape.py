"""What a cluster's metrics endpoints say of dig_ray now, for those who have no Grafana at hand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dig_ray.errors import UserError
from dig_ray.on_ray.telemetry import METRICS, exported

SECONDS = 10.0
PREFIX = "ray_dig_"


@dataclass(frozen=True)
class Sample:
    """One figure of one process.

    Attributes:
        name: as in ``METRICS``, with ``_sum`` or ``_count`` of a histogram.
        tags: dig_ray's own.
        process: Ray's id of the worker or driver.
        value: the figure.
    """

    name: str
    tags: tuple[tuple[str, str], ...]
    process: str
    value: float


def endpoints() -> list[str]:
    """The address of every machine's metrics, of the Ray that this process is part of."""
    import ray

    return [
        f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        for node in ray.nodes()
        if node["Alive"]
    ]


def read(address: str) -> list[Sample]:
    """Every figure of dig_ray at one endpoint.

    Raises:
        UserError: it does not answer.
    """
    import httpx2

    try:
        answer = httpx2.get(address, timeout=SECONDS, trust_env=False)
        answer.raise_for_status()
    except httpx2.HTTPError as error:
        raise UserError(
            f"{address} does not answer ({type(error).__name__}); is that Ray still running, and the port open to this machine?"
        ) from None
    return parse(answer.text)


def parse(text: str) -> list[Sample]:
    """Figures of dig_ray in what an endpoint answers."""
    from prometheus_client.parser import text_string_to_metric_families

    ours = "".join(f"{line}\n" for line in text.splitlines() if line.startswith(PREFIX))
    names: dict[str, tuple[str, Any]] = {}
    for name, metric in METRICS.items():
        if metric.kind == "histogram":
            names |= {f"{exported(name)}_{part}": (f"{name}_{part}", metric) for part in ("sum", "count")}
        else:
            names[exported(name)] = name, metric
    found = []
    for family in text_string_to_metric_families(ours):
        for sample in family.samples:
            if sample.name in names:
                name, metric = names[sample.name]
                tags = tuple((tag, sample.labels.get(tag, "")) for tag in metric.tags)
                found.append(Sample(name, tags, sample.labels.get("WorkerId", ""), sample.value))
    return found


def table(samples: Iterable[Sample]) -> list[str]:
    """Metric, tags and value as lines: counters summed over processes, gauges from the lowest to the highest process."""
    values: dict[tuple[str, tuple[tuple[str, str], ...]], list[float]] = defaultdict(list)
    for sample in samples:
        values[sample.name, sample.tags].append(sample.value)
    rows = []
    for name, metric in METRICS.items():
        told = f"{name}_count" if metric.kind == "histogram" else name
        for tags in sorted(tags for found, tags in values if found == told):
            rows.append((name, " ".join(value for _, value in tags), _shown(name, metric.kind, tags, values)))
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(2)]
    return [f"{name:<{widths[0]}}  {tags:<{widths[1]}}  {value}".rstrip() for name, tags, value in rows]


def _shown(
    name: str,
    kind: str,
    tags: tuple[tuple[str, str], ...],
    values: dict[tuple[str, tuple[tuple[str, str], ...]], list[float]],
) -> str:
    if kind == "histogram":
        count = sum(values[f"{name}_count", tags])
        return f"{sum(values[f'{name}_sum', tags]) / max(count, 1):.4g} on average of {count:,.0f}"
    found = values[name, tags]
    if kind == "counter":
        return _number(sum(found))
    low, high = min(found), max(found)
    return _number(low) if low == high else f"{_number(low)} to {_number(high)} ({len(found)} processes)"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) and abs(value) >= 1 else f"{value:.4g}"


def now(addresses: Sequence[str]) -> list[Sample]:
    """Every figure of dig_ray at these endpoints."""
    return [sample for address in addresses for sample in read(address)]
