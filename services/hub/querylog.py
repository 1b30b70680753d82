"""The query log at the hub: which batch went to whom, how it stands, and what is in it, in words."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec
from sqlalchemy import Connection, select

from services.kernel.change import Op, decode_body
from services.kernel.control import HUB, Control, Policy, decode_control
from services.kernel.schema import HUB_BATCH as BATCH
from services.kernel.schema import HUB_BATCH_PART as PART
from services.kernel.schema import HUB_DELIVERY as DELIVERY
from services.kernel.schema import HUB_OUTLET as OUTLET
from services.kernel.schema import HUB_QUARANTINED as QUARANTINED

WORDS_BYTES = 256 * 1024
"""A larger body is not opened for the log: reading the log must not cost memory."""

WORDS_CHANGES = 3
"""Changes told in words; the others are counted."""

VERBS = {Op.INSERT: "insert into", Op.UPDATE: "update", Op.DELETE: "delete from"}


class LogStatus(StrEnum):
    STORED = "stored"
    """Owed to nobody: there was no other outlet that takes it."""
    WAITING = "waiting"
    EXECUTED = "executed"
    QUARANTINED = "quarantined"
    """Executed, but for transactions that the outlet could not apply."""


@dataclass(frozen=True)
class LogRow:
    stored_at: int
    """µs since 1970 UTC."""
    executed_at: int | None
    sequence: int
    origin: str
    number: int
    outlet: str | None
    """Whom it is owed to; None: nobody."""
    changes: int
    message: str
    """Its first changes in words: operation, table and key, never the values of other columns."""
    status: LogStatus


def log_rows(connection: Connection, limit: int, after: int | None) -> list[LogRow]:
    """See `administration.log`. Works in the caller's transaction and changes nothing."""
    query = select(BATCH).limit(limit)
    if after is None:
        batches = list(reversed(connection.execute(query.order_by(BATCH.c.Sequence.desc())).all()))
    else:
        batches = list(connection.execute(query.where(BATCH.c.Sequence > after).order_by(BATCH.c.Sequence)).all())
    if not batches:
        return []
    # Both tables' keys begin with the outlet: naming the outlets makes this a few short range scans.
    outlets = list(connection.scalars(select(OUTLET.c.Name)))
    first, last = batches[0].Sequence, batches[-1].Sequence
    owed = select(DELIVERY).where(DELIVERY.c.Outlet.in_(outlets), DELIVERY.c.Sequence.between(first, last))
    deliveries: dict[int, list[Any]] = {batch.Sequence: [] for batch in batches}
    for delivery in connection.execute(owed.order_by(DELIVERY.c.Outlet)):
        deliveries[delivery.Sequence].append(delivery)
    reported = select(QUARANTINED.c.Outlet, QUARANTINED.c.Sequence).where(
        QUARANTINED.c.Outlet.in_(outlets), QUARANTINED.c.Sequence.between(first, last)
    )
    quarantined = {(row.Outlet, row.Sequence) for row in connection.execute(reported)}
    return [
        LogRow(
            stored_at=batch.StoredAt,
            executed_at=delivery.ExecutedAt if delivery else None,
            sequence=batch.Sequence,
            origin=batch.Origin,
            number=batch.Number,
            outlet=delivery.Outlet if delivery else None,
            changes=batch.Changes,
            message=message,
            status=_status(delivery, quarantined),
        )
        for batch in batches
        for message in [_message(connection, batch)]
        for delivery in deliveries[batch.Sequence] or [None]
    ]


def _status(delivery: Any | None, quarantined: set[tuple[str, int]]) -> LogStatus:
    if delivery is None:
        return LogStatus.STORED
    if not delivery.ExportFlag:
        return LogStatus.WAITING
    return LogStatus.QUARANTINED if (delivery.Outlet, delivery.Sequence) in quarantined else LogStatus.EXECUTED


def _message(connection: Connection, batch: Any) -> str:
    if batch.Parts > 1 or batch.Bytes > WORDS_BYTES:
        return f"{batch.Changes} changes in {batch.Transactions} transactions"
    query = select(PART.c.Body).where(
        PART.c.Origin == batch.Origin, PART.c.Epoch == batch.Epoch, PART.c.Number == batch.Number, PART.c.Part == 0
    )
    body = bytes(connection.execute(query).scalar_one())
    try:
        if batch.Origin == HUB:
            return _control(decode_control(body))
        transactions = decode_body(body)
    except msgspec.DecodeError:
        return f"{batch.Changes} changes that cannot be read"
    changes = [change for transaction in transactions for change in transaction.changes]
    words = [f"{VERBS[change.op]} {change.table} {change.key}" for change in changes[:WORDS_CHANGES]]
    if len(changes) > WORDS_CHANGES:
        words.append(f"{len(changes) - WORDS_CHANGES} more")
    return "; ".join(words)


def _control(control: Control) -> str:
    if isinstance(control, Policy):
        return "new conflict rules"
    return f"forget what is executed everywhere, up to {control.sequence}"
