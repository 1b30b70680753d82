"""Asking a SQL Server, which may know less than another, or be told less."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, text
from sqlalchemy.exc import DBAPIError

from services.cli.statements import named
from services.kernel.catalogue import Catalogue, Table
from services.kernel.dialects import Dialect
from services.kernel.dialects.mssql.catalogue import called

SQL = named(Path(__file__).with_name("mssql.sql"))

UNKNOWN = {"missing_table", "missing_column", "denied"}
"""What a server answers that has no such thing, or does not tell this user."""


class Asking:
    def __init__(self, connection: Connection, dialect: Dialect, catalogue: Catalogue) -> None:
        self.connection = connection
        self.dialect = dialect
        self.catalogue = catalogue

    def rows(self, name: str, /, **values: object) -> Sequence[Row[Any]]:
        """What the statement of that name gives; nothing where the server does not know what is asked for."""
        try:
            return self.connection.execute(text(SQL[name]), values).all()
        except DBAPIError as error:
            self.connection.rollback()
            if self.dialect.classify(error).code in UNKNOWN:
                return []
            raise

    def one(self, name: str, /, **values: object) -> Any:
        found = self.rows(name, **values)
        return found[0][0] if found else None

    def table(self, row: Row[Any]) -> Table | None:
        """The synchronised table that the row is about."""
        return self.catalogue.table(called(row.schema_name_, row.table_name_))

    def refuses(self, sql: str) -> str | None:
        """What the server says against it; None when it would do it. It is not done either way."""
        try:
            self.connection.exec_driver_sql(sql, execution_options={"no_parameters": True})
        except DBAPIError as error:
            return said(error)
        finally:
            self.connection.rollback()
        return None


def said(error: DBAPIError) -> str:
    """Without the names of the drivers that passed it on."""
    message = str(error.orig.args[1]) if error.orig and len(error.orig.args) > 1 else str(error.orig)
    return message.rpartition("[SQL Server]")[2].partition(" (SQL")[0].removesuffix(".")
