"""What a batch came to at this outlet, and the traces that it leaves: conflicts, new changes, the ledger.

Every function works in the transaction that has the batch's effects, and commits nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection

from services.applier.judging import Conflict
from services.applier.parsing import Parsed
from services.applier.planning import Plan
from services.kernel.change import Op, Transaction
from services.kernel.errors import PermanentError
from services.kernel.schema import CLOUD_QUERY, CONFLICT, LEDGER, LEDGER_PART
from services.kernel.wire.messages import (
    MAX_CONFLICTS_TOLD,
    MAX_IMAGE_TOLD,
    MAX_PART_BYTES,
    ConflictReport,
    Delivery,
    QuarantineReport,
)

MAX_TOLD_BYTES = 256 * 1024
"""Of conflicts told with one batch: they go in one frame, together with the reasons of what is quarantined. A text may have four bytes a character."""


@dataclass(frozen=True)
class Incoming:
    """A delivery, its bytes, and what they say."""

    delivery: Delivery
    body: bytes
    transactions: Sequence[Transaction]
    left: Sequence[Transaction] | None = None
    """The same without what is here already, where some is (`containing.py`)."""
    unreadable: PermanentError | None = None
    """Why the bytes, which arrived as they were sent, say nothing; there are no transactions then."""

    @property
    def wanted(self) -> Sequence[Transaction]:
        return self.transactions if self.left is None else self.left


@dataclass
class Outcome:
    """What a batch came to at this outlet. `tables`: what was written. `duplicate`: it had been applied before."""

    conflicts: int = 0
    told: list[ConflictReport] = field(default_factory=list)
    """The first of them: MAX_CONFLICTS_TOLD, or as many as MAX_TOLD_BYTES hold."""
    told_bytes: int = 0
    quarantined: list[QuarantineReport] = field(default_factory=list)
    tables: set[str] = field(default_factory=set)
    changes: int = 0
    changes_by: Counter[tuple[str, Op]] = field(default_factory=Counter)
    """By table, as it is named here, and operation."""
    conflicts_by: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By table, as it is named here, and rule."""
    made: list[int] = field(default_factory=list)
    """The stamp of each transaction's last change, in µs since 1970 UTC."""
    duplicate: bool = False

    def add(self, part: Plan, changes: Sequence[Parsed]) -> None:
        self.conflicts += len(part.conflicts)
        for conflict in part.conflicts:
            self.conflicts_by[conflict.table, conflict.rule] += 1
        for conflict in part.conflicts[: MAX_CONFLICTS_TOLD - len(self.told)]:
            told = _told(conflict)
            self.told_bytes += len(msgspec.msgpack.encode(told))
            if self.told_bytes <= MAX_TOLD_BYTES:
                self.told.append(told)
        self.changes += len(changes)
        made = 0
        for one in changes:
            self.changes_by[one.table.name, one.change.op] += 1
            made = max(made, one.change.stamp.time)
        if changes:
            self.made.append(made)
        self.tables.update(write.table.name for write in part.writes)


DUPLICATE = Outcome(duplicate=True)


def _told(conflict: Conflict) -> ConflictReport:
    change = conflict.change
    return ConflictReport(
        change.table,
        conflict.row.key[:MAX_IMAGE_TOLD],
        conflict.rule,
        conflict.winner,
        conflict.local.time,
        conflict.local.origin,
        _cut(conflict.local_image),
        change.stamp.time,
        change.stamp.origin,
        _cut(change.after),
    )


def _cut(image: str | None) -> str | None:
    return image and image[:MAX_IMAGE_TOLD]


def record(connection: Connection, part: Plan, sequence: int, position: int, now: int) -> None:
    """The traces of decisions, and the changes that they brought forth here. `now` is in µs since 1970 UTC."""
    if part.conflicts:
        connection.execute(
            sa.insert(CONFLICT),
            [
                {
                    "Sequence": sequence,
                    "TableName": conflict.change.table,
                    "RowKey": conflict.row.key,
                    "Rule": conflict.rule,
                    "Winner": conflict.winner,
                    "LocalStamp": conflict.local.time,
                    "LocalOrigin": conflict.local.origin,
                    "LocalImage": conflict.local_image,
                    "IncomingStamp": conflict.change.stamp.time,
                    "IncomingOrigin": conflict.change.stamp.origin,
                    "IncomingImage": conflict.change.after,
                    "DecidedAt": now,
                }
                for conflict in part.conflicts
            ],
        )
    if part.changes:
        connection.execute(
            sa.insert(CLOUD_QUERY),
            [
                {
                    "TransactionId": f"applier-{sequence}-{position}",
                    "SessionId": 0,
                    "TableName": change.table,
                    "Operation": change.op.value,
                    "RowKey": change.key,
                    "BeforeImage": change.before,
                    "AfterImage": change.after,
                    "Stamp": change.stamp.time,
                    "BaseStamp": change.base.time,
                    "BaseOrigin": change.base.origin,
                }
                for change in part.changes
            ],
        )


def note(connection: Connection, delivery: Delivery, body: bytes, quarantined: int, now: int) -> None:
    """The ledger: in the same transaction as what it says was done. `now` is in µs since 1970 UTC."""
    connection.execute(
        sa.insert(LEDGER).values(
            Sequence=delivery.sequence,
            Origin=delivery.origin,
            Epoch=delivery.epoch,
            Number=delivery.number,
            Digest=delivery.digest,
            Changes=delivery.changes,
            Quarantined=quarantined,
            AppliedAt=now,
        )
    )
    for part, start in enumerate(range(0, len(body), MAX_PART_BYTES)):
        piece = body[start : start + MAX_PART_BYTES]
        connection.execute(sa.insert(LEDGER_PART).values(Sequence=delivery.sequence, Part=part, Body=piece))
