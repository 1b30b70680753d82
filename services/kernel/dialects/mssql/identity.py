"""Rows with a given IDENTITY value: the generator goes on afterwards where it stood.

SQL Server moves the generator to any greater value that is given, into the range of the outlet that the row comes from: the next row of
the application here would get a key that is that outlet's to give. So it is set back. In between nobody else may draw a number: the
table is locked for as long as the rows take, which is until the commit.

https://learn.microsoft.com/sql/t-sql/database-console-commands/dbcc-checkident-transact-sql
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection

from services.kernel.catalogue import Table
from services.kernel.dialects.mssql.expressions import literal, relation


@contextmanager
def inserting(connection: Connection, table: Table) -> Iterator[None]:
    """See `Dialect.inserting`. Does nothing for a table without an IDENTITY column."""
    if not any(column.generated for column in table.columns):
        yield
        return
    name = relation(table)
    # The lock is held to the end of the transaction; no row is read.
    connection.exec_driver_sql(f"SELECT TOP (0) 1 FROM {name} WITH (TABLOCKX, HOLDLOCK)").all()  # noqa: S608 - local catalogue
    before = _next_after(connection, name)
    connection.exec_driver_sql(f"SET IDENTITY_INSERT {name} ON")
    try:
        yield
    finally:
        connection.exec_driver_sql(f"SET IDENTITY_INSERT {name} OFF")
        if _next_after(connection, name) != before:
            # Without the N of a Unicode literal, which not every server takes here.
            connection.exec_driver_sql(f"DBCC CHECKIDENT ({literal(name)[1:]}, RESEED, {before}) WITH NO_INFOMSGS")


def _next_after(connection: Connection, name: str) -> int:
    """The value after which the generator goes on."""
    query = (
        f"SELECT CASE WHEN last_value IS NULL THEN 1 ELSE 0 END, CAST(IDENT_CURRENT({literal(name)}) AS DECIMAL(38, 0)),"  # noqa: S608
        f" CAST(IDENT_SEED({literal(name)}) AS DECIMAL(38, 0)), CAST(IDENT_INCR({literal(name)}) AS DECIMAL(38, 0))"
        f" FROM sys.identity_columns WHERE object_id = OBJECT_ID({literal(name)})"
    )
    unused, last, seed, increment = connection.exec_driver_sql(query).one()
    return int(seed - increment) if unused else int(last)
