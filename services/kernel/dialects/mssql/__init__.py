"""SQL Server 2017 or later, Azure SQL Database, and what speaks their protocol and T-SQL well enough."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, FromClause, Select
from sqlalchemy.engine import URL

from services.kernel.catalogue import Catalogue, Column, Table
from services.kernel.dialects import Lease, Purpose, Trigger
from services.kernel.dialects.mssql import (
    binding,
    catalogue,
    connecting,
    errors,
    expressions,
    identity,
    lease,
    rights,
    server,
    triggers,
)
from services.kernel.dialects.template import statements
from services.kernel.errors import SubakError
from services.kernel.values import Value


class Mssql:
    """See `services.kernel.dialects.Dialect` for what each of these promises."""

    name = "mssql"
    schema = connecting.SCHEMA
    locks_what_it_reads = False
    rights_todo = f"As an administrator:\n{rights.SETUP}"
    replace_version = statements("mssql", "replace_version")
    one_writer = False

    def engine(self, url: URL, purpose: Purpose, *, lock_seconds: float = 1.0) -> Engine:
        return connecting.engine(url, purpose, lock_seconds)

    def server(self, connection: Connection) -> str:
        return server.product(connection)

    def now(self, connection: Connection) -> int:
        return int(connection.exec_driver_sql(f"SELECT {triggers.NOW}").scalar_one())

    def lease(self, url: URL, role: str) -> Lease | None:
        return lease.take(url, role)

    def scans_a_snapshot(self, connection: Connection) -> bool:
        return bool(connection.info.get(connecting.SNAPSHOTS))

    def catalogue(self, connection: Connection, patterns: Sequence[str]) -> Catalogue:
        return catalogue.read(connection, patterns)

    def triggers(self, connection: Connection, table: Table, catalogue: Catalogue, outlet: str) -> tuple[Trigger, ...]:
        return triggers.triggers(connection, table, outlet)

    def installed(self, connection: Connection) -> dict[str, Trigger]:
        return triggers.installed(connection)

    def create_trigger(self, connection: Connection, trigger: Trigger) -> None:
        triggers.create(connection, trigger)

    def drop_trigger(self, connection: Connection, trigger: Trigger) -> None:
        triggers.drop(connection, trigger)

    def same(self, wanted: Trigger, there: Trigger) -> bool:
        return triggers.same(wanted, there)

    def identifier(self, name: str) -> str:
        return expressions.identifier(name)

    def relation(self, table: Table) -> str:
        return expressions.relation(table)

    def locking(self, query: Select[Any], here: FromClause, *, share: bool, patient: bool) -> Select[Any]:
        """READCOMMITTEDLOCK by way of the lock hints: what is read is what is there, whichever isolation the database is set to."""
        hints = ["REPEATABLEREAD" if share else "UPDLOCK", "ROWLOCK"]
        return query.with_hint(here, f"WITH ({', '.join(hints if patient else [*hints, 'NOWAIT'])})", "mssql")

    def passing(self, query: Select[Any], here: FromClause) -> Select[Any]:
        return query.with_hint(here, "WITH (READCOMMITTEDLOCK, ROWLOCK, READPAST)", "mssql")

    def compared(self, column: Column, value: Any) -> ColumnElement[Any]:
        return binding.compared(column, value)

    def written(self, column: Column, value: Any) -> ColumnElement[Any]:
        return binding.written(column, value)

    def inserting(self, connection: Connection, table: Table) -> AbstractContextManager[None]:
        return identity.inserting(connection, table)

    def keys_from(self, connection: Connection, table: Table, first: int) -> int | None:
        return identity.keys_from(connection, table, first)

    def image_sql(self, table: Table, alias: str) -> str:
        return expressions.image_sql(table, alias)

    def key_sql(self, table: Table, alias: str) -> str:
        return expressions.key_sql(table, alias)

    def wire_image(self, image: str, table: Table | None) -> str:
        return expressions.wire_image(image, table)

    def needs_table(self, image: str) -> bool:
        return image.startswith(expressions.ANY)

    def row_id(self, row_key: str) -> str:
        return f"{row_key}|"[:700]

    def bind(self, column: Column, value: Value) -> Value:
        return binding.bind(column, value)

    def classify(self, error: Exception) -> SubakError:
        return errors.classify(error)


MSSQL = Mssql()
