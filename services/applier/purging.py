"""Forgets what every outlet has executed and nobody can need any more, in transactions that hold few locks and none of them long.

What a tombstone was kept for ends when every outlet has executed the delete, and so has all that any outlet wrote without knowing it (design §6):
the hub says up to which delivery that is so. The obvious way, one DELETE per table, would hold locks for minutes against the application's triggers. So
each transaction takes ROWS rows, and whoever is interrupted begins again: what is gone is gone, and the rest is found by the same
questions. What names a tombstone is deleted after it, therefore.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from decimal import Decimal
from itertools import groupby
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection

from services.applier import quarantine
from services.applier.containing import ELSEWHERE
from services.applier.judging import Situation
from services.applier.view import name_of
from services.kernel.catalogue import Table, folded
from services.kernel.change import Op, Stamp, decode_body
from services.kernel.control import Purge
from services.kernel.dialects import Dialect
from services.kernel.errors import SubakError
from services.kernel.schema import (
    BATCH,
    BATCH_PART,
    CLOUD_QUERY,
    CONFLICT,
    LEDGER,
    LEDGER_PART,
    QUARANTINE,
    QUARANTINE_ROW,
    STATE,
    VERSION,
)
from services.kernel.values import parse_image
from services.kernel.wire.messages import HUB

ROWS = 500
"""Rows deleted in one transaction: its locks are held for some milliseconds, and SQL Server takes none on the whole table."""

PARTS = 8
"""Parts of bodies (1 MiB each) deleted in one transaction: what the engine writes into its logs for it stays small."""

CONFLICTS_FORGOTTEN = "conflicts_forgotten"
"""The row of `subak_state` with their number, so that conflicts are still counted once they are gone."""

Begin = Callable[[], AbstractContextManager[Connection]]
"""Begins a transaction of Purpose.APPLY; commits it at its end."""


class _Tombstone(NamedTuple):
    table: str
    row_id: Any
    stamp: Stamp


class _Kept(NamedTuple):
    """Where the bodies of one kind of batch are: this outlet's own, or those of the ledger."""

    batch: sa.Table
    part: sa.Table
    key: tuple[str, ...]


_DELIVERED = _Kept(LEDGER, LEDGER_PART, ("Sequence",))
_OWN = _Kept(BATCH, BATCH_PART, ("Epoch", "Number"))


class Purging:
    """One purge. `steps` gives the turn back after each transaction."""

    def __init__(self, begin: Begin, dialect: Dialect, situation: Situation, purge: Purge) -> None:
        self._begin = begin
        self._dialect = dialect
        self._situation = situation
        self._purge = purge

    def steps(self) -> Iterator[None]:
        """Raises TransientError, or the driver's error: then it is to be begun again."""
        yield from self._quarantine()
        yield from self._conflicts()
        yield from self._batches(_DELIVERED, self._delivered())
        own = self._own()
        if own is not None:
            yield from self._batches(_OWN, own)
        yield from self._exported()

    # Batches and the tombstones they left

    def _delivered(self) -> sa.Select[Any]:
        """All up to the horizon, but for the last one, which says where this outlet stands, those that quarantine needs (what waits, and what was
        discarded and is still on its list), and of each epoch of an outlet the newest: by its number it is known what came before it."""
        last = sa.select(sa.func.max(LEDGER.c.Sequence)).scalar_subquery()
        later = LEDGER.alias("later")
        followed = sa.exists().where(
            later.c.Origin == LEDGER.c.Origin, later.c.Epoch == LEDGER.c.Epoch, later.c.Number > LEDGER.c.Number
        )
        needed = sa.select(QUARANTINE.c.Sequence).where(QUARANTINE.c.State.in_(quarantine.LISTED))
        return (
            sa.select(LEDGER.c.Sequence, LEDGER.c.Changes, LEDGER.c.Origin)
            .where(LEDGER.c.Sequence <= self._purge.sequence, LEDGER.c.Sequence < last)
            .where(LEDGER.c.Sequence.not_in(needed), sa.or_(LEDGER.c.Origin == HUB, followed))
            .order_by(LEDGER.c.Sequence)
        )

    def _own(self) -> sa.Select[Any] | None:
        """Those that the hub names; of the epochs that it does not name, all, once it is certain that they are older. None: nothing."""
        epochs = self._epochs()
        if not epochs:
            return None
        due = [sa.and_(BATCH.c.Epoch == epoch, BATCH.c.Number <= number) for epoch, number in epochs.items()]
        if self._are_older():
            due.append(BATCH.c.Epoch.not_in(list(epochs)))
        later = BATCH.alias("later")
        # The last that is stored says up to where the hub has this outlet's batches.
        followed = sa.exists().where(
            later.c.Epoch == BATCH.c.Epoch, later.c.Number > BATCH.c.Number, later.c.StoredAt.is_not(None)
        )
        return (
            sa.select(
                BATCH.c.Epoch, BATCH.c.Number, BATCH.c.Changes, sa.literal(self._situation.outlet).label("Origin")
            )
            .where(sa.or_(*due), BATCH.c.StoredAt.is_not(None), sa.or_(BATCH.c.Epoch != self._epoch(), followed))
            .order_by(BATCH.c.Epoch, BATCH.c.Number)
        )

    def _epoch(self) -> str:
        with self._begin() as connection:
            return connection.scalar(sa.select(STATE.c.Value).where(STATE.c.Name == "epoch")) or ""

    def _epochs(self) -> dict[str, int]:
        """The greatest number to be forgotten by epoch: of this outlet, and of those that this database is a copy of."""
        named = [self._purge.own[origin] for origin in self._situation.origins if origin in self._purge.own]
        return {own.epoch: own.number for own in named}

    def _are_older(self) -> bool:
        """Whether all epochs that are not named are over, and all their batches within the horizon."""
        own = self._purge.own.get(self._situation.outlet)
        named = all(origin in self._purge.own for origin in self._situation.origins)
        return named and own is not None and own.epoch == self._epoch()

    def _batches(self, kept: _Kept, due: sa.Select[Any]) -> Iterator[None]:
        while True:
            with self._begin() as connection:
                group = list(_few(connection.execute(due.limit(ROWS))))
                keys = [tuple(getattr(one, name) for name in kept.key) for one in group]
                changed = [key for key, one in zip(keys, group, strict=True) if one.Origin != HUB]
                tombstones = [found for key in changed for found in self._tombstones(_body(connection, kept, key))]
            if not group:
                return
            for start in range(0, len(tombstones), ROWS):
                with self._begin() as connection:
                    buried = self._bury(connection, tombstones[start : start + ROWS])
                if buried:  # else they went when this was begun before
                    yield
            yield from self._without_bodies(kept, keys)

    def _without_bodies(self, kept: _Kept, keys: Sequence[tuple[Any, ...]]) -> Iterator[None]:
        """Deletes these batches: the parts first, so that a batch whose parts are gone in part is found again."""
        batch, part = (_among(table, kept.key, keys) for table in (kept.batch, kept.part))
        names = (*kept.key, "Part")
        while True:
            with self._begin() as connection:
                query = sa.select(*(kept.part.c[name] for name in names)).where(part)
                parts = [tuple(row) for row in connection.execute(query.limit(ROWS if len(keys) > 1 else PARTS))]
                if parts:
                    connection.execute(sa.delete(kept.part).where(_among(kept.part, names, parts)))
                else:
                    connection.execute(sa.delete(kept.batch).where(batch))
            yield
            if not parts:
                return

    def _tombstones(self, body: bytes) -> Iterator[_Tombstone]:
        """What the deletes of a batch left here. Nothing when the body is not whole: its tombstones went before it."""
        try:
            transactions = decode_body(body)
        except msgspec.DecodeError:
            return
        for transaction in transactions:
            for change in transaction.changes:
                table = self._situation.catalogue.table(change.table)
                if change.op is not Op.DELETE or change.before is None or table is None:
                    continue
                try:
                    key = name_of(table, parse_image(table, change.before)).key
                except (SubakError, KeyError):
                    continue  # of a table that is not like this any more: its versions are left alone
                yield _Tombstone(table.name, self._dialect.row_id(key), change.stamp)

    def _bury(self, connection: Connection, tombstones: Iterable[_Tombstone]) -> int:
        """How many went. Deletes those that still stand there with that stamp. Their locks are not waited for: the application comes first."""
        count = 0
        for name, group in groupby(sorted(tombstones, key=lambda one: (one.table, one.row_id)), lambda one: one.table):
            wanted = {one.row_id: one.stamp for one in group}
            table = self._situation.catalogue.table(name)
            query: sa.Select[Any] = (
                sa.select(VERSION)
                .where(VERSION.c.TableName == name, VERSION.c.RowId.in_(list(wanted)), VERSION.c.Deleted == 1)
                .where(~_waited_for(VERSION.c.TableName, QUARANTINE_ROW.c.RowId == VERSION.c.RowId))
                .order_by(VERSION.c.RowId)
            )
            found = connection.execute(self._dialect.locking(query, VERSION, share=False, patient=False)).all()
            gone = [
                row.RowId
                for row in found
                if wanted.get(row.RowId) == Stamp(row.Stamp, row.Origin)
                and not (table and self._counts(table, row.LastImage))
            ]
            count += len(gone)
            if gone:
                connection.execute(sa.delete(VERSION).where(VERSION.c.TableName == name, VERSION.c.RowId.in_(gone)))
        return count

    def _counts(self, table: Table, last_image: str | None) -> bool:
        """Whether a tombstone holds a sum that goes on if the row is inserted again."""
        columns = self._situation.policies.rules.of(table.name).delta
        if not columns or last_image is None:
            return False
        try:
            image = parse_image(table, last_image)
        except SubakError:
            return True
        return any(Decimal(str(image.get(folded(name)) or 0)) != 0 for name in columns)

    # The rest

    def _exported(self) -> Iterator[None]:
        own = self._purge.own.get(self._situation.outlet)
        if own is None or own.epoch != self._epoch():
            return  # numbers of another epoch: nobody can tell whose
        # What an adopted copy holds for the outlet it came from is known by these rows when that one sends it.
        least = ELSEWHERE + 1 if self._situation.own.sources else ELSEWHERE
        due = (
            sa.select(CLOUD_QUERY.c.Id)
            .where(CLOUD_QUERY.c.ExportFlag == 1, CLOUD_QUERY.c.BatchNumber.between(least, own.number))
            .where(~_waited_for(CLOUD_QUERY.c.TableName, QUARANTINE_ROW.c.RowKey == CLOUD_QUERY.c.RowKey))
            .order_by(CLOUD_QUERY.c.BatchNumber, CLOUD_QUERY.c.Id)
            .limit(ROWS)
        )
        while True:
            with self._begin() as connection:
                ids = list(connection.scalars(due))
                if ids:
                    connection.execute(sa.delete(CLOUD_QUERY).where(CLOUD_QUERY.c.Id.in_(ids)))
            if not ids:
                return
            yield

    def _conflicts(self) -> Iterator[None]:
        due = sa.select(CONFLICT.c.Id).where(CONFLICT.c.Sequence <= self._purge.sequence).order_by(CONFLICT.c.Id)
        while True:
            with self._begin() as connection:
                ids = list(connection.scalars(due.limit(ROWS)))
                if ids:
                    connection.execute(sa.delete(CONFLICT).where(CONFLICT.c.Id.in_(ids)))
                    _count(connection, len(ids))
            if not ids:
                return
            yield

    def _quarantine(self) -> Iterator[None]:
        """What has left quarantine. A discarded row is remembered until it is the same again: `quarantine.differing`."""
        due = (
            sa.select(QUARANTINE.c.Id)
            .where(QUARANTINE.c.Sequence <= self._purge.sequence, QUARANTINE.c.State != quarantine.WAITING)
            .where(QUARANTINE.c.Id.not_in(quarantine.differing_entries()))
            .limit(1)
        )
        rows, position = QUARANTINE_ROW.c.QuarantineId, QUARANTINE_ROW.c.Position
        while True:
            with self._begin() as connection:
                identity = connection.scalar(due)
                left = list(connection.scalars(sa.select(position).where(rows == identity).limit(ROWS)))
                if left:
                    connection.execute(sa.delete(QUARANTINE_ROW).where(rows == identity, position.in_(left)))
                else:
                    connection.execute(sa.delete(QUARANTINE).where(QUARANTINE.c.Id == identity))
            if identity is None:
                return
            yield


def _waited_for(table: sa.ColumnElement[Any], row: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    """Whether a quarantined transaction that may yet be applied has that row: what is known of it is needed to decide it then."""
    waits = (QUARANTINE.c.Id == QUARANTINE_ROW.c.QuarantineId) & (QUARANTINE.c.State == quarantine.WAITING)
    return sa.exists().where(waits, QUARANTINE_ROW.c.TableName == table, row)


def conflicts_forgotten(connection: Connection) -> int:
    return int(connection.scalar(sa.select(STATE.c.Value).where(STATE.c.Name == CONFLICTS_FORGOTTEN)) or 0)


def _count(connection: Connection, number: int) -> None:
    total = str(conflicts_forgotten(connection) + number)
    changed = connection.execute(sa.update(STATE).where(STATE.c.Name == CONFLICTS_FORGOTTEN).values(Value=total))
    if not changed.rowcount:
        connection.execute(sa.insert(STATE).values(Name=CONFLICTS_FORGOTTEN, Value=total))


def _few(rows: Iterable[Any]) -> Iterator[Any]:
    """The first batches that have ROWS changes together, or one."""
    changes = 0
    for count, row in enumerate(rows):
        changes += row.Changes
        if count and changes > ROWS:
            return
        yield row


def _body(connection: Connection, kept: _Kept, key: tuple[Any, ...]) -> bytes:
    query = sa.select(kept.part.c.Body).where(_among(kept.part, kept.key, [key])).order_by(kept.part.c.Part)
    return b"".join(connection.scalars(query))


def _among(table: sa.Table, names: Sequence[str], keys: Sequence[tuple[Any, ...]]) -> sa.ColumnElement[bool]:
    if len(names) == 1:
        return table.c[names[0]].in_([key[0] for key in keys])
    # Not a tuple IN: SQL Server knows none, and MariaDB reads the whole table for one.
    return sa.or_(*(sa.and_(*(table.c[n] == value for n, value in zip(names, key, strict=True))) for key in keys))
