"""Stamps that a clock ahead has given are taken back, as long as nobody else has seen them.

A stamp decides who wins a row. What was stamped an hour ahead would beat everybody's changes for an hour; therefore capture holds
it. Once the clock is right, such changes get the stamps that they should have had: the time that it is now, past the version that they
overwrote, and past whatever has lost against them here, so that they win at the other outlets what they won here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, func, select, update

from services.capture import state
from services.kernel.change import Stamp
from services.kernel.dialects import Dialect
from services.kernel.schema import CLOUD_QUERY, CONFLICT, VERSION

ROUNDS = 5
"""The application may write such a row meanwhile: then that row is looked at again, so often at most."""


class Ahead(NamedTuple):
    """A change that is in no batch yet, and is stamped too far ahead."""

    id: int
    stamp: int
    base: Stamp


@dataclass(frozen=True)
class Restamped:
    """`changes` got new stamps; `left` are ahead still: they follow, in their row, a change that is out already."""

    changes: int
    left: int


def restamp(engine: Engine, dialect: Dialect, limit: int) -> Restamped:
    """All changes that wait and are stamped more than `limit` µs ahead of the database's clock, which is taken for right.

    `engine` is of Purpose.WRITE. Neither of the outlet's services may run. Each row is one transaction.
    """
    changes = left = 0
    for _ in range(ROUNDS):
        with engine.begin() as connection:
            now = dialect.now(connection)
            outlet = state.read(connection).get(state.OUTLET, "")
            rows = _ahead(connection, now + limit)
            lost = _lost(connection, outlet, now + limit)
        done = 0
        for (table, key), chain in rows.items():
            new = renewed(chain, outlet, now, lost.get((table, key), {}))
            if new:
                with engine.begin() as connection:
                    done += _write(connection, dialect, outlet, (table, key), chain, new)
        changes += done
        left = sum(len(chain) for chain in rows.values()) - done
        if not left or not done:
            break
    return Restamped(changes, left)


def renewed(chain: Sequence[Ahead], outlet: str, now: int, lost: Mapping[int, int]) -> dict[int, int]:
    """Old stamps to new ones, for the changes of one row in their order. Pure.

    `lost`: by the stamp of a change made here, the greatest stamp that has lost against it here. A change that was only pushed past
    a version that others have seen stays as it is.
    """
    new: dict[int, int] = {}
    for one in chain:
        base = new.get(one.base.time) if one.base.origin == outlet else None
        if base is None and one.stamp == one.base.time + 1:
            continue
        stamp = max(now, (one.base.time if base is None else base) + 1, lost.get(one.stamp, 0) + 1)
        if stamp < one.stamp:
            new[one.stamp] = stamp
    return new


def _ahead(connection: Connection, limit: int) -> dict[tuple[str, str], list[Ahead]]:
    """By table and row key."""
    query = (
        select(CLOUD_QUERY)
        .with_only_columns(
            CLOUD_QUERY.c.Id,
            CLOUD_QUERY.c.TableName,
            CLOUD_QUERY.c.RowKey,
            CLOUD_QUERY.c.Stamp,
            CLOUD_QUERY.c.BaseStamp,
            CLOUD_QUERY.c.BaseOrigin,
        )
        .where(CLOUD_QUERY.c.Stamp > limit, CLOUD_QUERY.c.ExportFlag == 0, CLOUD_QUERY.c.BatchNumber.is_(None))
        .order_by(CLOUD_QUERY.c.Id)
    )
    found: dict[tuple[str, str], list[Ahead]] = {}
    for number, table, key, stamp, base_stamp, base_origin in connection.execute(query):
        found.setdefault((table, key), []).append(Ahead(number, stamp, Stamp(base_stamp, base_origin)))
    return found


def _lost(connection: Connection, outlet: str, limit: int) -> dict[tuple[str, str], dict[int, int]]:
    """By table and row key: by the stamp of a change made here, the greatest stamp that met it in a conflict."""
    columns = (CONFLICT.c.TableName, CONFLICT.c.RowKey, CONFLICT.c.LocalStamp)
    query = (
        select(*columns, func.max(CONFLICT.c.IncomingStamp))
        .where(CONFLICT.c.LocalOrigin == outlet, CONFLICT.c.LocalStamp > limit)
        .where(CONFLICT.c.IncomingStamp < CONFLICT.c.LocalStamp)
        .group_by(*columns)
    )
    found: dict[tuple[str, str], dict[int, int]] = {}
    for table, key, stamp, other in connection.execute(query):
        found.setdefault((table, key), {})[stamp] = other
    return found


def _write(
    connection: Connection,
    dialect: Dialect,
    outlet: str,
    row: tuple[str, str],
    chain: Sequence[Ahead],
    new: Mapping[int, int],
) -> int:
    """The number of changes that have new stamps now: none when the application has changed the row meanwhile."""
    table, key = row
    here = (VERSION.c.TableName == table) & (VERSION.c.RowId == dialect.row_id(key))
    query = dialect.locking(select(VERSION).where(here), VERSION, share=False, patient=True)
    version = connection.execute(query).first()  # who changes the row waits from here on
    if version is not None:
        if version.Origin == outlet and version.Stamp > chain[-1].stamp:
            return 0
        values = _renewed_version(version, outlet, new)
        if values:
            connection.execute(update(VERSION).where(here).values(**values))
    done = 0
    for one in chain:
        values = {}
        if one.stamp in new:
            values["Stamp"] = new[one.stamp]
        if one.base.origin == outlet and one.base.time in new:
            values["BaseStamp"] = new[one.base.time]
        if values:
            connection.execute(update(CLOUD_QUERY).where(CLOUD_QUERY.c.Id == one.id).values(**values))
            done += "Stamp" in values
    return done


def _renewed_version(version: Any, outlet: str, new: Mapping[int, int]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if version.Origin == outlet and version.Stamp in new:
        values["Stamp"] = new[version.Stamp]
    if version.BaseOrigin == outlet and version.BaseStamp in new:
        values["BaseStamp"] = new[version.BaseStamp]
    if version.ColumnStamps is not None:
        values["ColumnStamps"] = _renewed_columns(version.ColumnStamps, outlet, new)
    return values


def _renewed_columns(text: str, outlet: str, new: Mapping[int, int]) -> str:
    """When each column was written, as the applier wrote it down: {"at": stamp, "rest": stamp, "of": {column: stamp}}."""

    def renewed(stamp: list[Any]) -> list[Any]:
        return [new.get(stamp[0], stamp[0]) if stamp[1] == outlet else stamp[0], stamp[1]]

    found = json.loads(text)
    of = {name: renewed(stamp) for name, stamp in found["of"].items()}
    return json.dumps({"at": renewed(found["at"]), "rest": renewed(found["rest"]), "of": of}, separators=(",", ":"))
