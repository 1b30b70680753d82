"""What the outlets are owed: read in order, marked as executed. Where an outlet's ledger stands: `returning.py`.

Every function works in the caller's transaction and commits nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, update

from services.hub.reporting import conflict_row
from services.kernel.change import BatchId
from services.kernel.schema import HUB_BATCH as BATCH
from services.kernel.schema import HUB_BATCH_PART as PART
from services.kernel.schema import HUB_CONFLICT as CONFLICT
from services.kernel.schema import HUB_DELIVERY as DELIVERY
from services.kernel.schema import HUB_OUTLET as OUTLET
from services.kernel.schema import HUB_QUARANTINED as QUARANTINED
from services.kernel.wire.messages import MAX_CONFLICTS_TOLD, Delivery, Executed

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
        told = [
            conflict_row(outlet, sequence, position, conflict, now)
            for sequence in executed
            for position, conflict in enumerate(reported[sequence].details[:MAX_CONFLICTS_TOLD])
        ]
        if told:
            connection.execute(insert(CONFLICT), told)
        if quarantined or conflicts:
            connection.execute(
                update(OUTLET)
                .where(OUTLET.c.Name == outlet)
                .values(Conflicts=OUTLET.c.Conflicts + conflicts, Quarantined=OUTLET.c.Quarantined + len(quarantined))
            )
