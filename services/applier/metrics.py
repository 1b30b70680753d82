"""What the applier counts. Base units, one prefix, no key values in labels."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from services.applier.recording import Outcome
from services.kernel.wire.messages import Delivery

batches = Counter("subak_applier_batches_total", "Batches applied", ["origin"])
changes = Counter("subak_applier_changes_total", "Changes applied", ["origin"])
duplicates = Counter("subak_applier_duplicates_total", "Batches that had been applied before", ["origin"])
attempts = Counter("subak_applier_attempts_failed_total", "Attempts begun again, by reason", ["code"])
seconds = Histogram("subak_applier_batch_seconds", "From the last byte of a batch to its commit")
conflicts = Gauge("subak_applier_conflicts", "Conflicts decided at this outlet")
quarantined = Gauge("subak_applier_quarantined", "Transactions waiting in quarantine")

misfits = Gauge("subak_applier_misfits", "Tables that the conflict rules do not fit, whose changes are held")


def applied(delivery: Delivery, outcome: Outcome, took: float) -> None:
    if outcome.duplicate:
        duplicates.labels(delivery.origin).inc()
        return
    batches.labels(delivery.origin).inc()
    changes.labels(delivery.origin).inc(outcome.changes)
    seconds.observe(took)


def totals(conflicts_ever: int, waiting: int, not_fitting: int) -> None:
    conflicts.set(conflicts_ever)
    quarantined.set(waiting)
    misfits.set(not_fitting)
