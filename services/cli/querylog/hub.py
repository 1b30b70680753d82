"""The query log of the hub: which change went to which outlet, and what became of it there."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, Row, Select, select

from services.cli.querylog.entry import Entry
from services.cli.querylog.words import words
from services.kernel.change import Transaction, decode_body
from services.kernel.schema import HUB_BATCH, HUB_BATCH_PART, HUB_DELIVERY, HUB_QUARANTINED


class HubLog:
    """Remembers how far it has read, so that `following` gives each entry once."""

    def __init__(self) -> None:
        self._sequence = 0

    def latest(self, connection: Connection, limit: int) -> list[Entry]:
        """The newest entries, the newest last."""
        entries: list[Entry] = []
        for row in connection.execute(_batches().order_by(HUB_BATCH.c.Sequence.desc()).limit(limit)).all():
            self._sequence = max(self._sequence, row.Sequence)
            entries[:0] = _delivered(connection, row)
            if len(entries) >= limit:
                break
        return entries[-limit:]

    def following(self, connection: Connection) -> list[Entry]:
        """What was stored since the last call."""
        entries: list[Entry] = []
        newer = _batches().where(HUB_BATCH.c.Sequence > self._sequence).order_by(HUB_BATCH.c.Sequence)
        for row in connection.execute(newer).all():
            self._sequence = row.Sequence
            entries += _delivered(connection, row)
        return entries


def _batches() -> Select[tuple[object, ...]]:
    return select(HUB_BATCH)


def _delivered(connection: Connection, batch: Row[tuple[object, ...]]) -> Iterator[Entry]:
    """The entries of one batch: change by change, each with every outlet it went to."""
    deliveries = connection.execute(
        select(HUB_DELIVERY).where(HUB_DELIVERY.c.Sequence == batch.Sequence).order_by(HUB_DELIVERY.c.Outlet)
    ).all()
    held = {
        (row.Outlet, row.Position): row.Code
        for row in connection.execute(select(HUB_QUARANTINED).where(HUB_QUARANTINED.c.Sequence == batch.Sequence))
    }
    for position, transaction in enumerate(_transactions(connection, batch)):
        for change in transaction.changes:
            message = words(change)
            for delivery in deliveries:
                code = held.get((delivery.Outlet, position))
                status = f"quarantined: {code}" if code else "executed" if delivery.ExportFlag else "waiting"
                at = delivery.ExecutedAt or batch.StoredAt
                yield Entry(at, message, status, batch.Origin, delivery.Outlet)


def _transactions(connection: Connection, batch: Row[tuple[object, ...]]) -> tuple[Transaction, ...]:
    part = HUB_BATCH_PART.c
    bodies = connection.scalars(
        select(part.Body)
        .where(part.Origin == batch.Origin, part.Epoch == batch.Epoch, part.Number == batch.Number)
        .order_by(part.Part)
    )
    body = b"".join(bodies)
    return decode_body(body) if body else ()
