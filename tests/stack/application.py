"""How the application at an outlet connects to its database: as its developer would have written it, Subak unknown."""

from __future__ import annotations

from functools import cache
from typing import Any

import pyodbc
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from services.kernel.dialects.mssql.driver import with_driver
from tests.stack.words import in_tsql

SQLITE_BUSY_SECONDS = 60
LOCK_SECONDS = 60


def application_engine(url: URL, *, isolation: str | None = None) -> Engine:
    """On SQLite a transaction takes the write lock when it begins, as a careful application's does; foreign keys on."""
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, connect_args={"timeout": SQLITE_BUSY_SECONDS, "check_same_thread": False})

        @event.listens_for(engine, "connect")
        def _configure(connection: Any, _record: Any) -> None:
            connection.isolation_level = None
            connection.execute("PRAGMA foreign_keys = ON")

        @event.listens_for(engine, "begin")
        def _begin(connection: Any) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

        return engine
    if url.get_backend_name() == "mssql":
        return _mssql_engine(url, isolation or "READ COMMITTED")
    options: dict[str, Any] = {"isolation_level": isolation} if isolation else {}
    init = f"SET SESSION innodb_lock_wait_timeout = {LOCK_SECONDS}"
    return create_engine(url, connect_args={"init_command": init}, pool_pre_ping=True, **options)


@cache
def _mssql_engine(url: URL, isolation: str) -> Engine:
    """`OUTPUT` without INTO, which SQLAlchemy would use for generated keys, is refused on a table with triggers.

    One for each URL, though it be disposed of again and again: SQLAlchemy asks a server much about itself when it first connects.
    """
    engine = create_engine(with_driver(url), isolation_level=isolation, use_insertmanyvalues=False)
    engine.dialect.do_rollback = _mssql_rollback  # type: ignore[method-assign, assignment]

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        connection.execute(f"SET LOCK_TIMEOUT {LOCK_SECONDS * 1000}")
        connection.commit()

    translate(engine)
    return engine


def takes(engine: Engine, statement: str) -> bool:
    """Whether this server knows what stands there: not everything that speaks T-SQL knows all of it. Nothing is changed."""
    with engine.connect() as connection:
        try:
            connection.exec_driver_sql(statement)
        except DBAPIError:
            return False
        finally:
            connection.rollback()
    return True


def translate(engine: Engine) -> None:
    """What is executed may be in the words of SQLite and MySQL, whichever server it is."""
    if engine.dialect.name == "mssql":

        @event.listens_for(engine, "before_cursor_execute", retval=True)
        def _translate(_c: Any, _cu: Any, statement: str, values: Any, _co: Any, _many: bool) -> tuple[str, Any]:
            return in_tsql(statement), values


def _mssql_rollback(connection: Any) -> None:
    """Some errors have ended the transaction already."""
    try:
        connection.rollback()
    except pyodbc.Error as error:
        if "(3903)" not in str(error):
            raise


def reading_engine(url: URL) -> Engine:
    """For looking on from outside: one consistent snapshot per transaction, no write lock, times in UTC."""
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, connect_args={"timeout": SQLITE_BUSY_SECONDS, "check_same_thread": False})

        @event.listens_for(engine, "connect")
        def _configure(connection: Any, _record: Any) -> None:
            connection.isolation_level = None

        @event.listens_for(engine, "begin")
        def _begin(connection: Any) -> None:
            connection.exec_driver_sql("BEGIN")

        return engine
    if url.get_backend_name() == "mssql":
        return _mssql_engine(url, "SNAPSHOT")
    return create_engine(
        url,
        isolation_level="REPEATABLE READ",
        connect_args={"init_command": "SET SESSION time_zone = '+00:00'"},
        pool_pre_ping=True,
    )
