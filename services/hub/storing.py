"""Takes complete batches into the queue: each once, with one delivery per other outlet, a group in one transaction.

Every function works in the caller's transaction and commits nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from services.hub.chain import NO_HEAD, Head, Verdict, fork, judge, resume
from services.kernel.change import BatchId
from services.kernel.errors import PermanentError, ProtocolError
from services.kernel.schema import HUB_BATCH as BATCH
from services.kernel.schema import HUB_BATCH_PART as PART
from services.kernel.schema import HUB_COUNTER as COUNTER
from services.kernel.schema import HUB_DELIVERY as DELIVERY
from services.kernel.schema import HUB_IGNORE as IGNORE
from services.kernel.schema import HUB_OUTLET as OUTLET
from services.kernel.schema import HUB_PROGRESS as PROGRESS
from services.kernel.wire.messages import HUB, Batch

Row = dict[str, Any]
Outcome = int | ProtocolError
"""The sequence under which a batch is stored, or why it was refused."""


@dataclass(frozen=True)
class Arrival:
    """A batch that came whole and whose digest was found right. `body` None: its parts are in the database already."""

    origin: str
    batch: Batch
    body: bytes | None
    again: bool = False
    """It had been stored before it came: capture has not heard of that."""

    @property
    def id(self) -> BatchId:
        return BatchId(self.origin, self.batch.epoch, self.batch.number)


def lock_counter(connection: Connection) -> int:
    """The last sequence given; held against everybody who would give sequences or change who is owed what."""
    return int(connection.execute(select(COUNTER.c.Last).where(COUNTER.c.Id == 1).with_for_update()).scalar_one())


def number_from(connection: Connection, now: int) -> None:
    """Sequences given from here on are greater than `now` (µs since 1970), if they are not already.

    Called at every start, this makes them greater than any that this hub ever gave, also when its database was put back to
    a backup: it gives fewer than a million a second. An outlet's ledger can then tell old sequences from new ones.
    """
    last = lock_counter(connection)
    if now > last:
        connection.execute(update(COUNTER).where(COUNTER.c.Id == 1).values(Last=now))


def another_hub() -> PermanentError:
    return PermanentError(
        "another_hub",
        "Another hub stores batches in this database.",
        "Stop one of the two: a database belongs to one hub.",
    )


def greet_capture(
    connection: Connection, origin: str, epoch: str, number: int, digest: bytes, forgotten: Head = NO_HEAD
) -> Head:
    """What the hub has of that epoch; see PROTOCOL.md, 'Resuming'. Raises ProtocolError `fork`.

    Bytes left over from an unfinished batch are removed.
    """
    head = _head(connection, origin)
    _refuse_ended_epoch(connection, head, BatchId(origin, epoch, 0))
    greeted = resume(head, epoch, number, digest, forgotten)
    if greeted.number == forgotten.number > 0:
        connection.execute(
            update(OUTLET)
            .where(OUTLET.c.Name == origin)
            .values(Epoch=epoch, Number=greeted.number, Digest=greeted.digest)
        )
    for stored in {head, greeted}:
        connection.execute(
            delete(PART).where(PART.c.Origin == origin, PART.c.Epoch == stored.epoch, PART.c.Number > stored.number)
        )
    connection.execute(delete(PROGRESS).where(PROGRESS.c.Outlet == origin, PROGRESS.c.Epoch != epoch))
    return greeted


def is_another_epoch(connection: Connection, origin: str, epoch: str) -> bool:
    """Whether the hub has, or had before it purged them, batches of that outlet, and the last one is of another epoch."""
    head = _head(connection, origin)
    return head.number > 0 and head.epoch != epoch


def store_part(connection: Connection, batch: BatchId, index: int, body: bytes) -> None:
    """Keeps one part of a batch that is still coming; it counts once `store` has given the batch its row.

    Raises ProtocolError `fork` when the batch is stored already: its bytes are never written over.
    """
    head = _head(connection, batch.origin)
    _refuse_ended_epoch(connection, head, batch)
    if batch.epoch == head.epoch and batch.number <= head.number:
        raise fork(f"Batch {batch.number} of epoch {batch.epoch} is stored already.")
    key = {"Origin": batch.origin, "Epoch": batch.epoch, "Number": batch.number, "Part": index}
    connection.execute(delete(PART).where(*(PART.c[name] == value for name, value in key.items())))
    connection.execute(insert(PART).values(**key, Body=body))


def store(connection: Connection, arrivals: Sequence[Arrival], last: int, now: int) -> list[Outcome]:
    """The outcome of each arrival, in their order. `last` is what `lock_counter` gave in this transaction.

    A refused batch leaves nothing behind and hinders no other. Raises PermanentError `another_hub`.
    """
    plan = _Plan(connection, last, now)
    outcomes: list[Outcome] = []
    for arrival in arrivals:
        try:
            outcomes.append(plan.take(arrival))
        except ProtocolError as refusal:
            outcomes.append(refusal)
    plan.write()
    return outcomes


class _Plan:
    """What one group writes. A batch is judged against the database and what came before it in the group."""

    def __init__(self, connection: Connection, last: int, now: int) -> None:
        rows = connection.execute(select(OUTLET).where(OUTLET.c.RemovedAt.is_(None))).all()
        self._connection = connection
        self._last = self._sequence = last
        self._now = now
        self._heads = {row.Name: Head(row.Epoch, row.Number, bytes(row.Digest)) for row in rows}
        self._tails = {row.Name: int(row.LastSequence) for row in rows if row.ResyncAt is None}
        self._ignored = {(row.Outlet, row.Origin) for row in connection.execute(select(IGNORE))}
        self._new: dict[BatchId, tuple[int, bytes]] = {}
        self._batches: list[Row] = []
        self._parts: list[Row] = []
        self._deliveries: list[Row] = []

    def take(self, arrival: Arrival) -> int:
        """The batch's sequence. Raises ProtocolError `removed`, `gap`, `fork`."""
        origin, batch = arrival.origin, arrival.batch
        if origin == HUB and origin not in self._heads:
            self._heads[origin] = _last_own(self._connection)
        head = self._heads.get(origin)
        if head is None:
            raise ProtocolError("removed", f"{origin} is no outlet of this hub.", "Ask the operator to add it.")
        if judge(head, batch) is Verdict.AGAIN:
            return self._stored_before(arrival)
        _refuse_ended_epoch(self._connection, head, arrival.id)
        self._sequence += 1
        self._heads[origin] = Head(batch.epoch, batch.number, batch.digest)
        self._new[arrival.id] = self._sequence, batch.digest
        name = {"Origin": origin, "Epoch": batch.epoch, "Number": batch.number}
        self._batches.append(
            {
                **name,
                "Sequence": self._sequence,
                "Previous": batch.previous,
                "Digest": batch.digest,
                "Changes": batch.changes,
                "Transactions": batch.transactions,
                "Bytes": batch.bytes,
                "Parts": batch.parts,
                "StoredAt": self._now,
            }
        )
        if arrival.body is not None:
            self._parts.append({**name, "Part": 0, "Body": arrival.body})
        self._owe(origin)
        return self._sequence

    def write(self) -> None:
        if not self._batches:
            return
        counted = self._connection.execute(
            update(COUNTER).where(COUNTER.c.Id == 1, COUNTER.c.Last == self._last).values(Last=self._sequence)
        )
        if counted.rowcount != 1:
            raise another_hub()
        for table, rows in ((BATCH, self._batches), (PART, self._parts), (DELIVERY, self._deliveries)):
            if rows:
                self._connection.execute(insert(table), rows)
        heads = {batch.origin: self._heads[batch.origin] for batch in self._new}
        self._connection.execute(
            update(OUTLET)
            .where(OUTLET.c.Name == bindparam("name"))
            .values(Epoch=bindparam("epoch"), Number=bindparam("number"), Digest=bindparam("digest")),
            [
                {"name": name, "epoch": head.epoch, "number": head.number, "digest": head.digest}
                for name, head in heads.items()
            ],
        )
        tails = {row["Outlet"]: row["Sequence"] for row in self._deliveries}
        for sequence in sorted(set(tails.values())):
            names = [name for name, tail in tails.items() if tail == sequence]
            self._connection.execute(update(OUTLET).where(OUTLET.c.Name.in_(names)).values(LastSequence=sequence))

    def _owe(self, origin: str) -> None:
        """One delivery for every outlet but the origin and those that ignore it, naming the delivery before it."""
        for outlet, tail in self._tails.items():
            if outlet != origin and (outlet, origin) not in self._ignored:
                self._deliveries.append(
                    {"Outlet": outlet, "Sequence": self._sequence, "Previous": tail, "ExportFlag": 0}
                )
                self._tails[outlet] = self._sequence

    def _stored_before(self, arrival: Arrival) -> int:
        """The sequence of the batch that has this number. Raises ProtocolError `fork` when it is not the same batch, `gap` when
        it was purged."""
        if arrival.id in self._new:
            sequence, digest = self._new[arrival.id]
        else:
            query = select(BATCH.c.Sequence, BATCH.c.Digest).where(
                BATCH.c.Origin == arrival.origin,
                BATCH.c.Epoch == arrival.batch.epoch,
                BATCH.c.Number == arrival.batch.number,
            )
            row = self._connection.execute(query).one_or_none()
            if row is None:
                raise ProtocolError(
                    "gap",
                    f"Batch {arrival.batch.number} of epoch {arrival.batch.epoch} is executed everywhere, and purged here.",
                    "The capture service must connect again and send on from the number it is told.",
                )
            sequence, digest = int(row.Sequence), bytes(row.Digest)
        if digest != arrival.batch.digest:
            raise fork(f"The hub has another batch {arrival.batch.number} of epoch {arrival.batch.epoch}.")
        return sequence


def _head(connection: Connection, origin: str) -> Head:
    row = connection.execute(select(OUTLET).where(OUTLET.c.Name == origin)).one_or_none()
    return Head(row.Epoch, row.Number, bytes(row.Digest)) if row else NO_HEAD


def _last_own(connection: Connection) -> Head:
    """The last batch of the hub's own."""
    row = connection.execute(
        select(BATCH).where(BATCH.c.Origin == HUB).order_by(BATCH.c.Sequence.desc()).limit(1)
    ).one_or_none()
    return Head(row.Epoch, row.Number, bytes(row.Digest)) if row else NO_HEAD


def _refuse_ended_epoch(connection: Connection, head: Head, batch: BatchId) -> None:
    """An epoch other than the head's must be one the hub never saw of this outlet. Raises ProtocolError `fork`."""
    if batch.epoch == head.epoch:
        return
    seen = select(BATCH.c.Sequence).where(BATCH.c.Origin == batch.origin, BATCH.c.Epoch == batch.epoch).limit(1)
    purged = select(OUTLET.c.Name).where(OUTLET.c.Name == batch.origin, OUTLET.c.PurgedEpoch == batch.epoch)
    if connection.execute(seen).first() or (batch.epoch and connection.execute(purged).first()):
        raise fork(f"Epoch {batch.epoch} of {batch.origin} ended when it began epoch {head.epoch}.")
