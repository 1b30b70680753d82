"""An outlet's applier is here (again): what it is owed is set to where its database stands, be that put back or a copy.

Every function works in the caller's transaction and commits nothing. See wire/PROTOCOL.md, 'An outlet that was put back'.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, Select, delete, func, insert, select, update

from services.hub.purging import reach
from services.hub.storing import lock_counter
from services.kernel.change import GENESIS
from services.kernel.control import HUB
from services.kernel.errors import ProtocolError
from services.kernel.schema import HUB_BATCH as BATCH
from services.kernel.schema import HUB_CONFLICT as CONFLICT
from services.kernel.schema import HUB_DELIVERY as DELIVERY
from services.kernel.schema import HUB_IGNORE as IGNORE
from services.kernel.schema import HUB_OUTLET as OUTLET
from services.kernel.schema import HUB_PROGRESS as PROGRESS
from services.kernel.schema import HUB_QUARANTINED as QUARANTINED
from services.kernel.wire.messages import Hello

INSERTED_ROWS = 1000
"""Deliveries written by one statement."""


def greet_applier(connection: Connection, hello: Hello, now: int) -> None:
    """Sets the flags to what the outlet's ledger says: executed up to `hello.position` (a sequence; 0: nothing), not after it; and
    owes it what a database that was put back, or copied, lacks besides. The next delivery is told to follow the position.

    Raises ProtocolError `gap` when the ledger cannot be one that this hub's deliveries made, `resync` when what the outlet lacks
    is no longer here.
    """
    last = lock_counter(connection)
    outlet = connection.execute(select(OUTLET).where(OUTLET.c.Name == hello.outlet)).one()
    anew = bool(hello.source) and hello.epoch != outlet.AppliedEpoch
    if not _may_stand_at(connection, hello, last):
        raise ProtocolError(
            "gap",
            f"{hello.outlet} has executed delivery {hello.position}, which this hub never owed it.",
            "The outlet's database was made from another outlet's, or belongs to another hub: see `subak outlet adopt`.",
        )
    _refuse_what_is_gone(connection, hello, outlet, anew)
    _set_flags(connection, hello.outlet, hello.position, now)
    lacking = [*_own(connection, hello, outlet.AddedAt), *(_others(connection, hello) if anew else [])]
    _owe(connection, hello, sorted(set(lacking)))
    stable = min(outlet.StableSeen, reach(connection, hello.outlet, hello.position, last))
    values: dict[str, Any] = {"AppliedEpoch": hello.epoch, "StableSeen": stable}
    if anew:
        values |= {"ResyncAt": None, "ResyncReason": ""}
    connection.execute(update(OUTLET).where(OUTLET.c.Name == hello.outlet).values(**values))
    later = (PROGRESS.c.Outlet == hello.outlet) & (PROGRESS.c.Seen > hello.position)
    connection.execute(delete(PROGRESS).where(later))


def owes_own(connection: Connection, outlet: str) -> bool:
    """Whether an outlet that was put back is still owed batches of its own."""
    query = (
        select(DELIVERY.c.Sequence)
        .join(BATCH, BATCH.c.Sequence == DELIVERY.c.Sequence)
        .where(DELIVERY.c.Outlet == outlet, DELIVERY.c.ExportFlag == 0, BATCH.c.Origin == outlet)
        .limit(1)
    )
    return connection.execute(query).first() is not None


def _may_stand_at(connection: Connection, hello: Hello, last: int) -> bool:
    """Whether the position is nothing; a delivery of this outlet's; one before its first, of an earlier membership; any, for a copy;
    or one that this hub gave and forgot: it was purged, or the hub's database was put back (see `storing.number_from`)."""
    position = hello.position
    if position == 0:
        return True
    batch = connection.execute(select(BATCH.c.Digest).where(BATCH.c.Sequence == position)).first()
    if batch is None:
        return position <= last
    if hello.digest not in (GENESIS, bytes(batch.Digest)):
        return False
    mine = DELIVERY.c.Outlet == hello.outlet
    if hello.source or connection.execute(select(DELIVERY).where(mine, DELIVERY.c.Sequence == position)).first():
        return True
    # The conflict rules are owed to every outlet, whenever it joins.
    first = connection.scalar(
        select(func.min(DELIVERY.c.Sequence))
        .join(BATCH, BATCH.c.Sequence == DELIVERY.c.Sequence)
        .where(mine, BATCH.c.Origin != HUB)
    )
    return first is None or position < first


def _refuse_what_is_gone(connection: Connection, hello: Hello, outlet: Row[Any], anew: bool) -> None:
    if outlet.ResyncAt is not None and not anew:
        raise resync(f"{hello.outlet} was given up: {outlet.ResyncReason}")
    gone = outlet.PurgedSequence
    if anew:  # a copy needs what any outlet was owed
        gone = max(gone, connection.scalar(select(func.max(OUTLET.c.PurgedSequence))) or 0)
    if hello.position < gone:
        raise resync(
            f"{hello.outlet} stands at delivery {hello.position}; what it would need up to {gone} is executed everywhere, and purged."
        )


def resync(what: str) -> ProtocolError:
    return ProtocolError(
        "resync",
        what,
        "Replace its database by a newer copy of another outlet's, and run `subak outlet adopt` there.",
    )


def _set_flags(connection: Connection, outlet: str, position: int, now: int) -> None:
    mine = DELIVERY.c.Outlet == outlet
    following = connection.scalar(select(func.min(DELIVERY.c.Sequence)).where(mine, DELIVERY.c.Sequence > position))
    if following is None:
        connection.execute(update(OUTLET).where(OUTLET.c.Name == outlet).values(LastSequence=position))
    else:
        connection.execute(update(DELIVERY).where(mine, DELIVERY.c.Sequence == following).values(Previous=position))
    connection.execute(
        update(DELIVERY)
        .where(mine, DELIVERY.c.ExportFlag == 0, DELIVERY.c.Sequence <= position)
        .values(ExportFlag=1, ExecutedAt=now)
    )
    connection.execute(
        update(DELIVERY)
        .where(mine, DELIVERY.c.ExportFlag == 1, DELIVERY.c.Sequence > position)
        .values(ExportFlag=0, ExecutedAt=None)
    )
    for table in (QUARANTINED, CONFLICT):
        connection.execute(delete(table).where(table.c.Outlet == outlet, table.c.Sequence > position))


def _own(connection: Connection, hello: Hello, added_at: int) -> list[int]:
    """The outlet's own batches that its database may lack: after its position, and after the last it knows to be stored.

    One too many does no harm: the applier knows by number and digest what its database has. Not so a database that begins anew, under a name
    that was removed and added again: it has the rows that all others have by then, and knows nothing of their versions.
    """
    own = BATCH.c.Origin == hello.outlet
    if _begins(connection, hello):
        own &= BATCH.c.StoredAt >= added_at
    stored = (
        select(BATCH.c.Sequence)
        .where(own, BATCH.c.Epoch == hello.epoch, BATCH.c.Number <= hello.stored)
        .order_by(BATCH.c.Number.desc())
        .limit(1)
    )
    after = max(hello.position, connection.scalar(stored) or 0)
    return _missing(connection, hello, select(BATCH.c.Sequence).where(own, BATCH.c.Sequence > after))


def _begins(connection: Connection, hello: Hello) -> bool:
    """Whether the database has sent and executed nothing yet, but for the conflict rules that are owed to everybody."""
    origin = connection.scalar(select(BATCH.c.Origin).where(BATCH.c.Sequence == hello.position))
    return hello.stored == 0 and (hello.position == 0 or origin == HUB)


def _others(connection: Connection, hello: Hello) -> list[int]:
    """All that was stored after a copy's position, whoever it came from."""
    ignored = select(IGNORE.c.Origin).where(IGNORE.c.Outlet == hello.outlet)
    return _missing(
        connection,
        hello,
        select(BATCH.c.Sequence).where(
            BATCH.c.Sequence > hello.position, BATCH.c.Origin != hello.outlet, BATCH.c.Origin.not_in(ignored)
        ),
    )


def _missing(connection: Connection, hello: Hello, wanted: Select[tuple[int]]) -> list[int]:
    owed = select(DELIVERY.c.Sequence).where(DELIVERY.c.Outlet == hello.outlet, DELIVERY.c.Sequence > hello.position)
    return list(connection.scalars(wanted.where(BATCH.c.Sequence.not_in(owed))))


def _owe(connection: Connection, hello: Hello, sequences: list[int]) -> None:
    """Puts deliveries among those that are there, and repairs who names whom as its predecessor."""
    if not sequences:
        return
    rows = [{"Outlet": hello.outlet, "Sequence": one, "Previous": 0, "ExportFlag": 0} for one in sequences]
    for start in range(0, len(rows), INSERTED_ROWS):
        connection.execute(insert(DELIVERY), rows[start : start + INSERTED_ROWS])
    before = func.lag(DELIVERY.c.Sequence).over(order_by=DELIVERY.c.Sequence)
    chain = (
        select(DELIVERY.c.Sequence, DELIVERY.c.Previous, func.coalesce(before, hello.position).label("Before"))
        .where(DELIVERY.c.Outlet == hello.outlet, DELIVERY.c.Sequence > hello.position)
        .subquery()
    )
    for row in connection.execute(select(chain).where(chain.c.Previous != chain.c.Before)).all():
        connection.execute(
            update(DELIVERY)
            .where(DELIVERY.c.Outlet == hello.outlet, DELIVERY.c.Sequence == row.Sequence)
            .values(Previous=row.Before)
        )
    last = select(func.max(DELIVERY.c.Sequence)).where(DELIVERY.c.Outlet == hello.outlet)
    connection.execute(
        update(OUTLET).where(OUTLET.c.Name == hello.outlet).values(LastSequence=connection.scalar(last) or 0)
    )
