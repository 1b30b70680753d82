"""Figures that all services have: which program this is, and how its link with the hub does; and how figures are shown.

A name begins with `subak_` and the service, holds a base unit (seconds, bytes), and ends in `_total` where it only grows. A label is never
the value of a row. `deploy/prometheus/METRICS.md` lists all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Metric, disable_created_metrics
from prometheus_client.registry import Collector

disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each counter, which nobody asks for

OUTLETS = CollectorRegistry()
"""What only the services of an outlet have."""

BUILD = Gauge("subak_build_info", "1: this version runs.", ["version", "service", "outlet"])
DATABASE_UP = Gauge("subak_database_up", "1: this service's database answers, and has room.")
STANDBY_NAME = "subak_standby"
STANDBY = Gauge(STANDBY_NAME, "1: another process does this service's work; this one stands by.", registry=OUTLETS)
LINK_FAILURES = Counter(
    "subak_link_failures_total", "Connections that were refused, failed or broke, by reason.", ["code"]
)
LINK_CONNECTED = Gauge("subak_link_connected", "1: this service is linked with the hub.", registry=OUTLETS)
LINK_CONNECTIONS = Counter(
    "subak_link_connections_total",
    "Times that this service was linked with the hub: one more for each reconnect.",
    registry=OUTLETS,
)


MAX_CODES = 64
"""Reasons told apart: more than this program has, so that a peer that makes up others cannot make series without end."""

_codes: set[str] = set()


def link_failed(code: str) -> None:
    """`code` may be the peer's word."""
    if len(_codes) < MAX_CODES:
        _codes.add(code)
    LINK_FAILURES.labels(code if code in _codes else "other").inc()


class Figures(Collector):
    """All figures of this process, each with the outlet's name, so that whoever scrapes need not know which outlet lives at an address."""

    def __init__(self, service: str, outlet: str) -> None:
        """`outlet` is empty at the hub."""
        self._service = service
        self._outlet = outlet
        BUILD.labels(version("subak"), service, outlet).set(1)

    def collect(self) -> Iterator[Metric]:
        """One that stands by does not know how things are at the outlet: it shows what it has counted, and none of its service's gauges,
        which would stay as they were when its turn was over."""
        registries = (REGISTRY, OUTLETS) if self._outlet else (REGISTRY,)
        metrics = [metric for registry in registries for metric in registry.collect()]
        stands_by = any(one.value for metric in metrics for one in metric.samples if one.name == STANDBY_NAME)
        for metric in metrics:
            if stands_by and metric.type == "gauge" and self._is_own(metric.name):
                continue
            whose = self._whose(metric.name)
            metric.samples = [one._replace(labels={**whose, **one.labels}) for one in metric.samples]
            yield metric

    def _is_own(self, name: str) -> bool:
        return name.startswith(f"subak_{self._service}_")

    def _whose(self, name: str) -> dict[str, str]:
        whose = {"outlet": self._outlet} if self._outlet else {}
        if not self._is_own(name):
            whose["service"] = self._service
        return whose


def figures(service: str, outlet: str) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Figures(service, outlet))
    return registry
