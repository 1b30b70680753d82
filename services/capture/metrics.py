"""Capture's figures for Prometheus. Each also carries the outlet's name (`kernel/metrics.py`)."""

from __future__ import annotations

from collections import Counter as Counts

from prometheus_client import Counter, Gauge

from services.kernel.change import Op

CHANGES = Counter("subak_capture_changes_total", "Changes captured: put into batches.", ["table", "operation"])
STORED_CHANGES = Counter(
    "subak_capture_stored_changes_total",
    "Changes that the hub has confirmed as stored, once they are marked.",
    ["table", "operation"],
)
BATCHES = Counter("subak_capture_batches_total", "Batches cut.")
STORED_BATCHES = Counter("subak_capture_stored_batches_total", "Batches that the hub has confirmed as stored.")
BYTES = Counter("subak_capture_bytes_total", "Bodies of the batches cut.")
POLLS = Counter("subak_capture_polls_total", "Polls of CloudQuery.")
WAITING = Gauge("subak_capture_waiting_batches", "Batches cut that the hub has not confirmed yet.")
OLDEST = Gauge(
    "subak_capture_oldest_unexported_seconds", "Age of the oldest change that the hub has not confirmed; 0: none."
)
REFUSED_TABLES = Gauge("subak_capture_refused_tables", "Tables asked for that cannot be synchronised.")
CLOCK_SKEW = Gauge("subak_capture_clock_skew_seconds", "The hub's clock less that of the outlet's database.")
HELD = Gauge(
    "subak_capture_held_changes", "Changes that wait for a clock: one of them is stamped too far ahead of the hub's."
)


def count(counter: Counter, changes: Counts[tuple[str, Op]]) -> None:
    """Adds so many changes by table and operation."""
    for (table, op), number in changes.items():
        counter.labels(table, op.name.lower()).inc(number)
