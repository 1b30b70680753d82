"""SQLite 3.38 or later."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, FromClause, Select, literal
from sqlalchemy.engine import URL

from services.kernel.catalogue import Catalogue, Column, Table
from services.kernel.dialects import Lease, Purpose, Trigger
from services.kernel.dialects.sqlite import (
    binding,
    catalogue,
    connecting,
    errors,
    expressions,
    generator,
    lease,
    triggers,
)
from services.kernel.dialects.template import statements
from services.kernel.errors import SubakError
from services.kernel.values import Value


class Sqlite:
    """See `services.kernel.dialects.Dialect` for what each of these promises."""

    name = "sqlite"
    schema = None
    locks_what_it_reads = True
    rights_todo = "Let Subak's user write the file and its folder (SQLite keeps its journal there)."
    replace_version = statements("sqlite", "replace_version")
    one_writer = True

    def engine(self, url: URL, purpose: Purpose, *, lock_seconds: float = 1.0) -> Engine:
        return connecting.engine(url, purpose, lock_seconds)

    def server(self, connection: Connection) -> str:
        return f"SQLite {connection.exec_driver_sql('SELECT sqlite_version()').scalar()}"

    def now(self, connection: Connection) -> int:
        return int(connection.exec_driver_sql(f"SELECT {triggers.NOW}").scalar_one())

    def lease(self, url: URL, role: str) -> Lease | None:
        return lease.take(url, role)

    def scans_a_snapshot(self, connection: Connection) -> bool:
        return True

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
        return self.identifier(table.name)

    def locking(self, query: Select[Any], here: FromClause, *, share: bool, patient: bool) -> Select[Any]:
        return query  # BEGIN IMMEDIATE has locked the whole database

    def passing(self, query: Select[Any], here: FromClause) -> Select[Any]:
        return query

    def compared(self, column: Column, value: Any) -> ColumnElement[Any]:
        return value if isinstance(value, ColumnElement) else literal(value)

    def written(self, column: Column, value: Any) -> ColumnElement[Any]:
        return self.compared(column, value)

    def inserting(self, connection: Connection, table: Table) -> AbstractContextManager[None]:
        return nullcontext()  # SQLite's next rowid is the greatest plus one, whoever gave that

    def keys_from(self, connection: Connection, table: Table, first: int) -> int | None:
        return generator.keys_from(connection, table, first)

    def image_sql(self, table: Table, alias: str) -> str:
        return expressions.image_sql(table, alias)

    def key_sql(self, table: Table, alias: str) -> str:
        return expressions.key_sql(table, alias)

    def wire_image(self, image: str, table: Table | None) -> str:
        return expressions.wire_image(image)

    def needs_table(self, image: str) -> bool:
        return False

    def row_id(self, row_key: str) -> str:
        return row_key

    def bind(self, column: Column, value: Value) -> Value:
        return binding.bind(column, value)

    def classify(self, error: Exception) -> SubakError:
        return errors.classify(error)


SQLITE = Sqlite()
