"""Takes off the quarantine list what a change says is settled.

Most of what is quarantined is superseded by itself: once a newer image of the row is here, the older change loses on its next try, and adds to
sums what it has to add. Not so where the row here is another one under the same generated key, or where there was no row and the newer image
holds all that came before. So whoever resolves a clash (`resolving.py`) states the whole row as it shall be, as an INSERT whose base is the quarantined
change, or deletes it; and each outlet takes what this one replaces out of what it still has to do. No application can write such an INSERT: its
base is the version of a row that is there, not of one that was deleted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from services.applier import quarantine
from services.applier.deciding import GENERATED_KEY
from services.applier.parsing import Parsed
from services.applier.view import RowName
from services.kernel.catalogue import folded
from services.kernel.change import NEVER, Change, Op, Stamp
from services.kernel.dialects import Dialect
from services.kernel.schema import QUARANTINE, QUARANTINE_ROW, VERSION

ROWS = 500
"""Named in one statement: a list that every engine's planner still turns into look-ups by index."""


def take_off(connection: Connection, dialect: Dialect, changes: Sequence[Parsed]) -> set[Stamp]:
    """Part of the transaction that applies the changes, before they are decided. The stamps of those that superseded something."""
    chosen = [one for one in changes if one.change.base != NEVER and one.change.op is not Op.UPDATE]
    if (
        not chosen
        or connection.scalar(sa.select(QUARANTINE.c.Id).where(QUARANTINE.c.State.in_(quarantine.LISTED)).limit(1))
        is None
    ):
        return set()
    by_row: dict[RowName, list[Parsed]] = {}
    for one in chosen:
        by_row.setdefault(one.row, []).append(one)
    listed: dict[RowName, list[Any]] = {}
    for found in _listed(connection, dialect, chosen):
        listed.setdefault(RowName(folded(found.TableName), found.RowKey), []).append(found)
    done = set()
    for one in chosen:
        for found in _settled(connection, dialect, one, listed.get(one.row, [])):
            quarantine.hold(connection, [found.QuarantineId])  # nobody tries it again with what is taken off
            _remove(connection, found)
            done.add(one.change.stamp)
    return done


def _listed(connection: Connection, dialect: Dialect, changes: Sequence[Parsed]) -> list[Any]:
    """The rows in entries that wait, or were discarded, that the changes are about."""
    ids = sorted({dialect.row_id(one.row.key) for one in changes})
    found: list[Any] = []
    for start in range(0, len(ids), ROWS):
        query = (
            sa.select(QUARANTINE_ROW, QUARANTINE.c.Code, QUARANTINE.c.Sequence)
            .join(QUARANTINE, QUARANTINE.c.Id == QUARANTINE_ROW.c.QuarantineId)
            .where(QUARANTINE.c.State.in_(quarantine.LISTED), QUARANTINE_ROW.c.RowId.in_(ids[start : start + ROWS]))
        )
        found += connection.execute(query)
    return found


def _settled(connection: Connection, dialect: Dialect, one: Parsed, listed: list[Any]) -> list[Any]:
    """Of what is quarantined about that row, what the author of the change knew of."""
    if not listed:
        return []
    change, version = one.change, _version(connection, dialect, one)
    bases = [found for found in listed if _stamp(found) == change.base]
    if bases and all(found.Code != GENERATED_KEY for found in bases):
        if version is not None:
            return []
        # An outlet's older changes of a row are known to whoever knows a newer one of that outlet.
        return [found for found in listed if found.Origin == change.base.origin and found.Stamp <= change.base.time]
    if bases:
        states_all = all(_op(connection, found) is not Op.DELETE for found in bases)
    else:  # the other of the two rows under one generated key is here, and the base is its version
        here = version is not None and not version.Deleted and _stamp(version) == change.base
        states_all = here and one.table.generated_key
    generated = [found for found in listed if found.Code == GENERATED_KEY and _stamp(found) < change.stamp]
    return generated if states_all and change.op is Op.INSERT else []


def _stamp(row: Any) -> Stamp:
    return Stamp(row.Stamp, row.Origin)


def _version(connection: Connection, dialect: Dialect, one: Parsed) -> Any:
    row_id = dialect.row_id(one.row.key)
    query = sa.select(VERSION).where(VERSION.c.TableName == one.table.name, VERSION.c.RowId == row_id)
    return connection.execute(query).first()


def _op(connection: Connection, listed: Any) -> Op:
    entries = (entry for state in quarantine.LISTED for entry in quarantine.waiting(connection, state))
    entry = next(entry for entry in entries if entry.id == listed.QuarantineId)
    change: Change = quarantine.whole(connection, entry).changes[listed.Position]
    return change.op


def _remove(connection: Connection, listed: Any) -> None:
    connection.execute(
        sa.delete(QUARANTINE_ROW).where(
            QUARANTINE_ROW.c.QuarantineId == listed.QuarantineId, QUARANTINE_ROW.c.Position == listed.Position
        )
    )
