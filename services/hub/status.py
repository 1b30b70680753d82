"""How far each outlet is. Works in the caller's transaction and changes nothing."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection

from services.hub import certificates, outlets
from services.hub.limits import Backlog, backlogs, limits
from services.hub.reporting import misfits


@dataclass(frozen=True)
class OutletStatus:
    name: str
    company: str
    place: str
    online: bool
    waiting: int
    """Deliveries owed and not executed."""
    oldest_waiting_seconds: float
    """Since the oldest of them was stored; 0: none waits."""
    quarantined: int
    conflicts: int
    seen_at: int | None
    """µs since 1970 UTC of its last connecting or disconnecting; None: never."""
    waiting_bytes: int = 0
    limit_ratio: float = 0.0
    """Which part of the limit on what may wait is used up; at 1 the outlet is given up."""
    resync_at: int | None = None
    """µs since 1970 UTC: since when it has been given up; None: it has not."""
    resync_reason: str = ""
    skew_seconds: float | None = None
    """The hub's clock less that of its database; None: not told."""
    certificate_ends: int | None = None
    """µs since 1970 UTC: the end of the certificate that it has shown last; None: it has shown none."""
    misfits: tuple[str, ...] = ()
    """Why the conflict rules do not fit its tables."""


def status(connection: Connection, now: int, sizes: bool = True) -> list[OutletStatus]:
    """Of every outlet that is not removed, by name. Without `sizes` what waits is counted, and not measured."""
    waiting, limit, unfit = backlogs(connection, now, sizes), limits(connection), misfits(connection)
    shown = certificates.shown(connection)
    result = []
    for outlet in outlets.known(connection):
        if outlet.removed:
            continue
        backlog = Backlog() if outlet.resync_at else waiting.get(outlet.name, Backlog())
        result.append(
            OutletStatus(
                name=outlet.name,
                company=outlet.company,
                place=outlet.place,
                online=outlet.online,
                waiting=backlog.deliveries,
                oldest_waiting_seconds=backlog.seconds,
                quarantined=outlet.quarantined,
                conflicts=outlet.conflicts,
                seen_at=outlet.seen_at,
                waiting_bytes=backlog.bytes,
                limit_ratio=backlog.ratio(limit),
                resync_at=outlet.resync_at,
                resync_reason=outlet.resync_reason,
                skew_seconds=None if outlet.skew_micros is None else outlet.skew_micros / 1e6,
                certificate_ends=shown.get(outlet.name),
                misfits=tuple(unfit.get(outlet.name, ())),
            )
        )
    return result
