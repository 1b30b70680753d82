"""How long, and how much, the hub keeps for an outlet that does not take it: beyond that it is given up, so that the others may forget.

Every function works in the caller's transaction and commits nothing. Times are µs since 1970 UTC.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, select, update

from services.hub import state
from services.hub.storing import lock_counter
from services.kernel.schema import HUB_BATCH as BATCH
from services.kernel.schema import HUB_DELIVERY as DELIVERY
from services.kernel.schema import HUB_OUTLET as OUTLET
from services.kernel.schema import HUB_PROGRESS as PROGRESS

WARNING_RATIO = 0.5
"""From this part of a limit on it is told: with the default of 30 days that leaves two weeks to act."""

DROPPED_ROWS = 5000
"""Deliveries of an outlet that was given up, dropped in one transaction."""

OFFLINE_SECONDS = "offline_seconds"
OFFLINE_BYTES = "offline_bytes"
"""State rows in which the hub leaves its limits for who reads its database."""


@dataclass(frozen=True)
class Limits:
    seconds: float
    """The oldest delivery that waits may be this old."""
    bytes: int
    """The bodies that wait may be this much together."""


@dataclass(frozen=True)
class Backlog:
    """What waits for an outlet."""

    deliveries: int = 0
    bytes: int = 0
    seconds: float = 0.0
    """Since the oldest was stored, or the outlet was added; 0: none waits."""
    absent: float = 0.0
    """What of that counts as its absence: nothing before the last pause ended, and nothing while one lasts, when nobody is sent anything."""

    def ratio(self, limits: Limits | None) -> float:
        """Which part of its limit is used up, of the one that is nearer; 1: all of it. 0 when there is no limit."""
        if limits is None:
            return 0.0
        return max(self.absent / limits.seconds, self.bytes / limits.bytes)


def keep_limits(connection: Connection, limits: Limits) -> None:
    state.put(connection, OFFLINE_SECONDS, str(limits.seconds))
    state.put(connection, OFFLINE_BYTES, str(limits.bytes))


def limits(connection: Connection) -> Limits | None:
    """As the hub that ran last had them; None before any has run."""
    seconds, size = state.get(connection, OFFLINE_SECONDS), state.get(connection, OFFLINE_BYTES)
    return Limits(float(seconds), int(size)) if seconds and size else None


def backlogs(connection: Connection, now: int, sizes: bool = True) -> dict[str, Backlog]:
    """By outlet; of those for which something waits. Without `sizes` (`bytes` is 0 then) only an index is read."""
    counted = (DELIVERY.c.Outlet, func.count().label("Waiting"), func.min(DELIVERY.c.Sequence).label("Oldest"))
    query = select(*counted)
    if sizes:
        query = select(*counted, func.sum(BATCH.c.Bytes).label("Bytes")).join(
            BATCH, BATCH.c.Sequence == DELIVERY.c.Sequence
        )
    rows = connection.execute(query.where(DELIVERY.c.ExportFlag == 0).group_by(DELIVERY.c.Outlet)).all()
    oldest = select(BATCH.c.Sequence, BATCH.c.StoredAt).where(BATCH.c.Sequence.in_({row.Oldest for row in rows}))
    stored_at = {row.Sequence: row.StoredAt for row in connection.execute(oldest)}
    added_at = {row.Name: row.AddedAt for row in connection.execute(select(OUTLET.c.Name, OUTLET.c.AddedAt))}
    # A new outlet is owed conflict rules that may be older than itself.
    since = {row.Outlet: max(stored_at[row.Oldest], added_at.get(row.Outlet, 0)) for row in rows}
    paused_at, resumed_at = state.paused_at(connection), state.resumed_at(connection)
    until = now if paused_at is None else paused_at
    return {
        row.Outlet: Backlog(
            row.Waiting,
            int(row.Bytes) if sizes else 0,
            max(0.0, (now - since[row.Outlet]) / 1e6),
            max(0.0, (until - max(since[row.Outlet], resumed_at)) / 1e6),
        )
        for row in rows
    }


def give_up(connection: Connection, outlet: str, limits: Limits, backlog: Backlog, now: int) -> str:
    """From now on nothing is owed to `outlet`, and nobody waits for it. Returns why, in a sentence for people."""
    lock_counter(connection)
    if backlog.absent >= limits.seconds:
        reason = (
            f"it had executed nothing for {backlog.absent / 86400:.1f} days ({limits.seconds / 86400:g} are allowed)."
        )
    else:
        reason = f"{backlog.bytes:,} bytes waited for it ({limits.bytes:,} are allowed)."
    connection.execute(
        update(OUTLET)
        .where(OUTLET.c.Name == outlet, OUTLET.c.ResyncAt.is_(None))
        .values(ResyncAt=now, ResyncReason=reason)
    )
    connection.execute(delete(PROGRESS).where(PROGRESS.c.Outlet == outlet))
    return reason


def drop(connection: Connection) -> bool:
    """Drops a few of the deliveries of outlets that were given up. Whether there may be more."""
    given_up = list(connection.scalars(select(OUTLET.c.Name).where(OUTLET.c.ResyncAt.is_not(None))))
    for outlet in given_up:
        some = select(DELIVERY.c.Sequence).where(DELIVERY.c.Outlet == outlet).limit(DROPPED_ROWS)
        sequences = list(connection.scalars(some.order_by(DELIVERY.c.Sequence)))
        if sequences:
            first, last = sequences[0], sequences[-1]
            dropped = (DELIVERY.c.Outlet == outlet) & DELIVERY.c.Sequence.between(first, last)
            connection.execute(delete(DELIVERY).where(dropped))
            return True
    return False
