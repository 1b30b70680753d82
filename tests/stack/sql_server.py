"""A SQL Server that was started elsewhere, for tests."""

from __future__ import annotations

import os
import time
from contextlib import suppress

from pyodbc import SQL_DRIVER_NAME, SQL_DRIVER_VER
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from services.kernel.dialects.mssql.driver import with_driver

MSSQL_URL = "SUBAK_TEST_MSSQL_URL"
"""Where a SQL Server (or what speaks as one) is: mssql+pyodbc://, a login that may create and drop databases."""


DROP_SECONDS = 15.0


class SqlServer:
    """A SQL Server that somebody else started: databases are made and dropped beside the one that its URL names."""

    name = "mssql"

    def __init__(self, given: str) -> None:
        self._url = url = with_driver(make_url(given))
        self._made: dict[str, URL] = {}
        self._engine = create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
        self.version()

    def version(self) -> str:
        with self._engine.connect() as connection:
            told = str(connection.scalar(text("SELECT @@VERSION")))
            version = connection.scalar(text("SELECT CAST(SERVERPROPERTY('ProductVersion') AS NVARCHAR(40))"))
        return f"{told.splitlines()[0].partition(' - ')[0]} {version}, {_driver_of(self._url)}"

    def spares_the_application(self) -> bool:
        """Whether, of two sessions in a deadlock, the one with the lower priority goes: not every server that takes the setting heeds it."""
        with self._engine.connect() as connection:
            connection.execute(text("SET DEADLOCK_PRIORITY LOW"))
            query = "SELECT deadlock_priority FROM sys.dm_exec_sessions WHERE session_id = @@SPID"
            return int(connection.scalar(text(query))) < 0

    def create(self, database: str) -> URL:
        database = f"{database}_{os.getpid()}"  # the server may serve several runs
        self._made[database] = self._url.set(database=database)
        with self._engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE [{database}]"))
            query = "SELECT snapshot_isolation_state FROM sys.databases WHERE name = :name"
            if not connection.scalar(text(query), {"name": database}):
                connection.execute(text(f"ALTER DATABASE [{database}] SET ALLOW_SNAPSHOT_ISOLATION ON"))
        return self._made[database]

    def drop(self, url: URL) -> None:
        with self._engine.connect() as connection:
            query = (
                "SELECT session_id FROM sys.dm_exec_sessions WHERE database_id = DB_ID(:name) AND session_id <> @@SPID"
            )
            for session in connection.scalars(text(query), {"name": url.database}).all():
                with suppress(DBAPIError):  # it went by itself
                    connection.execute(text(f"KILL {int(session)}"))
            self._drop(connection, str(url.database))
        self._made.pop(str(url.database), None)

    def _drop(self, connection: Connection, database: str) -> None:
        """Sessions that were killed take a moment to go."""
        limit = time.monotonic() + DROP_SECONDS
        while True:
            try:
                connection.execute(text(f"DROP DATABASE IF EXISTS [{database}]"))
                return
            except DBAPIError:
                if time.monotonic() > limit:
                    raise
                time.sleep(0.05)

    def stop(self) -> None:
        for url in list(self._made.values()):
            self.drop(url)
        self._engine.dispose()


def _driver_of(url: URL) -> str:
    """'ODBC Driver 18 for SQL Server (msodbcsql 18.06.0002)'."""
    engine = create_engine(url, poolclass=NullPool)
    connection = engine.raw_connection()
    name, version = (connection.driver_connection.getinfo(what) for what in (SQL_DRIVER_NAME, SQL_DRIVER_VER))  # type: ignore[union-attr]
    connection.close()
    return f"{name} {version}"
