"""What waits in `CloudQuery`, and its images: all in one consistent snapshot, on a connection of Purpose.READ."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, select

from services.capture.cutting import Read, Unit, Waiting, consecutive
from services.kernel.change import Change, Op, Stamp, Transaction
from services.kernel.schema import CLOUD_QUERY

READ_ROWS = 1_000
"""Ids named in one statement: a list that every engine's planner still turns into look-ups by primary key."""

STREAM_ROWS = 100
"""Rows with images taken from the stream at a time: few enough that large images do not add up."""

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
).order_by(CLOUD_QUERY.c.Id)

_OPS = {op.value: op for op in Op}


def waiting(connection: Connection) -> Iterator[Waiting]:
    """The rows that are in no batch yet, without their images. To be read to its end before anything else is asked."""
    with connection.execute(_WAITING, execution_options={"stream_results": True, "yield_per": READ_ROWS}) as rows:
        for row_id, transaction, session in rows:
            yield Waiting(row_id, transaction, session)


def transactions(
    connection: Connection, units: Sequence[Unit], outlet: str, wire_image: Callable[[str], str]
) -> Generator[Read, None, None]:
    """The units with their images, in their order; `outlet` is the origin of their stamps.

    Rows are streamed: what is held is the unit that is being read, and what is interleaved with it within READ_ROWS.
    """
    owner: dict[int, int] = {}
    changes: dict[int, list[Change]] = {}
    sizes: dict[int, int] = {}
    following = 0  # the unit to be given out next
    for chunk in _chunks(units):
        owner = dict(chunk)
        for row in _images(connection, sorted(owner)):
            unit = owner[row[0]]
            changes.setdefault(unit, []).append(_change(row, outlet, wire_image))
            sizes[unit] = sizes.get(unit, 0) + len(row[3]) + len(row[4] or "") + len(row[5] or "")
            while following in changes and len(changes[following]) == len(units[following].ids):
                label, ids = units[following]
                yield Read(Transaction(label, tuple(changes.pop(following))), ids, sizes.pop(following))
                following += 1


def _chunks(units: Iterable[Unit]) -> Iterator[list[tuple[int, int]]]:
    """(id, position of its unit), unit after unit, READ_ROWS at a time."""
    chunk: list[tuple[int, int]] = []
    for position, unit in enumerate(units):
        for row_id in unit.ids:
            chunk.append((row_id, position))
            if len(chunk) == READ_ROWS:
                yield chunk
                chunk = []
    if chunk:
        yield chunk


def _images(connection: Connection, ids: Sequence[int]) -> Iterator[Any]:
    column = CLOUD_QUERY.c.Id
    which = column.between(ids[0], ids[-1]) if consecutive(ids) else column.in_(ids)
    options = {"stream_results": True, "yield_per": STREAM_ROWS}
    with connection.execute(_IMAGES.where(which), execution_options=options) as rows:
        yield from rows


def _change(row: Any, outlet: str, wire_image: Callable[[str], str]) -> Change:
    _, table, op, key, before, after, stamp, base_stamp, base_origin, paired = row
    return Change(
        table,
        _OPS[op],
        key,
        None if before is None else wire_image(before),
        None if after is None else wire_image(after),
        Stamp(stamp, outlet),
        Stamp(base_stamp, base_origin),
        bool(paired),
    )
