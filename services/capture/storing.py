"""A batch becomes durable under its number, before it is sent; the hub's confirmation becomes durable on its rows.

Every function is one transaction of Purpose.WRITE, which the caller begins and commits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import NamedTuple

from msgspec.structs import replace
from sqlalchemy import Connection, delete, func, insert, select, update

from services.capture import state
from services.capture.cutting import Read, consecutive
from services.capture.state import Position
from services.kernel.change import BatchId, Op, Transaction, digest, encode_body
from services.kernel.errors import PermanentError
from services.kernel.policy import Given, Policies, Rules
from services.kernel.schema import BATCH, BATCH_PART, CLOUD_QUERY, POLICY
from services.kernel.wire.messages import MAX_BATCH_BYTES, MAX_PART_BYTES, WINDOW_BATCHES

MARK_ROWS = 1_000
"""Ids named in one UPDATE: a list that every engine's planner still turns into look-ups by primary key."""


class Header(NamedTuple):
    """A batch as `subak_batch` holds it, without its body."""

    number: int
    previous: bytes
    digest: bytes
    changes: int
    transactions: int
    bytes: int
    cut_at: int


def cut(connection: Connection, outlet: str, last: Position, reads: Sequence[Read], now: int) -> tuple[Position, int]:
    """Numbers and stores one batch, and puts its rows into it; the position after it, and the bytes of its body.

    `now` is in µs since 1970 UTC. Raises PermanentError `another_capture`, or `too_large`: a transaction that no batch
    can hold.
    """
    number = last.number + 1
    state.lock(connection)  # new rules come before this batch or after it: see applier/DESIGN.md
    policies = given(connection)
    body = encode_body(tuple(tagged(read, policies) for read in reads))
    if len(body) > MAX_BATCH_BYTES:
        raise PermanentError(
            "too_large",
            f"A transaction of {len(reads[0].ids)} changes has {len(body)} bytes; the limit is {MAX_BATCH_BYTES}.",
            "Its rows wait in CloudQuery with BatchNumber NULL, and so does everything after it. To leave them out, set"
            " ExportFlag = 1 on them, then make the same change in smaller transactions at every outlet.",
        )
    position = Position(last.epoch, number, digest(BatchId(outlet, last.epoch, number), last.digest, body))
    state.advance(connection, position)
    ids = sorted(chain.from_iterable(read.ids for read in reads))
    connection.execute(
        insert(BATCH).values(
            Epoch=last.epoch,
            Number=number,
            Previous=last.digest,
            Digest=position.digest,
            Changes=len(ids),
            Transactions=len(reads),
            Bytes=len(body),
            CutAt=now,
        )
    )
    for part, start in enumerate(range(0, len(body), MAX_PART_BYTES)):
        piece = body[start : start + MAX_PART_BYTES]
        connection.execute(insert(BATCH_PART).values(Epoch=last.epoch, Number=number, Part=part, Body=piece))
    column = CLOUD_QUERY.c.Id
    for some in _chunks(ids):
        which = column.between(some[0], some[-1]) if consecutive(some) else column.in_(some)
        marked = connection.execute(
            update(CLOUD_QUERY).where(which, CLOUD_QUERY.c.BatchNumber.is_(None)).values(BatchNumber=number)
        )
        if marked.rowcount != len(some):
            raise state.another_capture()
    return position, len(body)


def tagged(read: Read, policies: Policies) -> Transaction:
    """The transaction, each change with the generation of the conflict rules that it was made under."""
    transaction = read.transaction
    if not policies.generation_of(max(read.ids)):
        return transaction
    changes = (
        replace(change, policy=policies.generation_of(number))
        for change, number in zip(transaction.changes, read.ids, strict=True)
    )
    return Transaction(transaction.label, tuple(changes))


def given(connection: Connection) -> Policies:
    """The generations of conflict rules that this outlet has taken up; which they are, capture need not know."""
    rows = connection.execute(select(POLICY.c.Generation, POLICY.c.Boundary))
    return Policies([Given(generation, Rules(), boundary) for generation, boundary in rows])


def mark_stored(connection: Connection, epoch: str, numbers: Sequence[int], now: int) -> None:
    """The hub has these batches: their rows get ExportFlag = 1. `now` is in µs since 1970 UTC."""
    connection.execute(
        update(CLOUD_QUERY)
        .where(CLOUD_QUERY.c.ExportFlag == 0, CLOUD_QUERY.c.BatchNumber.in_(numbers))
        .values(ExportFlag=1)
    )
    connection.execute(
        update(BATCH)
        .where(BATCH.c.Epoch == epoch, BATCH.c.Number.in_(numbers), BATCH.c.StoredAt.is_(None))
        .values(StoredAt=now)
    )


def unmarked(connection: Connection, numbers: Sequence[int]) -> Counter[tuple[str, Op]]:
    """The rows of these batches that are not marked yet, by table and operation: only to be counted."""
    named = (CLOUD_QUERY.c.TableName, CLOUD_QUERY.c.Operation)
    rows = select(*named, func.count()).where(CLOUD_QUERY.c.ExportFlag == 0, CLOUD_QUERY.c.BatchNumber.in_(numbers))
    return Counter({(table, Op(op)): count for table, op, count in connection.execute(rows.group_by(*named))})


def last_stored(connection: Connection, epoch: str) -> int:
    """The greatest number whose rows are marked. All before it are, since `stored` comes in the order of numbers."""
    marked = select(BATCH.c.Number).where(BATCH.c.Epoch == epoch, BATCH.c.StoredAt.is_not(None))
    return connection.scalar(marked.order_by(BATCH.c.Number.desc()).limit(1)) or 0


def dissolve(connection: Connection, epoch: str) -> bool:
    """Undoes one batch of an epoch other than `epoch` that the hub has not stored: its rows wait again. False when there is none.

    Only while nothing is cut under `epoch` yet: CloudQuery names a batch by its number alone.
    """
    unstored = select(BATCH.c.Epoch, BATCH.c.Number).where(BATCH.c.Epoch != epoch, BATCH.c.StoredAt.is_(None))
    one = connection.execute(unstored.order_by(BATCH.c.Number).limit(1)).first()
    if one is None:
        return False
    cut_then = (CLOUD_QUERY.c.ExportFlag == 0) & (CLOUD_QUERY.c.BatchNumber == one.Number)
    connection.execute(update(CLOUD_QUERY).where(cut_then).values(BatchNumber=None))
    for table in (BATCH_PART, BATCH):
        connection.execute(delete(table).where(table.c.Epoch == one.Epoch, table.c.Number == one.Number))
    return True


def headers(connection: Connection, epoch: str, after: int) -> list[Header]:
    """The batches after number `after`, in order, at most as many as a window holds."""
    columns = (
        BATCH.c.Number,
        BATCH.c.Previous,
        BATCH.c.Digest,
        BATCH.c.Changes,
        BATCH.c.Transactions,
        BATCH.c.Bytes,
        BATCH.c.CutAt,
    )
    rows = (
        select(*columns)
        .where(BATCH.c.Epoch == epoch, BATCH.c.Number > after)
        .order_by(BATCH.c.Number)
        .limit(WINDOW_BATCHES)
    )
    return [Header(*row) for row in connection.execute(rows)]


def first_kept(connection: Connection, epoch: str) -> Header | None:
    """The oldest batch of that epoch that has not been purged. None: there is none."""
    before = connection.scalar(select(func.min(BATCH.c.Number)).where(BATCH.c.Epoch == epoch))
    return None if before is None else headers(connection, epoch, before - 1)[0]


def part(connection: Connection, epoch: str, number: int, index: int) -> bytes:
    """The bytes of one part, as they were cut."""
    body: bytes = connection.execute(
        select(BATCH_PART.c.Body).where(
            BATCH_PART.c.Epoch == epoch, BATCH_PART.c.Number == number, BATCH_PART.c.Part == index
        )
    ).scalar_one()
    return body


def digest_of(connection: Connection, epoch: str, number: int) -> bytes | None:
    """The digest of a batch that was cut here; None when there is none of that number."""
    found = connection.scalar(select(BATCH.c.Digest).where(BATCH.c.Epoch == epoch, BATCH.c.Number == number))
    return None if found is None else bytes(found)


def oldest_unmarked(connection: Connection, stored: int) -> int | None:
    """The stamp of the oldest change that the hub has not confirmed, in µs since 1970 UTC; None: there is none. `stored`: as `last_stored`.

    Either the first of the batch after `stored`, or the first that is in no batch: each is one look into an index.
    """
    stamps = []
    for which in (CLOUD_QUERY.c.BatchNumber == stored + 1, CLOUD_QUERY.c.BatchNumber.is_(None)):
        waits = select(CLOUD_QUERY.c.Stamp).where(CLOUD_QUERY.c.ExportFlag == 0, which)
        stamps.append(connection.scalar(waits.order_by(CLOUD_QUERY.c.Id).limit(1)))
    return min((stamp for stamp in stamps if stamp is not None), default=None)


def _chunks(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    source = iter(ids)
    while some := list(islice(source, MARK_ROWS)):
        yield some
