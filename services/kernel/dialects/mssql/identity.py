"""Rows with a given IDENTITY value: the generator goes on afterwards where it stood.

SQL Server moves the generator to any greater value that is given, into the range of the outlet that the row comes from: the next row of
the application here would get a key that is that outlet's to give. So it is set back. In between nobody else may draw a number: the
table is locked for as long as the rows take, which is until the commit.

https://learn.microsoft.com/sql/t-sql/database-console-commands/dbcc-checkident-transact-sql
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from services.kernel.catalogue import Table
from services.kernel.dialects.mssql.expressions import identifier, literal, relation


@contextmanager
def inserting(connection: Connection, table: Table) -> Iterator[None]:
    """See `Dialect.inserting`. Does nothing for a table without an IDENTITY column."""
    column = next((column for column in table.columns if column.immutable), None)
    if column is None:
        yield
        return
    name = relation(table)
    # The lock is held to the end of the transaction; no row is read.
    connection.exec_driver_sql(f"SELECT TOP (0) 1 FROM {name} WITH (TABLOCKX, HOLDLOCK)").all()  # noqa: S608 - local catalogue
    before = _generator(connection, name)
    connection.exec_driver_sql(f"SET IDENTITY_INSERT {name} ON")
    try:
        yield
    except BaseException:
        with suppress(DBAPIError):  # the error may have ended the transaction; the session must not keep its setting
            _set_back(connection, name, identifier(column.name), before)
        raise
    _set_back(connection, name, identifier(column.name), before)


class _Generator(NamedTuple):
    last: int
    """The value after which it goes on."""
    increment: int


def _set_back(connection: Connection, name: str, column: str, before: _Generator) -> None:
    connection.exec_driver_sql(f"SET IDENTITY_INSERT {name} OFF")
    last = _last_before_a_gap(connection, name, column, before)
    if _generator(connection, name).last != last:
        # Without the N of a Unicode literal, which not every server takes here.
        connection.exec_driver_sql(f"DBCC CHECKIDENT ({literal(name)[1:]}, RESEED, {last}) WITH NO_INFOMSGS")


def _last_before_a_gap(connection: Connection, name: str, column: str, before: _Generator) -> int:
    """Where it stood, or at the end of the row of taken values that begins there: outlets without ranges of their own give the
    same values, and the application's next row must not meet one that came from elsewhere."""
    beyond, order = (">", "ASC") if before.increment > 0 else ("<", "DESC")
    query = (
        f"SELECT TOP (1) c.value FROM (SELECT CAST({before.last} AS DECIMAL(38, 0)) AS value"  # noqa: S608 - local catalogue
        f" UNION ALL SELECT CAST({column} AS DECIMAL(38, 0)) FROM {name} WHERE {column} {beyond} {before.last}) AS c"
        f" WHERE NOT EXISTS (SELECT 1 FROM {name} WHERE {column} = c.value + {before.increment}) ORDER BY c.value {order}"
    )
    return int(connection.exec_driver_sql(query).scalar() or 0)


def _generator(connection: Connection, name: str) -> _Generator:
    query = (
        f"SELECT CASE WHEN last_value IS NULL THEN 1 ELSE 0 END, CAST(IDENT_CURRENT({literal(name)}) AS DECIMAL(38, 0)),"  # noqa: S608
        f" CAST(IDENT_SEED({literal(name)}) AS DECIMAL(38, 0)), CAST(IDENT_INCR({literal(name)}) AS DECIMAL(38, 0))"
        f" FROM sys.identity_columns WHERE object_id = OBJECT_ID({literal(name)})"
    )
    unused, last, seed, increment = connection.exec_driver_sql(query).one()
    return _Generator(int(seed - increment) if unused else int(last), int(increment))
