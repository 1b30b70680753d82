"""What waits in `CloudQuery`, and its images.

One snapshot shows which rows wait, and so which transactions are whole. Images are read by id afterwards, a piece at a
time: a row of `CloudQuery` never changes but for the two columns that capture itself sets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from sqlalchemy import Connection, FromClause, Select, func, select

from services.capture.cutting import MAX_BYTES, Read, Unit, Waiting, agreed, consecutive
from services.capture.database import Database
from services.kernel.change import Change, Op, Stamp, Transaction
from services.kernel.dialects import Dialect
from services.kernel.errors import TransientError
from services.kernel.schema import CLOUD_QUERY, LEDGER

READ_ROWS = 1_000
"""Ids named in one statement: a list that every engine's planner still turns into look-ups by primary key."""

STREAM_ROWS = 100
"""Rows taken from a result at a time: large images do not add up unseen."""

WireImage = Callable[[str, str], str]
"""(name of the table, image) to the image as it goes on the wire."""

_WAITING = select(CLOUD_QUERY.c.Id, CLOUD_QUERY.c.TransactionId, CLOUD_QUERY.c.SessionId).where(
    CLOUD_QUERY.c.ExportFlag == 0, CLOUD_QUERY.c.BatchNumber.is_(None)
)

_IMAGES = select(
    CLOUD_QUERY.c.Id,
    CLOUD_QUERY.c.TableName,
    CLOUD_QUERY.c.Operation,
    CLOUD_QUERY.c.RowKey,
    CLOUD_QUERY.c.BeforeImage,
    CLOUD_QUERY.c.AfterImage,
    CLOUD_QUERY.c.Stamp,
    CLOUD_QUERY.c.BaseStamp,
    CLOUD_QUERY.c.BaseOrigin,
    CLOUD_QUERY.c.Paired,
    CLOUD_QUERY.c.SessionId,
).order_by(CLOUD_QUERY.c.Id)

_OPS = {op.value: op for op in Op}


def waiting(connection: Connection, dialect: Dialect) -> Iterable[Waiting]:
    """The rows that are in no batch yet, without their images; of whole transactions only."""
    if dialect.scans_a_snapshot(connection):
        return _scan(connection, _WAITING)
    passing = dialect.passing(_WAITING, CLOUD_QUERY)
    return agreed(lambda: _scan(connection, passing))


def _scan(connection: Connection, query: Select[Any]) -> Iterator[Waiting]:
    """To be read to its end before anything else is asked."""
    with connection.execute(query, execution_options={"stream_results": True, "yield_per": READ_ROWS}) as rows:
        for row_id, transaction, session in rows:
            yield Waiting(row_id, transaction, session)


def ahead(connection: Connection, dialect: Dialect, limit: int) -> frozenset[int]:
    """The rows that wait and were stamped by a clock that is ahead: after `limit`, in µs since 1970 UTC.

    Not those whose stamp was only pushed past that of the version they overwrote: that one is out in the world, or is one of these.
    Asked after `waiting`, in the same snapshot where there is one: it then knows all rows that `waiting` gave.
    """
    query = select(CLOUD_QUERY.c.Id).where(
        CLOUD_QUERY.c.Stamp > limit,
        CLOUD_QUERY.c.Stamp > CLOUD_QUERY.c.BaseStamp + 1,
        CLOUD_QUERY.c.ExportFlag == 0,
        CLOUD_QUERY.c.BatchNumber.is_(None),
    )
    return frozenset(connection.scalars(_waiting_for_nobody(connection, dialect, query, CLOUD_QUERY)))


def executed(connection: Connection, dialect: Dialect) -> int:
    """The greatest sequence in the ledger, 0 when there is none."""
    query = select(func.max(LEDGER.c.Sequence))
    return connection.scalar(_waiting_for_nobody(connection, dialect, query, LEDGER)) or 0


def _waiting_for_nobody(connection: Connection, dialect: Dialect, query: Select[Any], here: FromClause) -> Select[Any]:
    return query if dialect.scans_a_snapshot(connection) else dialect.passing(query, here)


class Images:
    """Reads rows with their images, about MAX_BYTES at a time, whatever their size."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rows = READ_ROWS  # as many as were about MAX_BYTES the last time

    def __call__(self, ids: Sequence[int]) -> list[Any]:
        """The rows of these ids, ascending; when that is too much at once, only the first of them.

        Raises TransientError `gone` when somebody has deleted one.
        """
        asked = ids[: self._rows]
        column = CLOUD_QUERY.c.Id
        which = column.between(asked[0], asked[-1]) if consecutive(asked) else column.in_(asked)
        options = {"stream_results": True, "yield_per": STREAM_ROWS}
        rows: list[Any] = []
        size = 0
        with (
            self._database.snapshot() as connection,
            connection.execute(_IMAGES.where(which), execution_options=options) as found,
        ):
            for row in found:
                rows.append(row)
                size += _size(row)
                if size > MAX_BYTES:
                    break
        self._rows = min(READ_ROWS, max(1, MAX_BYTES * len(rows) // max(size, 1)))
        if not rows or (size <= MAX_BYTES and len(rows) < len(asked)):
            raise TransientError("gone", "Rows of CloudQuery that waited are gone.", "Do not delete from CloudQuery.")
        return rows


def transactions(
    units: Sequence[Unit], images: Callable[[Sequence[int]], list[Any]], outlet: str, wire_image: WireImage
) -> Iterator[Read]:
    """The units with their images, in their order; `outlet` is the origin of their stamps.

    What is held is the unit that is being read, and what is interleaved with it within READ_ROWS.
    """
    ids = ((row_id, position) for position, unit in enumerate(units) for row_id in unit.ids)
    owner: dict[int, int] = {}  # of the ids that are asked for next
    changes: dict[int, list[_Found]] = {}
    sizes: dict[int, int] = {}
    following = 0  # the unit to be given out next
    while following < len(units):
        owner.update(islice(ids, READ_ROWS - len(owner)))
        for row in images(sorted(owner)):
            position = owner.pop(row[0])
            changes.setdefault(position, []).append(_Found(row[0], row[-1], _change(row, outlet, wire_image)))
            sizes[position] = sizes.get(position, 0) + _size(row)
        while following in changes and len(changes[following]) == len(units[following].ids):
            found = list(_pairs_kept(changes.pop(following)))
            transaction = Transaction(units[following].label, tuple(one.change for one in found))
            yield Read(transaction, [one.id for one in found], sizes.pop(following))
            following += 1


class _Found(NamedTuple):
    id: int
    session: int
    change: Change


def _pairs_kept(changes: Iterable[_Found]) -> Iterator[_Found]:
    """In the order of ids, but each paired deletion right before its insertion, though other sessions took ids in between.

    Those cannot depend on it: the trigger that wrote the pair had not ended, let alone its transaction.
    """
    held: dict[int, _Found] = {}
    for one in changes:
        if one.change.paired:
            held[one.session] = one
            continue
        if one.session in held:
            yield held.pop(one.session)
        yield one
    yield from held.values()


def _size(row: Any) -> int:
    return len(row[3]) + len(row[4] or "") + len(row[5] or "")


def _change(row: Any, outlet: str, wire_image: WireImage) -> Change:
    _, table, op, key, before, after, stamp, base_stamp, base_origin, paired, _ = row
    return Change(
        table,
        _OPS[op],
        key.encode("utf-8", "surrogateescape").decode("utf-8", "replace"),  # SQLite's may be any bytes
        None if before is None else wire_image(table, before),
        None if after is None else wire_image(table, after),
        Stamp(stamp, outlet),
        Stamp(base_stamp, base_origin),
        bool(paired),
    )
