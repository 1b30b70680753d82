"""The applier's figures for Prometheus. Each also carries the outlet's name (`kernel/metrics.py`).

They are counted after the commit that they tell of, once a batch: what is counted change by change is in `recording.Outcome`.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from services.applier.recording import Outcome
from services.kernel.wire.messages import Delivery

LATENCY_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600, 21_600, 86_400)
"""A link that is up, one that is slow, an outlet that was away for the night."""

DURATION_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

CHANGES = Counter(
    "subak_applier_changes_total",
    "Changes applied: decided, and written unless a later one of that row is known.",
    ["table", "operation"],
)
BATCHES = Counter("subak_applier_batches_total", "Batches applied.", ["origin"])
BYTES = Counter("subak_applier_bytes_total", "Bodies of the batches applied.", ["origin"])
DUPLICATE_BATCHES = Counter(
    "subak_applier_duplicate_batches_total", "Batches that had been applied before, and changed nothing.", ["origin"]
)
FAILED_ATTEMPTS = Counter("subak_applier_failed_attempts_total", "Attempts that were begun again, by reason.", ["code"])
LATENCY = Histogram(
    "subak_applier_latency_seconds",
    "From the stamp of a transaction's last change, at its origin, to its commit here; less than nothing, by clocks that differ, is 0.",
    buckets=LATENCY_SECONDS,
)
DURATION = Histogram(
    "subak_applier_batch_duration_seconds",
    "From the last byte of a batch, or of several that share a commit, to its commit.",
    buckets=DURATION_SECONDS,
)
CONFLICTS = Counter("subak_applier_conflicts_total", "Conflicts decided here, by the rule.", ["table", "rule"])
NEWLY_QUARANTINED = Counter(
    "subak_applier_newly_quarantined_transactions_total", "Transactions put into quarantine, by reason.", ["code"]
)
QUARANTINED = Gauge("subak_applier_quarantined_transactions", "Transactions that wait in quarantine.")
MISFIT_TABLES = Gauge(
    "subak_applier_misfit_tables", "Tables that the conflict rules do not fit; their changes are held."
)


def applied(delivery: Delivery, outcome: Outcome, took: float, now: int) -> None:
    """A batch, once it is durable. `took` is in seconds, `now` in µs since 1970 UTC."""
    if outcome.duplicate:
        DUPLICATE_BATCHES.labels(delivery.origin).inc()
        return
    BATCHES.labels(delivery.origin).inc()
    BYTES.labels(delivery.origin).inc(delivery.bytes)
    DURATION.observe(took)
    executed(outcome, now)


def executed(outcome: Outcome, now: int) -> None:
    """What was in a batch, or in a transaction that left quarantine."""
    for (table, op), number in outcome.changes_by.items():
        CHANGES.labels(table, op.name.lower()).inc(number)
    for (table, rule), number in outcome.conflicts_by.items():
        CONFLICTS.labels(table, rule).inc(number)
    for report in outcome.quarantined:
        NEWLY_QUARANTINED.labels(report.code).inc()
    for made in outcome.made:
        LATENCY.observe(max(0, now - made) / 1e6)


def totals(waiting: int, not_fitting: int) -> None:
    QUARANTINED.set(waiting)
    MISFIT_TABLES.set(not_fitting)
