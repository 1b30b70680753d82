"""Capture's figures for Prometheus."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

CHANGES = Counter("subak_capture_changes_total", "Changes put into batches", ["table", "operation"])
BATCHES = Counter("subak_capture_batches_total", "Batches cut")
BYTES = Counter("subak_capture_bytes_total", "Bytes of the bodies of the batches cut")
STORED = Counter("subak_capture_stored_batches_total", "Batches that the hub has confirmed as stored")
POLLS = Counter("subak_capture_polls_total", "Polls of CloudQuery")
CONNECTED = Gauge("subak_capture_connected", "1 while capture is connected to the hub")
WAITING = Gauge("subak_capture_batches_waiting", "Batches cut that the hub has not confirmed yet")
OLDEST = Gauge(
    "subak_capture_oldest_unexported_seconds", "Age of the oldest change that the hub has not confirmed; 0: none"
)
REFUSED_TABLES = Gauge("subak_capture_refused_tables", "Tables asked for that cannot be synchronised")
CLOCK_SKEW = Gauge("subak_capture_clock_skew_seconds", "The hub's clock less that of the outlet's database")
HELD = Gauge(
    "subak_capture_held_changes", "Changes that wait for a clock: one of them is stamped too far ahead of the hub's"
)
