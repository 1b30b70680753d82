"""The hub's figures for Prometheus. `outlet` is the outlet that sent, or that is owed; there is no series of one that was removed.

The hub keeps bodies as they came: changes by table and operation are counted by who looks into them, capture and applier.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from prometheus_client import Counter, Gauge, Histogram

from services.hub.status import OutletStatus
from services.hub.storing import Arrival
from services.kernel.wire.messages import HUB, Delivery, Role

COMMIT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)

CHANGES = Counter("subak_hub_changes_total", "Changes stored, by the outlet that sent them.", ["outlet"])
BATCHES = Counter("subak_hub_batches_total", "Batches stored, by the outlet that sent them.", ["outlet"])
BYTES = Counter("subak_hub_bytes_total", "Bodies of the batches stored, by the outlet that sent them.", ["outlet"])
DUPLICATE_BATCHES = Counter(
    "subak_hub_duplicate_batches_total", "Batches that came again, and were stored once.", ["outlet"]
)
SENT = Counter(
    "subak_hub_sent_deliveries_total", "Deliveries sent to the outlet, those sent again included.", ["outlet"]
)
SENT_BYTES = Counter("subak_hub_sent_bytes_total", "Bodies of the deliveries sent to the outlet.", ["outlet"])
EXECUTED = Counter("subak_hub_executed_deliveries_total", "Deliveries that the outlet has executed.", ["outlet"])
WAITING = Gauge("subak_hub_waiting_deliveries", "Deliveries owed to the outlet and not executed.", ["outlet"])
WAITING_BYTES = Gauge("subak_hub_waiting_bytes", "Bodies of those; measured once a minute.", ["outlet"])
OLDEST_WAITING = Gauge(
    "subak_hub_oldest_waiting_seconds", "Age of the oldest delivery that waits for the outlet; 0: none.", ["outlet"]
)
LIMIT = Gauge(
    "subak_hub_offline_limit_ratio",
    "Part of the nearer limit, by age or size, that waits for the outlet; at 1 it is given up. Measured once a minute.",
    ["outlet"],
)
CERTIFICATE_EXPIRY = Gauge(
    "subak_hub_certificate_expiry_timestamp_seconds",
    "End of the certificate that the outlet has shown last, in seconds since 1970 UTC.",
    ["outlet"],
)
RESYNC = Gauge("subak_hub_resync", "1: the outlet was given up, and needs a newer database.", ["outlet"])
QUARANTINED = Gauge(
    "subak_hub_quarantined_transactions", "Transactions that the outlet reports as quarantined.", ["outlet"]
)
MISFIT_TABLES = Gauge(
    "subak_hub_misfit_tables",
    "Tables of the outlet that the conflict rules do not fit; changes of them are held.",
    ["outlet"],
)
CONFLICTS = Gauge("subak_hub_conflicts", "Conflicts that the outlet has decided, as it reports.", ["outlet"])
CONNECTED = Gauge("subak_hub_connected", "1: that service of the outlet is connected.", ["outlet", "role"])
CONNECTIONS = Counter(
    "subak_hub_connections_total",
    "Times that service of the outlet was let in: one more for each reconnect.",
    ["outlet", "role"],
)
SEEN = Gauge(
    "subak_hub_seen_timestamp_seconds",
    "When the outlet came or went last, in seconds since 1970 UTC; no series of one that has never come.",
    ["outlet"],
)
SKEW = Gauge(
    "subak_hub_clock_skew_seconds", "The hub's clock less that of the outlet's database, when it connected.", ["outlet"]
)
PAUSED = Gauge("subak_hub_paused", "1: broadcasting is paused.")
COMMIT_DURATION = Histogram(
    "subak_hub_commit_duration_seconds",
    "Transactions in which batches or acknowledgements were stored, with the tries that failed.",
    buckets=COMMIT_SECONDS,
)
DATABASE_FAILURES = Counter("subak_hub_database_failures_total", "Tries that failed, by reason.", ["code"])

_BY_OUTLET = (
    CHANGES, BATCHES, BYTES, DUPLICATE_BATCHES, SENT, SENT_BYTES, EXECUTED,
    WAITING, WAITING_BYTES, OLDEST_WAITING, LIMIT, RESYNC, QUARANTINED, MISFIT_TABLES, CONFLICTS,
)  # fmt: skip
_BY_ROLE = (CONNECTED, CONNECTIONS)

_outlets: set[str] = set()
"""Those that may have series."""


def outlets(known: Sequence[OutletStatus]) -> None:
    """All that take part, also those that never came; those that were removed are seen no more."""
    for outlet in known:
        WAITING.labels(outlet.name).set(outlet.waiting)
        OLDEST_WAITING.labels(outlet.name).set(outlet.oldest_waiting_seconds)
        QUARANTINED.labels(outlet.name).set(outlet.quarantined)
        MISFIT_TABLES.labels(outlet.name).set(len(outlet.misfits))
        CONFLICTS.labels(outlet.name).set(outlet.conflicts)
        RESYNC.labels(outlet.name).set(outlet.resync_at is not None)
        if outlet.seen_at is not None:
            SEEN.labels(outlet.name).set(outlet.seen_at / 1e6)
        if outlet.skew_seconds is not None:
            SKEW.labels(outlet.name).set(outlet.skew_seconds)
        if outlet.certificate_ends is not None:
            CERTIFICATE_EXPIRY.labels(outlet.name).set(outlet.certificate_ends / 1e6)
        for metric in _BY_OUTLET:
            metric.labels(outlet.name)  # is there from the beginning, with 0
        for metric in _BY_ROLE:
            for role in Role:
                metric.labels(outlet.name, role.value)
    names = {outlet.name for outlet in known}
    for gone in _outlets - names:
        for metric in (*_BY_OUTLET, SEEN, SKEW, CERTIFICATE_EXPIRY):
            _forget(metric, gone)
        for metric in _BY_ROLE:
            for role in Role:
                _forget(metric, gone, role.value)
    _outlets.clear()
    _outlets.update(names)


def connected(outlet: str, role: Role) -> None:
    _outlets.add(outlet)
    CONNECTED.labels(outlet, role.value).set(1)
    CONNECTIONS.labels(outlet, role.value).inc()


def disconnected(outlet: str, role: Role) -> None:
    _outlets.add(outlet)
    CONNECTED.labels(outlet, role.value).set(0)


def stored(arrivals: Sequence[Arrival]) -> None:
    """Batches that are durable. What the hub itself says is not counted."""
    for arrival in arrivals:
        if arrival.origin == HUB:
            continue
        if arrival.again:
            DUPLICATE_BATCHES.labels(arrival.origin).inc()
            continue
        BATCHES.labels(arrival.origin).inc()
        CHANGES.labels(arrival.origin).inc(arrival.batch.changes)
        BYTES.labels(arrival.origin).inc(arrival.batch.bytes)


def _forget(metric: Counter | Gauge, *labels: str) -> None:
    with suppress(KeyError):
        metric.remove(*labels)


def sent(outlet: str, delivery: Delivery) -> None:
    SENT.labels(outlet).inc()
    SENT_BYTES.labels(outlet).inc(delivery.bytes)
