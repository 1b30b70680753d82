"""Rows with a given IDENTITY value: the generator goes on afterwards where it stood, or after what has been taken from there on.

SQL Server moves the generator to any greater value that is given, into the range of the outlet that the row comes from: the next row of
the application here would get a key that is that outlet's to give. So it is set back. In between nobody else may draw a number: the
table is locked for as long as the rows take, which is until the commit.

A rollback takes the setting back away, but not the move. So what was moved is remembered with the connection, and looked at again before
the commit (a savepoint may have been rolled back) and when the connection goes back to the pool (the transaction may have been).

https://learn.microsoft.com/sql/t-sql/database-console-commands/dbcc-checkident-transact-sql
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from services.kernel.catalogue import Table
from services.kernel.dialects.mssql.expressions import identifier, literal, relation

_MOVED = "subak_identity"
"""In a connection's `info`: the generators that were moved since its last commit, by the table's name."""

Execute = Callable[[str], Any]
"""A connection's or a cursor's: what it gives can be fetched from."""


class _Generator(NamedTuple):
    column: str
    position: int
    """The value after which it goes on."""
    increment: int


class _Moved(NamedTuple):
    before: int
    reached: int

    def is_seen(self, found: _Generator) -> bool:
        """Whether the generator is still where our rows moved it, and not where the application has drawn numbers since."""
        return found.position != self.before and (found.position - self.reached) * found.increment >= 0


@contextmanager
def inserting(connection: Connection, table: Table) -> Iterator[None]:
    """See `Dialect.inserting`. Does nothing for a table without an IDENTITY column."""
    if not any(column.generated for column in table.columns):
        yield
        return
    name = relation(table)
    execute = connection.exec_driver_sql
    generators: dict[str, _Moved] = connection.info.setdefault(_MOVED, {})
    _lock(execute, name)
    found = _generator(execute, name)
    earlier = generators.get(name)
    before = earlier.before if earlier and earlier.is_seen(found) else found.position
    execute(f"SET IDENTITY_INSERT {name} ON")
    generators[name] = _Moved(before, before)
    try:
        yield
    except BaseException:
        with suppress(DBAPIError):  # what went wrong first is what matters; the transaction may be over
            _set_back(execute, name, generators)
        raise
    _set_back(execute, name, generators)


def keys_from(connection: Connection, table: Table, first: int) -> int | None:
    """See `Dialect.keys_from`. Keys that are taken from there on are passed over."""
    if not any(column.generated for column in table.columns):
        return None
    name = relation(table)
    execute = connection.exec_driver_sql
    _lock(execute, name)
    found = _generator(execute, name)
    before = _unused(execute, name, found, first - found.increment)
    _reseed(execute, name, before if _is_used(execute, name) else before + found.increment)
    return before + found.increment


def _set_back(execute: Execute, name: str, generators: dict[str, _Moved]) -> None:
    execute(f"SET IDENTITY_INSERT {name} OFF")
    found = _generator(execute, name)
    before = _unused(execute, name, found, generators[name].before)
    generators[name] = _Moved(before, found.position)
    if found.position != before:
        _reseed(execute, name, before)


def settle(execute: Execute, info: MutableMapping[Any, Any]) -> bool:
    """To be called before a commit, and after a rollback; whether something had been moved."""
    generators: dict[str, _Moved] = info.pop(_MOVED, {})
    for name, moved in generators.items():
        execute(f"SET IDENTITY_INSERT {name} OFF")
        _lock(execute, name)
        found = _generator(execute, name)
        if moved.is_seen(found):
            _reseed(execute, name, _unused(execute, name, found, moved.before))
    return bool(generators)


def _lock(execute: Execute, name: str) -> None:
    """To the end of the transaction; no row is read."""
    execute(f"SELECT TOP (0) 1 FROM {name} WITH (TABLOCKX, HOLDLOCK)").fetchall()  # noqa: S608 - local catalogue


def _generator(execute: Execute, name: str) -> _Generator:
    """One that was never used has no last value, but gives what IDENT_CURRENT says: the seed, or what it was set to."""
    query = (
        "SELECT name, CAST(last_value AS DECIMAL(38, 0)),"  # noqa: S608 - local catalogue
        f" CAST(IDENT_CURRENT({literal(name)}) AS DECIMAL(38, 0)), CAST(IDENT_INCR({literal(name)}) AS DECIMAL(38, 0))"
        f" FROM sys.identity_columns WHERE object_id = OBJECT_ID({literal(name)})"
    )
    column, last, current, increment = execute(query).fetchone()
    return _Generator(column, int(current - increment if last is None else last), int(increment))


def _is_used(execute: Execute, name: str) -> bool:
    """Whether it has given a value yet: the one that a generator is set to is the last one given, or else the first to give."""
    query = f"SELECT last_value FROM sys.identity_columns WHERE object_id = OBJECT_ID({literal(name)})"  # noqa: S608 - local catalogue
    return execute(query).fetchone()[0] is not None


def _unused(execute: Execute, name: str, found: _Generator, before: int) -> int:
    """`before`, or the last of the taken values that follow it without a gap: what the application has drawn while the table was not
    locked, or what outlets without ranges of their own have given too. The application's next row must not meet one of them."""
    column = identifier(found.column)
    query = f"SELECT COUNT(*) FROM {name} WHERE {column} = "  # noqa: S608 - local catalogue
    while execute(f"{query}{before + found.increment}").fetchone()[0]:
        before += found.increment
    return before


def _reseed(execute: Execute, name: str, before: int) -> None:
    # Without the N of a Unicode literal, which not every server takes here.
    execute(f"DBCC CHECKIDENT ({literal(name)[1:]}, RESEED, {before}) WITH NO_INFOMSGS")
