"""What comes from the hub and is in this database already: its own batches, when it was put back, and those of the outlet it is a copy of.

A whole batch is known by number and digest (`subak_batch`). A single change is known by its table, row and stamp, and under whose name it was made (`CloudQuery`): a database that
was put back may hold changes that it had cut into other batches, or into none. Every function is part of the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import sqlalchemy as sa
from msgspec.structs import replace
from sqlalchemy import Connection

from services.applier.lives import Lives
from services.kernel.catalogue import folded
from services.kernel.change import Change, Transaction
from services.kernel.schema import BATCH, CLOUD_QUERY
from services.kernel.wire.messages import Delivery

STAMPS = 500
"""Named in one statement: a list that every engine's planner still turns into look-ups by index."""

ELSEWHERE = 0
"""`BatchNumber` of changes that reached the hub in a batch that is not among this database's."""

Name = tuple[str, str, int, str]
"""Of a change: folded table, row key, time and origin of its stamp."""


def is_here(connection: Connection, delivery: Delivery) -> bool:
    """Whether that very batch was cut in this database."""
    here = sa.select(BATCH.c.Digest).where(BATCH.c.Epoch == delivery.epoch, BATCH.c.Number == delivery.number)
    found = connection.scalar(here)
    return found is not None and bytes(found) == delivery.digest


def is_stored(connection: Connection, delivery: Delivery, now: int) -> None:
    """The hub has it, since it came from there. `now` is in µs since 1970 UTC."""
    connection.execute(
        sa.update(BATCH)
        .where(BATCH.c.Epoch == delivery.epoch, BATCH.c.Number == delivery.number, BATCH.c.StoredAt.is_(None))
        .values(StoredAt=now)
    )


def without_what_is_here(
    connection: Connection, transactions: Sequence[Transaction], lives: Lives
) -> tuple[Transaction, ...]:
    """The transactions without the changes that this database has already; those are marked as exported: they came from the hub.

    A transaction of which nothing is left keeps its place, since quarantine names transactions by position.
    """
    here = _found(connection, [change for transaction in transactions for change in transaction.changes], lives)
    if not here:
        return tuple(transactions)
    _mark(connection, [row_id for row_id, waits in here.values() if waits])
    return tuple(
        replace(transaction, changes=tuple(change for change in transaction.changes if _name(change) not in here))
        for transaction in transactions
    )


def _found(connection: Connection, changes: Sequence[Change], lives: Lives) -> dict[Name, tuple[int, bool]]:
    """Those that are in CloudQuery: their Id there, and whether they wait to be exported."""
    wanted = {_name(change) for change in changes}
    found: dict[Name, tuple[int, bool]] = {}
    columns = (
        CLOUD_QUERY.c.Id,
        CLOUD_QUERY.c.TableName,
        CLOUD_QUERY.c.RowKey,
        CLOUD_QUERY.c.Stamp,
        CLOUD_QUERY.c.ExportFlag,
    )
    for stamps in _chunks(sorted({stamp for _, _, stamp, _ in wanted})):
        for row in connection.execute(sa.select(*columns).where(CLOUD_QUERY.c.Stamp.in_(stamps))):
            for origin in lives.origins:
                name = folded(row.TableName), sent(row.RowKey), row.Stamp, origin
                if name in wanted and lives.may_be(row.Id, origin):
                    found[name] = row.Id, row.ExportFlag == 0
    return found


def sent(key: str) -> str:
    """A row key of `CloudQuery` as it is spelled on its way: SQLite's may be any bytes."""
    return key.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _name(change: Change) -> Name:
    return folded(change.table), change.key, change.stamp.time, change.stamp.origin


def _mark(connection: Connection, ids: Iterable[int]) -> None:
    for some in _chunks(sorted(ids)):
        connection.execute(
            sa.update(CLOUD_QUERY)
            .where(CLOUD_QUERY.c.Id.in_(some), CLOUD_QUERY.c.ExportFlag == 0)
            .values(ExportFlag=1, BatchNumber=ELSEWHERE)
        )


def _chunks(items: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(items), STAMPS):
        yield items[start : start + STAMPS]
