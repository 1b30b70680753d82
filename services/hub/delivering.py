"""What the outlets are owed: read in order, marked as executed, set back to where an outlet's ledger stands.

Every function works in the caller's transaction and commits nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, insert, select, update

from services.hub.storing import lock_counter
from services.kernel.change import GENESIS, BatchId
from services.kernel.errors import ProtocolError
from services.kernel.schema import HUB_BATCH as BATCH
from services.kernel.schema import HUB_BATCH_PART as PART
from services.kernel.schema import HUB_DELIVERY as DELIVERY
from services.kernel.schema import HUB_OUTLET as OUTLET
from services.kernel.schema import HUB_QUARANTINED as QUARANTINED
from services.kernel.wire.messages import Delivery, Executed

REASON_CHARACTERS = 2000
"""Of a quarantine's reason this much is kept here (MySQL's TEXT takes 65,535 bytes); the outlet keeps it whole."""


@dataclass(frozen=True)
class Ack:
    """An outlet's `executed`."""

    outlet: str
    executed: Executed


def pending(connection: Connection, outlet: str, after: int, limit: int) -> list[Delivery]:
    """The first `limit` deliveries owed to `outlet` whose sequence is greater than `after`, in order."""
    query = (
        select(DELIVERY.c.Previous.label("PreviousSequence"), BATCH)
        .join(BATCH, BATCH.c.Sequence == DELIVERY.c.Sequence)
        .where(DELIVERY.c.Outlet == outlet, DELIVERY.c.ExportFlag == 0, DELIVERY.c.Sequence > after)
        .order_by(DELIVERY.c.Sequence)
        .limit(limit)
    )
    return [
        Delivery(
            sequence=row.Sequence,
            previous_sequence=row.PreviousSequence,
            origin=row.Origin,
            epoch=row.Epoch,
            number=row.Number,
            previous=bytes(row.Previous),
            digest=bytes(row.Digest),
            changes=row.Changes,
            transactions=row.Transactions,
            bytes=row.Bytes,
            parts=row.Parts,
        )
        for row in connection.execute(query)
    ]


def part(connection: Connection, batch: BatchId, index: int) -> bytes:
    """One part of a stored batch's body."""
    query = select(PART.c.Body).where(
        PART.c.Origin == batch.origin, PART.c.Epoch == batch.epoch, PART.c.Number == batch.number, PART.c.Part == index
    )
    return bytes(connection.execute(query).scalar_one())


def mark_executed(connection: Connection, acks: Sequence[Ack], now: int) -> None:
    """Sets ExportFlag = 1 and keeps what was reported. An ack for what is marked already changes nothing."""
    for outlet in {ack.outlet for ack in acks}:
        reported = {ack.executed.sequence: ack.executed for ack in acks if ack.outlet == outlet}
        owed = select(DELIVERY.c.Sequence).where(
            DELIVERY.c.Outlet == outlet, DELIVERY.c.Sequence.in_(reported), DELIVERY.c.ExportFlag == 0
        )
        executed = list(connection.scalars(owed))
        if not executed:
            continue
        connection.execute(
            update(DELIVERY)
            .where(DELIVERY.c.Outlet == outlet, DELIVERY.c.Sequence.in_(executed))
            .values(ExportFlag=1, ExecutedAt=now)
        )
        conflicts = sum(reported[sequence].conflicts for sequence in executed)
        quarantined = {
            (sequence, report.position): {
                "Outlet": outlet,
                "Sequence": sequence,
                "Position": report.position,
                "Code": report.code[:32],
                "Reason": report.reason[:REASON_CHARACTERS],
                "ReportedAt": now,
            }
            for sequence in executed
            for report in reported[sequence].quarantined
        }
        if quarantined:
            connection.execute(insert(QUARANTINED), list(quarantined.values()))
        if quarantined or conflicts:
            connection.execute(
                update(OUTLET)
                .where(OUTLET.c.Name == outlet)
                .values(Conflicts=OUTLET.c.Conflicts + conflicts, Quarantined=OUTLET.c.Quarantined + len(quarantined))
            )


def report(connection: Connection, outlet: str, conflicts: int, quarantined: int) -> None:
    """What the outlet itself counts replaces what was counted here."""
    connection.execute(
        update(OUTLET).where(OUTLET.c.Name == outlet).values(Conflicts=conflicts, Quarantined=quarantined)
    )


def greet_applier(connection: Connection, outlet: str, position: int, digest: bytes, now: int) -> None:
    """Sets the flags to what the outlet's ledger says: executed up to `position` (a sequence; 0: nothing), not after it.

    `digest` is that of the ledger's last batch. The next delivery is told to follow it. Raises ProtocolError `gap` when the
    ledger cannot be one that this hub's deliveries made.
    """
    last = lock_counter(connection)
    mine = DELIVERY.c.Outlet == outlet
    if not _may_stand_at(connection, outlet, position, digest, last):
        raise ProtocolError(
            "gap",
            f"{outlet} has executed delivery {position}, which this hub never owed it.",
            "The outlet's database was made from another outlet's, or belongs to another hub: remove the outlet and add it.",
        )
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
    connection.execute(delete(QUARANTINED).where(QUARANTINED.c.Outlet == outlet, QUARANTINED.c.Sequence > position))


def _may_stand_at(connection: Connection, outlet: str, position: int, digest: bytes, last: int) -> bool:
    """Whether `position` is nothing; a delivery of this outlet's; one before its first, of an earlier membership; or one
    that this hub gave and forgot, since its own database was put back to a backup (see `storing.number_from`)."""
    if position == 0:
        return True
    batch = connection.execute(select(BATCH.c.Digest).where(BATCH.c.Sequence == position)).first()
    if batch is None:
        return position <= last
    if digest not in (GENESIS, bytes(batch.Digest)):
        return False
    mine = DELIVERY.c.Outlet == outlet
    first = connection.scalar(select(func.min(DELIVERY.c.Sequence)).where(mine))
    owed = connection.execute(select(DELIVERY.c.Sequence).where(mine, DELIVERY.c.Sequence == position)).first()
    return owed is not None or first is None or position < first
