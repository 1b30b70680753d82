"""Transactions that cannot be applied here: kept whole, with the reason, and tried again when the cause may have passed.

The changes themselves stay where the ledger keeps the batch (`subak_ledger_part`); a quarantine names the batch and the
transaction's position in it, and lists the rows concerned, so that a newer image of such a row is known to supersede it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import sqlalchemy as sa
from msgspec.structs import replace
from sqlalchemy import Connection

from services.applier.view import name_of
from services.kernel.catalogue import Catalogue
from services.kernel.change import Change, Op, Transaction, decode_body
from services.kernel.dialects import Dialect
from services.kernel.errors import PermanentError, SubakError, TransientError
from services.kernel.schema import LEDGER_PART, QUARANTINE, QUARANTINE_ROW, VERSION
from services.kernel.values import parse_image

WAITING = "waiting"
APPLIED = "applied"
DISCARDED = "discarded"

LISTED = (WAITING, DISCARDED)
"""States of entries whose rows still count, and whose batch is kept therefore: a decision made elsewhere knows nothing of what was discarded here."""

UNREADABLE = "unreadable"
"""The code of a batch whose changes cannot be told: no rows are listed."""

MISFITS = frozenset({"missing_table", "missing_column", "policy"})
"""Codes of what waits for a table here to be altered, or for the conflict rules to be."""


@dataclass
class Quarantined:
    """One entry. Times are in microseconds since 1970 UTC."""

    id: int
    sequence: int
    position: int
    origin: str
    code: str
    reason: str
    state: str
    attempts: int
    at: int
    tables: frozenset[str]
    """The tables of its rows, as named here."""


def put(
    connection: Connection,
    dialect: Dialect,
    catalogue: Catalogue,
    transaction: Transaction,
    *,
    sequence: int,
    position: int,
    origin: str,
    error: SubakError,
    now: int,
    left: Transaction | None = None,
) -> None:
    """`left`: of the transaction, what this outlet has not got already; None: all."""
    inserted = connection.execute(
        sa.insert(QUARANTINE).values(
            Sequence=sequence,
            Position=position,
            Origin=origin,
            Code=error.code,
            Reason=f"{error.what} {error.todo}".strip(),
            State=WAITING,
            Attempts=1,
            QuarantinedAt=now,
        )
    )
    (identity,) = inserted.inserted_primary_key or (None,)
    _enlist(connection, dialect, catalogue, transaction, identity, left)


def _enlist(
    connection: Connection,
    dialect: Dialect,
    catalogue: Catalogue,
    transaction: Transaction,
    identity: int | None,
    left: Transaction | None = None,
) -> None:
    wanted = set((left or transaction).changes)
    rows = [
        {
            "QuarantineId": identity,
            "Position": index,
            "TableName": table,
            "RowId": dialect.row_id(key),
            "RowKey": key,
            "Stamp": change.stamp.time,
            "Origin": change.stamp.origin,
        }
        for index, change in enumerate(transaction.changes)
        if change in wanted
        for table, key in [_row(change, catalogue)]
    ]
    if rows:
        connection.execute(sa.insert(QUARANTINE_ROW), rows)


def _row(change: Change, catalogue: Catalogue) -> tuple[str, str]:
    """The row's table and key as they are named here; as its origin names them where they cannot be told here."""
    table = catalogue.table(change.table)
    image = change.before if change.op is Op.DELETE else change.after
    if table is None or image is None:
        return change.table, change.key
    try:
        return table.name, name_of(table, parse_image(table, image)).key
    except Exception:  # what cannot be read is what is being put aside
        return table.name, change.key


def waiting(connection: Connection, state: str = WAITING) -> list[Quarantined]:
    """The entries in that state, oldest first."""
    tables: dict[int, set[str]] = {}
    rows = sa.select(QUARANTINE_ROW.c.QuarantineId, QUARANTINE_ROW.c.TableName).distinct()
    chosen = sa.select(QUARANTINE.c.Id).where(QUARANTINE.c.State == state)
    for found in connection.execute(rows.where(QUARANTINE_ROW.c.QuarantineId.in_(chosen))):
        tables.setdefault(found.QuarantineId, set()).add(found.TableName)
    query = sa.select(QUARANTINE).where(QUARANTINE.c.State == state).order_by(QUARANTINE.c.Id)
    return [
        Quarantined(
            found.Id,
            found.Sequence,
            found.Position,
            found.Origin,
            found.Code,
            found.Reason,
            found.State,
            found.Attempts,
            found.QuarantinedAt,
            frozenset(tables.get(found.Id, ())),
        )
        for found in connection.execute(query)
    ]


def count(connection: Connection) -> int:
    query = sa.select(sa.func.count()).select_from(QUARANTINE).where(QUARANTINE.c.State == WAITING)
    return connection.scalar(query) or 0


def body(connection: Connection, sequence: int) -> bytes:
    """The bytes of an applied batch, from the ledger."""
    query = sa.select(LEDGER_PART.c.Body).where(LEDGER_PART.c.Sequence == sequence).order_by(LEDGER_PART.c.Part)
    return b"".join(connection.scalars(query))


def whole(connection: Connection, entry: Quarantined) -> Transaction:
    """The quarantined transaction itself. Raises PermanentError `unreadable`."""
    try:
        return decode_body(body(connection, entry.sequence))[entry.position]
    except msgspec.DecodeError as error:
        raise PermanentError(UNREADABLE, f"The batch cannot be read: {error}.", "Run the newer Subak here.") from error


def transaction_of(connection: Connection, entry: Quarantined) -> Transaction:
    """The same, without what has been superseded meanwhile (`superseding.py`). Raises PermanentError `unreadable`."""
    transaction = whole(connection, entry)
    if entry.code == UNREADABLE:
        return transaction
    left = set(
        connection.scalars(sa.select(QUARANTINE_ROW.c.Position).where(QUARANTINE_ROW.c.QuarantineId == entry.id))
    )
    return replace(transaction, changes=tuple(one for i, one in enumerate(transaction.changes) if i in left))


def hold(connection: Connection, identities: Sequence[int]) -> None:
    """Until the transaction ends nobody else decides about these entries: the service and an operator's command may both be at one."""
    for identity in sorted(identities):
        connection.execute(sa.update(QUARANTINE).where(QUARANTINE.c.Id == identity).values(State=QUARANTINE.c.State))


def find(connection: Connection, identity: int) -> Quarantined:
    """The waiting entry of that number. Raises PermanentError `quarantine`."""
    for entry in waiting(connection):
        if entry.id == identity:
            return entry
    raise PermanentError(
        "quarantine", f"No transaction {identity} waits in quarantine here.", "`subak quarantine list` shows which do."
    )


def settle(connection: Connection, identity: int, state: str, now: int) -> None:
    """Marks a waiting entry as applied or discarded. Raises TransientError `raced` when somebody else has done so meanwhile."""
    waits = (QUARANTINE.c.Id == identity) & (QUARANTINE.c.State == WAITING)
    if connection.execute(sa.update(QUARANTINE).where(waits).values(State=state, DecidedAt=now)).rowcount != 1:
        raise TransientError("raced", "Somebody else has decided about that transaction at the same moment.")


def discard(connection: Connection, identity: int, now: int) -> Quarantined:
    """Gives a transaction up: its rows stay different here until somebody writes them again (`differing`). Raises PermanentError."""
    entry = find(connection, identity)
    settle(connection, identity, DISCARDED, now)
    return entry


def differing() -> sa.Select[Any]:
    """QuarantineId, TableName and RowKey of what was discarded and has not been written again since, here or elsewhere."""
    row, version = QUARANTINE_ROW.c, VERSION.c
    older = sa.or_(
        version.Stamp.is_(None),
        version.Stamp < row.Stamp,
        sa.and_(version.Stamp == row.Stamp, version.Origin < row.Origin),
    )
    same_row = sa.and_(version.TableName == row.TableName, version.RowId == row.RowId)
    return (
        sa.select(row.QuarantineId, row.TableName, row.RowKey)
        .join_from(QUARANTINE_ROW, QUARANTINE, QUARANTINE.c.Id == row.QuarantineId)
        .outerjoin(VERSION, same_row)
        .where(QUARANTINE.c.State == DISCARDED, older)
    )


def differing_entries() -> sa.Select[Any]:
    """The Ids of the discarded entries with such a row."""
    return sa.select(differing().subquery().c.QuarantineId)


def failed_again(
    connection: Connection, dialect: Dialect, catalogue: Catalogue, entry: Quarantined, error: SubakError
) -> None:
    """It waits on, for the reason that holds now."""
    if entry.code == UNREADABLE and error.code != UNREADABLE:
        _enlist(connection, dialect, catalogue, transaction_of(connection, entry), entry.id)
    connection.execute(
        sa.update(QUARANTINE)
        .where(QUARANTINE.c.Id == entry.id)
        .values(Attempts=QUARANTINE.c.Attempts + 1, Code=error.code, Reason=f"{error.what} {error.todo}".strip())
    )


def touches(entry: Quarantined, tables: Sequence[str], catalogue: Catalogue) -> bool:
    """Whether writes to `tables` may have removed the reason: they hold its rows, or parents or children of these."""
    related = set(entry.tables)
    for table in catalogue.tables:
        for foreign_key in table.foreign_keys:
            if table.name in entry.tables:
                related.add(foreign_key.parent)
            if foreign_key.parent in entry.tables:
                related.add(table.name)
    return not related.isdisjoint(tables)
