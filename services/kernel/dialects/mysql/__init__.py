"""MySQL 8.0 or later and MariaDB 10.6 or later: one dialect that asks the server what it can do."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, FromClause, Select, literal
from sqlalchemy.engine import URL

from services.kernel.catalogue import Catalogue, Column, Table
from services.kernel.dialects import Lease, Purpose, Trigger
from services.kernel.dialects.mysql import (
    binding,
    catalogue,
    connecting,
    errors,
    expressions,
    generator,
    lease,
    server,
    triggers,
)
from services.kernel.dialects.template import statements
from services.kernel.errors import SubakError
from services.kernel.values import Value


class Mysql:
    """See `services.kernel.dialects.Dialect` for what each of these promises."""

    name = "mysql"
    schema = None
    locks_what_it_reads = True
    rights_todo = (
        "As an administrator: GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, INDEX, TRIGGER, LOCK TABLES"
        " ON <database>.* TO <user of SUBAK_DATABASE_URL>; on MySQL with binary logging (error 1419) also"
        " SET PERSIST log_bin_trust_function_creators = 1."
    )
    replace_version = statements("mysql", "replace_version")
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
        return True

    def catalogue(self, connection: Connection, patterns: Sequence[str]) -> Catalogue:
        return catalogue.read(connection, patterns)

    def triggers(self, connection: Connection, table: Table, catalogue: Catalogue, outlet: str) -> tuple[Trigger, ...]:
        return triggers.triggers(connection, table, catalogue, outlet)

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
        return self.identifier(table.name)

    def locking(self, query: Select[Any], here: FromClause, *, share: bool, patient: bool) -> Select[Any]:
        return (
            query.with_for_update(read=share, nowait=not patient)
            .with_hint(here, "FORCE INDEX (PRIMARY)", "mysql")
            .with_hint(here, "FORCE INDEX (PRIMARY)", "mariadb")
        )

    def passing(self, query: Select[Any], here: FromClause) -> Select[Any]:
        return query

    def compared(self, column: Column, value: Any) -> ColumnElement[Any]:
        return value if isinstance(value, ColumnElement) else literal(value)

    def written(self, column: Column, value: Any) -> ColumnElement[Any]:
        return self.compared(column, value)

    def inserting(self, connection: Connection, table: Table) -> AbstractContextManager[None]:
        return nullcontext()  # the server's generators skip what is taken, and stay in their class of the offset

    def keys_from(self, connection: Connection, table: Table, first: int) -> int | None:
        return generator.keys_from(connection, table, first)

    def image_sql(self, table: Table, alias: str) -> str:
        return expressions.image_sql(table, alias)

    def key_sql(self, table: Table, alias: str) -> str:
        return expressions.key_sql(table, alias)

    def wire_image(self, image: str, table: Table | None) -> str:
        return image

    def needs_table(self, image: str) -> bool:
        return False

    def row_id(self, row_key: str) -> bytes:
        return hashlib.sha256(row_key.encode()).digest()

    def bind(self, column: Column, value: Value) -> Value:
        return binding.bind(column, value)

    def classify(self, error: Exception) -> SubakError:
        return errors.classify(error)


MYSQL = Mysql()
