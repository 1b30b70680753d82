"""How far each outlet is. Works in the caller's transaction and changes nothing."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from services.hub import outlets
from services.kernel.schema import HUB_BATCH as BATCH
from services.kernel.schema import HUB_DELIVERY as DELIVERY


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


def status(connection: Connection, now: int) -> list[OutletStatus]:
    """Of every outlet that is not removed, by name."""
    query = (
        select(DELIVERY.c.Outlet, func.count().label("Waiting"), func.min(DELIVERY.c.Sequence).label("Oldest"))
        .where(DELIVERY.c.ExportFlag == 0)
        .group_by(DELIVERY.c.Outlet)
    )
    waiting = {row.Outlet: (row.Waiting, row.Oldest) for row in connection.execute(query)}
    oldest = {sequence for _, sequence in waiting.values()}
    stored_at = {
        row.Sequence: row.StoredAt
        for row in connection.execute(select(BATCH.c.Sequence, BATCH.c.StoredAt).where(BATCH.c.Sequence.in_(oldest)))
    }
    result = []
    for outlet in outlets.known(connection):
        if outlet.removed:
            continue
        count, sequence = waiting.get(outlet.name, (0, 0))
        result.append(
            OutletStatus(
                name=outlet.name,
                company=outlet.company,
                place=outlet.place,
                online=outlet.online,
                waiting=count,
                oldest_waiting_seconds=max(0.0, (now - stored_at[sequence]) / 1e6) if count else 0.0,
                quarantined=outlet.quarantined,
                conflicts=outlet.conflicts,
                seen_at=outlet.seen_at,
            )
        )
    return result
